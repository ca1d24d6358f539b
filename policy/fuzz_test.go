package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

func FuzzTable(f *testing.F) {
	for _, seed := range []string{
		"", "# only\n", "a.example OK\n", "a.example REJECT one\n  two\n", "\"john doe\"@x.example 550 5.1.1 no\n",
		"<> REJECT\n", "192.0.2.0/24 OK\n192.0.2.1 REJECT\n", "2001:db8::/32 421 4.7.0 bye\n", "a@ permit_mynetworks, reject\n",
		"a HOLD\na HOLD\n", " continued\n", "a PREPEND X: y\n", "bücher.example OK", "\"unclosed OK\n", "a 5.1.1\r\n", "[::1] OK", "a FILTER smtp:[h]:25\n", "a REDIRECT b@c.example\n", "a BCC b\n", "a HANGUP\n", "a sleep 5, reject\n",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	chain, err := Build(Config{}, nil, deps(&fixture{}))
	if err != nil {
		f.Fatal(err)
	}
	b := &builder{chain: chain, known: restrictionTable()}
	tx := transaction("s@sender.example", "alice@example.com")
	f.Fuzz(func(t *testing.T, content string, cidr bool) {
		kind := table.KindText
		if cidr {
			kind = table.KindCIDR
		}
		actions := reader{b, scope{list: ListSender, about: aboutSender}}
		use := table.Use{Value: func(text string) ([]string, error) {
			action, mistake := actions.action(Pos{}, text)
			if mistake != nil {
				return nil, mistake
			}
			v := action.answer(aboutSender, tx)
			if v.Action == mail.Reject {
				r := wire(v, false)
				if !r.Transient() && !r.Permanent() || r.Enhanced[0] != r.Code/100 || len(r.String()) > maxReplyOctets {
					t.Errorf("%q answers %q", text, r)
				}
			}
			return []string{text}, nil
		}}
		_, err := (&table.Opener{}).Parse(kind, "t", strings.NewReader(content), use)
		var mistakes table.Mistakes
		if err != nil && (!errors.As(err, &mistakes) || len(mistakes) == 0) {
			t.Fatalf("error %v is not Mistakes", err)
		}
	})
}

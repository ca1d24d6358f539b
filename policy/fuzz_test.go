package policy

import (
	"errors"
	"testing"

	"github.com/postern-mail/postern/mail"
)

func FuzzTable(f *testing.F) {
	for _, seed := range []string{
		"", "# only\n", "a.example OK\n", "a.example REJECT one\n  two\n", "\"john doe\"@x.example 550 5.1.1 no\n",
		"<> REJECT\n", "192.0.2.0/24 OK\n192.0.2.1 REJECT\n", "2001:db8::/32 421 4.7.0 bye\n", "a@ permit_mynetworks, reject\n",
		"a HOLD\na HOLD\n", " continued\n", "a PREPEND X: y\n", "bücher.example OK", "\"unclosed OK\n", "a 5.1.1\r\n", "[::1] OK",
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
		kind := tableText
		if cidr {
			kind = tableCIDR
		}
		table, err := parseTable(kind, "t", []byte(content), b.compiler(scope{ListSender, aboutSender, false}))
		var mistakes Mistakes
		switch {
		case err != nil && (!errors.As(err, &mistakes) || len(mistakes) == 0):
			t.Fatalf("error %v is not Mistakes", err)
		case err != nil:
			return
		}
		for key, action := range table.text {
			if key == "" || key != canonicalKey(key) {
				t.Errorf("key %q is not canonical: %q", key, canonicalKey(key))
			}
			v := action.answer(aboutSender, tx)
			if v.Action == mail.Reject {
				r := wire(v, false)
				if !r.Transient() && !r.Permanent() || r.Enhanced[0] != r.Code/100 || len(r.String()) > maxReplyOctets {
					t.Errorf("%q answers %q", key, r)
				}
			}
		}
	})
}

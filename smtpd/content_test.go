package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// reader is a stage that looks into messages.
type reader struct {
	name string
	look func(context.Context, *mail.Transaction) (mail.Verdict, error)
}

func (r reader) Name() string     { return r.name }
func (r reader) InspectsMessage() {}

func (r reader) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	return r.look(ctx, tx)
}

// asking returns a handler whose content list has the stages, with their on_error
// behind a space.
func asking(t testing.TB, q *fakeQueue, audit Auditor, stages map[string]func(context.Context, *mail.Transaction) (mail.Verdict, error), list ...string) (*Handler, *content.Spool) {
	t.Helper()
	spool, err := content.OpenSpool(content.SpoolConfig{Dir: filepath.Join(t.TempDir(), "tmp"), MaxMessageMemory: 1, MaxOctets: 4 << 20}, fsx.OS())
	if err != nil {
		t.Fatal(err)
	}
	lists := policy.DefaultMX()
	made := map[string]func(policy.Spec) (policy.Stage, error){}
	for _, entry := range list {
		name, onError, _ := strings.Cut(entry, " ")
		spec := policy.Spec{Name: name}
		if onError != "" {
			spec.Args = map[string][]string{"on_error": {onError}}
		}
		lists[policy.ListContent] = append(lists[policy.ListContent], spec)
		made[name] = func(policy.Spec) (policy.Stage, error) { return reader{name, stages[name]}, nil }
	}
	directory := &fakeDirectory{}
	chain, err := policy.Build(policy.Config{ContentTimeout: time.Minute}, lists, policy.Deps{
		Domains: directory, Recipients: directory, Owners: directory, Audit: audit, Logger: hclog.NewNullLogger(), Stages: made,
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Hostname: "mx.example.com", Service: "mx"}, Deps{
		Policy: chain, Domains: directory, Recipients: directory, Queue: q, Audit: audit, Logger: hclog.NewNullLogger(), Spool: spool,
	})
	if err != nil {
		t.Fatal(err)
	}
	h.newID = q.newID
	return h, spool
}

// deliver sends one message and returns the reply.
func deliver(t testing.TB, h *Handler, text io.Reader, to ...string) status.Reply {
	t.Helper()
	s, err := h.NewSession(t.Context(), &mail.Client{Helo: "client.example", Extended: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(nil)
	tx, err := s.Mail(t.Context(), smtp.MailCommand{ReversePath: mailAddress("s@sender.example")})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range to {
		if err := tx.Rcpt(t.Context(), smtp.RcptCommand{ForwardPath: mailAddress(a)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Data(t.Context()); err != nil {
		t.Fatal(err)
	}
	replies, err := tx.Content(t.Context(), text)
	if err != nil {
		return status.ReplyOf(err)
	}
	return replies[0]
}

// withoutTrace takes off the fields that this server adds.
func withoutTrace(text string) string {
	at := strings.Index(text, "Received: ")
	end := at
	for end < len(text) {
		end += strings.Index(text[end:], "\r\n") + 2
		if end == len(text) || text[end] != '\t' {
			break
		}
	}
	return text[:at] + text[end:]
}

func permits(context.Context, *mail.Transaction) (mail.Verdict, error) { return mail.Verdict{}, nil }

func edits(list ...mail.Edit) func(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return func(context.Context, *mail.Transaction) (mail.Verdict, error) {
		return mail.Verdict{Edits: list}, nil
	}
}

type stages = map[string]func(context.Context, *mail.Transaction) (mail.Verdict, error)

// TestContentPathKeepsMessages: what is looked into goes on octet by octet as
// what streams does, but for an empty line where a header did not end.
func TestContentPathKeepsMessages(t *testing.T) {
	t.Parallel()
	large := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 300)
	for name, text := range map[string]string{
		"usual":                           "From: a@b\r\nSubject: x\r\n y\r\n\r\nbody\r\n.\r\n",
		"header only":                     "From: a@b\r\n",
		"empty":                           "",
		"no header":                       "hello\r\nthere\r\n",
		"empty header":                    "\r\nbody\r\n",
		"eight bits, NUL":                 "Subject: \xff\x00\r\n\r\n\x00\xfe\r\n",
		"large":                           "Subject: x\r\n\r\n" + large,
		"long header":                     "X: " + strings.Repeat("y", 90000) + "\r\nA: b\r\n\r\n" + large,
		"header beyond what is looked at": strings.Repeat("X-Field: "+strings.Repeat("y", 900)+"\r\n", 250) + "\r\n" + large,
	} {
		var got [2]string
		for i, list := range [][]string{{}, {"look"}} {
			q := &fakeQueue{}
			h, spool := asking(t, q, silent{}, stages{"look": permits}, list...)
			if r := deliver(t, h, iotest.HalfReader(strings.NewReader(text)), "alice@example.com"); r.Code != 250 {
				t.Fatalf("%s: %v", name, r)
			}
			got[i] = withoutTrace(q.contents[0])
			if all, _ := spool.Octets(); all != 0 {
				t.Errorf("%s: %d octets are left in the spool", name, all)
			}
		}
		if got[0] != got[1] {
			t.Errorf("%s: streamed %.200q, looked into %.200q", name, got[0], got[1])
		}
	}
}

// TestHeadersAcrossBuffers: wherever in a field the first look at a long header
// ends, the header ends at its empty line.
func TestHeadersAcrossBuffers(t *testing.T) {
	t.Parallel()
	field := "X-Field-Name: " + strings.Repeat("y", 980) + "\r\n"
	for shift := range 40 {
		text := "X: " + strings.Repeat("z", 785+shift) + "\r\n" + strings.Repeat(field, 150) + "\r\nbody\r\n"
		q := &fakeQueue{}
		fields := 0
		h, _ := asking(t, q, silent{}, stages{"look": func(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) {
			fields = len(tx.Message.Fields())
			return mail.Verdict{}, nil
		}}, "look")
		if r := deliver(t, h, strings.NewReader(text), "alice@example.com"); r.Code != 250 {
			t.Fatal(r)
		}
		if got := withoutTrace(q.contents[0]); got != text || fields != 152 {
			t.Errorf("shift %d: %d fields, %d octets of %d", shift, fields, len(got), len(text))
		}
	}
}

func TestStagesSeeTheMessage(t *testing.T) {
	t.Parallel()
	q := &fakeQueue{}
	var seen []string
	see := func(_ context.Context, tx *mail.Transaction) (mail.Verdict, error) {
		m := tx.Message
		body, err := io.ReadAll(m.Body())
		if err != nil {
			return mail.Verdict{}, err
		}
		names := ""
		for _, f := range m.Fields()[m.Ours():] {
			names += string(f) + ";"
		}
		seen = append(seen, fmt.Sprintf("%d %s %s %s", m.Ours(), m.Fields()[m.Ours()-1].Name(), names, body))
		return mail.Verdict{}, nil
	}
	h, _ := asking(t, q, silent{}, stages{
		"one":   see,
		"two":   edits(mail.Edit{PrependHeader: "X-Two: 2"}, mail.Edit{Insert: &mail.InsertField{At: 99, Field: "X-End: e"}}, mail.Edit{Body: strings.NewReader("new\nbody")}),
		"three": see,
	}, "one", "two", "three")
	if r := deliver(t, h, strings.NewReader("Subject: x\r\n\r\nold\r\n"), "alice@example.com"); r.Code != 250 {
		t.Fatal(r)
	}
	want := []string{"1 Received Subject: x; old\r\n", "2 Received Subject: x;X-End: e; new\r\nbody\r\n"}
	if strings.Join(seen, "|") != strings.Join(want, "|") {
		t.Errorf("seen %q", seen)
	}
	if got := withoutTrace(q.contents[0]); got != "X-Two: 2\r\nSubject: x\r\nX-End: e\r\n\r\nnew\r\nbody\r\n" {
		t.Errorf("accepted %q", got)
	}
}

func TestEnvelopeEdits(t *testing.T) {
	t.Parallel()
	address := func(s string) *mail.Address { a := mailAddress(s); return &a }
	for _, tt := range []struct {
		name  string
		edits []mail.Edit
		want  string // from, recipients; or the reply
	}{
		{"none", nil, "<s@sender.example> alice@example.com bob@example.com"},
		{"reverse-path", []mail.Edit{{ReversePath: address("new@sender.example")}}, "<new@sender.example> alice@example.com bob@example.com"},
		{"null reverse-path", []mail.Edit{{ReversePath: &mail.Address{}}}, "<> alice@example.com bob@example.com"},
		{"add", []mail.Edit{{Add: &mail.Recipient{Address: mailAddress("x@far.example")}}}, "<s@sender.example> alice@example.com bob@example.com x@far.example"},
		{"add a group", []mail.Edit{{Add: &mail.Recipient{Address: mailAddress("staff@example.com")}}}, "<s@sender.example> alice@example.com bob@example.com friend@far.example"},
		{"copy", []mail.Edit{{Copy: address("x@far.example")}}, "<s@sender.example> alice@example.com bob@example.com x@far.example/never"},
		{"copy to one who has it", []mail.Edit{{Copy: address("sales@example.com")}}, "<s@sender.example> alice@example.com bob@example.com"},
		{"remove", []mail.Edit{{Remove: address("sales@example.com")}}, "<s@sender.example> bob@example.com"},
		{"remove a stranger", []mail.Edit{{Remove: address("carol@example.com")}}, "<s@sender.example> alice@example.com bob@example.com"},
		{"remove, then add", []mail.Edit{{Add: &mail.Recipient{Address: mailAddress("x@far.example")}}, {Remove: address("bob@example.com")}}, "<s@sender.example> alice@example.com x@far.example"},
		{"remove all", []mail.Edit{{Remove: address("sales@example.com")}, {Remove: address("BOB@example.com")}}, "250 nobody"},
		{"redirect", []mail.Edit{{Copy: address("x@far.example")}, {Redirect: address("sales@example.com")}}, "<s@sender.example> alice@example.com"},
		{"route", []mail.Edit{{Route: &mail.Route{Transport: "filter", NextHop: "127.0.0.1:10025"}}}, "<s@sender.example> alice@example.com@filter bob@example.com@filter"},
		{"redirect outranks route", []mail.Edit{{Redirect: address("x@far.example")}, {Route: &mail.Route{Transport: "filter"}}}, "<s@sender.example> x@far.example"},
		{"add somebody unknown", []mail.Edit{{Add: &mail.Recipient{Address: mailAddress("nobody@example.com")}}}, "451"},
		{"directory down", []mail.Edit{{Copy: address("carol@example.com")}}, "451"},
		{"redirect to somebody disabled", []mail.Edit{{Redirect: address("gone@example.com")}}, "451"},
	} {
		q := &fakeQueue{}
		h, _ := asking(t, q, silent{}, stages{"edit": edits(tt.edits...)}, "edit")
		r := deliver(t, h, strings.NewReader("Subject: x\r\n\r\nx\r\n"), "sales@example.com", "bob@example.com")
		got := fmt.Sprint(r.Code)
		if len(q.accepted) == 1 {
			e := q.accepted[0].Envelope
			got = e.ReversePath.Path()
			for _, to := range e.Recipients {
				got += " " + to.Address.String()
				if to.Notify == mail.NotifyNever {
					got += "/never"
				}
				if to.Route.Transport != "" {
					got += "@" + to.Route.Transport
				}
			}
		} else if r.Code == 250 {
			got += " nobody"
		}
		if got != tt.want || q.staged != 0 {
			t.Errorf("%s: got %s, want %s; %d staged", tt.name, got, tt.want, q.staged)
		}
	}
}

// TestContentDecides: what stages say, and what goes wrong with them.
func TestContentDecides(t *testing.T) {
	t.Parallel()
	refuse := func(reason status.Reason) func(context.Context, *mail.Transaction) (mail.Verdict, error) {
		return func(context.Context, *mail.Transaction) (mail.Verdict, error) {
			return mail.Verdict{Action: mail.Reject, Reason: reason}, nil
		}
	}
	act := func(a mail.Action) func(context.Context, *mail.Transaction) (mail.Verdict, error) {
		return func(context.Context, *mail.Transaction) (mail.Verdict, error) { return mail.Verdict{Action: a}, nil }
	}
	wait := func(ctx context.Context, _ *mail.Transaction) (mail.Verdict, error) {
		<-ctx.Done()
		return mail.Verdict{}, ctx.Err()
	}
	half := edits(mail.Edit{PrependHeader: "X-Half: 1"}, mail.Edit{Change: &mail.ChangeField{At: 99}})
	fails := func(context.Context, *mail.Transaction) (mail.Verdict, error) {
		return mail.Verdict{}, errors.New("out of order")
	}
	for _, tt := range []struct {
		name, stage string
		look        func(context.Context, *mail.Transaction) (mail.Verdict, error)
		want        string
	}{
		{"refuses", "s", refuse(status.PolicyReject), "554"},
		{"defers", "s", refuse(status.PolicyDefer), "450"},
		{"holds", "s", act(mail.Hold), "250 held"},
		{"throws away", "s", act(mail.Discard), "250 gone"},
		{"fails", "s", fails, "451"},
		{"fails, holds", "s hold", fails, "250 held"},
		{"fails, shuts down", "s shutdown", fails, "421"},
		{"fails, is overlooked", "s dunno", fails, "250"},
		{"takes too long", "s", wait, "451"},
		{"takes too long, is not overlooked", "s dunno", wait, "451"},
		{"edits that cannot be", "s", half, "451"},
		{"edits that cannot be, overlooked", "s dunno", half, "250"},
	} {
		synctest.Test(t, func(t *testing.T) { // where a minute is soon over
			q := &fakeQueue{}
			h, spool := asking(t, q, silent{}, stages{"s": tt.look}, tt.stage)
			r := deliver(t, h, strings.NewReader("Subject: x\r\n\r\n"+strings.Repeat("x\r\n", 50000)), "alice@example.com")
			got := fmt.Sprint(r.Code)
			switch {
			case r.Code != 250:
			case len(q.accepted) == 0:
				got += " gone"
			case q.accepted[0].Hold:
				got += " held"
			}
			if got != tt.want || q.staged != 0 {
				t.Errorf("%s: got %s, want %s; %d staged", tt.name, got, tt.want, q.staged)
			}
			for _, text := range q.contents {
				if strings.Contains(text, "X-Half") {
					t.Errorf("%s: half of an edit is done", tt.name)
				}
			}
			if all, memory := spool.Octets(); all != 0 || memory != 0 {
				t.Errorf("%s: %d octets are left in the spool", tt.name, all)
			}
		})
	}
}

// TestContentPathFaults: nothing of a message that did not arrive whole, or has
// no room, is accepted.
func TestContentPathFaults(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x\r\n", 100000)
	for _, tt := range []struct {
		name string
		text io.Reader
		want int
	}{
		{"lost in the header", io.MultiReader(strings.NewReader("Subject: x\r\n"), iotest.ErrReader(status.New(status.ConnectionLost, nil))), status.ConnectionLost.Reply().Code},
		{"lost in the body", io.MultiReader(strings.NewReader("Subject: x\r\n\r\n"+large), iotest.ErrReader(status.New(status.ConnectionLost, nil))), status.ConnectionLost.Reply().Code},
		{"too large", io.MultiReader(strings.NewReader("\r\n"), iotest.ErrReader(status.New(status.MessageTooBig, nil))), 552},
		{"beyond the spool", strings.NewReader("Subject: x\r\n\r\n" + strings.Repeat(large, 20)), 452},
	} {
		q := &fakeQueue{}
		asked := 0
		h, spool := asking(t, q, silent{}, stages{"s": func(context.Context, *mail.Transaction) (mail.Verdict, error) {
			asked++
			return mail.Verdict{}, nil
		}}, "s")
		if r := deliver(t, h, tt.text, "alice@example.com"); r.Code != tt.want {
			t.Errorf("%s: %v", tt.name, r)
		}
		if all, memory := spool.Octets(); all != 0 || memory != 0 || q.staged != 0 || len(q.accepted) != 0 || asked != 0 {
			t.Errorf("%s: %d octets in the spool, %d staged, %d accepted, asked %d times", tt.name, all, q.staged, len(q.accepted), asked)
		}
	}
}

// BenchmarkMessageLookedInto is BenchmarkMessage with a content list.
func BenchmarkMessageLookedInto(b *testing.B) {
	q := &fakeQueue{forget: true}
	h, _ := asking(b, q, silent{}, stages{"look": permits}, "look")
	body := "From: a\r\nTo: b\r\nSubject: c\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 70)
	b.ReportAllocs()
	for b.Loop() {
		if r := deliver(b, h, strings.NewReader(body), "alice@example.com"); r.Code != 250 {
			b.Fatal(r)
		}
	}
}

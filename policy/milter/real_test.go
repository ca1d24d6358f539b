package milter

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

var (
	clamAV   = testenv.NewShared(testenv.ClamAV)
	rspamd   = testenv.NewShared(testenv.Rspamd)
	openDKIM = testenv.NewShared(func(t testing.TB) *testenv.OpenDKIMServer { return testenv.OpenDKIM(t, "192.0.2.7") })
)

// real returns a client of a real filter.
func real(t *testing.T, socket string, change func(*Config)) *Milter {
	t.Helper()
	cfg := Config{Name: "real", Network: "unix", Address: socket, Hostname: "mx.example.com", Software: "Postern"}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg, hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, m)
	return m
}

// session goes through sessions with one message each, all of which pass.
func (d *dialogue) session(times int) {
	d.t.Helper()
	m := d.a.(*attendance).m
	for range times {
		next := m.dialogue(d.t)
		if v := next.all(); v.Action != mail.Dunno || v.Detail != "" || len(next.verdicts) != 6 || m.breaker.Failures() != 0 {
			d.t.Errorf("a session: %+v", next.verdicts)
		}
		next.a.Close()
	}
}

func fieldsNamed(l *letter, name string) []string {
	var values []string
	for _, f := range l.fields {
		if f.Is(name) {
			values = append(values, f.Unfolded())
		}
	}
	return values
}

func TestClamAV(t *testing.T) {
	t.Parallel()
	s := clamAV.Get(t)
	m := real(t, s.Milter, nil)
	m.dialogue(t).session(2)
	d := m.dialogue(t)
	if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("a clean message: %+v", v)
	}
	if got := fieldsNamed(d.message, "X-Virus-Status"); !slices.Equal(got, []string{"Clean"}) {
		t.Errorf("X-Virus-Status %q", got)
	}
	// A body of several packets, the virus at the border of two.
	d.message = newLetter()
	d.message.body = strings.Repeat("x", maxChunk-10) + s.Infected + strings.Repeat("y", 2*maxChunk)
	if v := d.transaction(); v.Reason != status.FilterRejected || v.WireReply().String() != "550 5.7.1 Infected: "+s.Virus {
		t.Errorf("an infected message: %+v, %v", v, v.WireReply())
	}
	d.message = newLetter()
	if v := d.transaction(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("the message after it: %+v", v)
	}
}

// The scanner hangs: the milter does not answer in time, mail is put off, and
// goes on when it is back.
func TestClamAVHangs(t *testing.T) {
	t.Parallel()
	s := testenv.ClamAV(t)
	m := real(t, s.Milter, func(c *Config) { c.ContentTimeout = 300 * time.Millisecond })
	d := m.dialogue(t)
	s.Filter.Pause()
	m.cfg.CommandTimeout = 300 * time.Millisecond
	if v := d.all(); v.Reason != status.FilterDown || !v.WireReply().Transient() {
		t.Errorf("while it hangs: %+v", v)
	}
	s.Filter.Resume()
	m.cfg.CommandTimeout, m.cfg.ContentTimeout = 2*time.Minute, 2*time.Minute
	if v := d.transaction(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("when it is back: %+v", v)
	}
	s.Scanner.Kill()
	d.message.body = s.Infected
	if v := d.transaction(); v.Action != mail.Reject || !v.WireReply().Transient() {
		t.Errorf("without the scanner behind it: %+v", v)
	}
}

// What OpenDKIM signs, it verifies when it comes back.
func TestOpenDKIM(t *testing.T) {
	t.Parallel()
	s := openDKIM.Get(t)
	m := real(t, s.Milter, nil)
	d := m.dialogue(t)
	d.message.fields = []mail.Field{
		"Received: by mx.example.com", "From: alice@example.com", "To: b@example.org",
		"Subject: folded\r\n\tsubject", "Date: Sun, 22 Nov 2026 05:00:00 +0000", "Message-ID: <1@example.com>",
	}
	d.message.body = strings.Repeat("A line of text\r\n", 10_000)
	if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
		t.Fatalf("signing: %+v", v)
	}
	signatures := fieldsNamed(d.message, "DKIM-Signature")
	if len(signatures) != 1 || !strings.Contains(signatures[0], "d="+s.Domain) {
		t.Fatalf("signatures %q", signatures)
	}
	if d.message.fields[0] != "Received: by mx.example.com" || !d.message.fields[1].Is("DKIM-Signature") {
		t.Errorf("the signature does not stand below our trace: %q", d.message.fields)
	}
	for want, change := range map[string]func(){
		"dkim=pass": func() {},
		"dkim=fail": func() { d.message.body += "one line more\r\n" },
	} {
		signed := letter{fields: slices.Clone(d.message.fields), ours: 1, body: d.message.body}
		change()
		back := m.dialogue(t)
		back.message = &letter{fields: signed.fields, ours: 1, body: d.message.body}
		d.message = &signed
		back.tx.Client.Remote = netip.MustParseAddrPort("203.0.113.9:25")
		// The client of the test's dialogue is set anew at each step.
		if v := back.all(); v.Action != mail.Dunno || v.Detail != "" {
			t.Errorf("%s: %+v", want, v)
		}
		results := fieldsNamed(back.message, "Authentication-Results")
		if len(results) != 1 || !strings.Contains(results[0], s.AuthservID) || !strings.Contains(results[0], want) {
			t.Errorf("want %s: %q", want, results)
		}
	}
}

// What is to be signed can also be told by a macro, for clients of all networks.
func TestOpenDKIMSignsByMacro(t *testing.T) {
	t.Parallel()
	s := openDKIM.Get(t)
	for name, want := range map[string]int{testenv.Originating: 1, "incoming": 0} {
		d := real(t, s.Milter, func(c *Config) { c.Macros = map[string]string{"daemon_name": name} }).dialogue(t)
		d.tx.Client.Remote = netip.MustParseAddrPort("203.0.113.9:25")
		d.message.fields = []mail.Field{"Received: by mx.example.com", "From: alice@example.com", "Date: Sun, 22 Nov 2026 05:00:00 +0000"}
		if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
			t.Errorf("%s: %+v", name, v)
		}
		if got := fieldsNamed(d.message, "DKIM-Signature"); len(got) != want {
			t.Errorf("%s: signatures %q, want %d", name, got, want)
		}
	}
}

func TestRspamdProxy(t *testing.T) {
	t.Parallel()
	s := rspamd.Get(t)
	m := real(t, s.Milter, func(c *Config) { c.MaxIdle = 1 })
	m.dialogue(t).session(2) // on one connection
	d := m.dialogue(t)
	ask := func(fields ...mail.Field) mail.Verdict {
		d.message = newLetter()
		d.message.fields = append(d.message.fields, fields...)
		return d.transaction()
	}
	d.step(mail.PhaseConnect)
	d.step(mail.PhaseHelo)
	if v := ask(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("a message: %+v", v)
	}
	if v := ask("X-Want: reject", "X-Want-Message: not here"); v.Action != mail.Reject || v.WireReply().String() != "554 5.7.1 not here" {
		t.Errorf("reject: %+v, %v", v, v.WireReply())
	}
	if v := ask("X-Want: soft reject", "X-Want-Message: later"); v.Action != mail.Reject || v.WireReply().String() != "451 4.7.1 later" {
		t.Errorf("soft reject: %+v, %v", v, v.WireReply())
	}
	if v := ask("X-Want: quarantine"); v.Action != mail.Hold {
		t.Errorf("quarantine: %+v", v)
	}
	if v := ask("X-Want: discard"); v.Action != mail.Discard {
		t.Errorf("discard: %+v", v)
	}
	if v := ask("X-Want: add header"); v.Action != mail.Dunno || len(fieldsNamed(d.message, "X-Spam")) != 1 {
		t.Errorf("add header: %+v, %q", v, d.message.fields)
	}
	v := ask("X-Want-Edits: yes", "X-Remove: 1", "X-Remove: 2")
	if v.Action != mail.Dunno || len(fieldsNamed(d.message, "X-Remove")) != 0 || !slices.Equal(fieldsNamed(d.message, "X-Added"), []string{"one"}) {
		t.Errorf("edits: %+v, %q", v, d.message.fields)
	}
	var from, added string
	for _, e := range v.Edits {
		if e.ReversePath != nil {
			from = e.ReversePath.String()
		}
		if e.Add != nil {
			added = e.Add.Address.String()
		}
	}
	if from != "changed@example.com" || added != "carol@example.com" {
		t.Errorf("reverse-path %q, recipient %q", from, added)
	}
}

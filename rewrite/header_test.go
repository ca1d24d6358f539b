package rewrite

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// upper is a change that shows every address it is given.
func upper(_ context.Context, a mail.Address, class Class) (mail.Address, error) {
	if a.Domain == "" {
		a.Domain = "bare"
	}
	a.Domain = mail.Domain(strings.ReplaceAll(string(class), "_", "-") + "." + string(a.Domain))
	return a, nil
}

func keep(_ context.Context, a mail.Address, _ Class) (mail.Address, error) { return a, nil }

func TestHeaderIsLossless(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"From: a@b\r\n":                                 "From: a@S.b\r\n",
		"TO :\tA@B  \r\n":                               "TO :\tA@R.b  \r\n",
		"From: root\r\n":                                "From: root@S.bare\r\n",
		"From: root (The (\\) super) user)\r\n":         "From: root@S.bare (The (\\) super) user)\r\n",
		"From: John Smith\r\n":                          "From: John Smith\r\n",
		"From: <>\r\n":                                  "From: <>\r\n",
		"From:\r\n":                                     "From:\r\n",
		"From: \"Smith, John\" <j@s.example>\r\n":       "From: \"Smith, John\" <j@S.s.example>\r\n",
		"From: \"x <y@z>\" <j@s.example>\r\n":           "From: \"x <y@z>\" <j@S.s.example>\r\n",
		"From: =?utf-8?q?J=C3=B6rg?= <j@s.example>\r\n": "From: =?utf-8?q?J=C3=B6rg?= <j@S.s.example>\r\n",
		"From: J\u00f6rg <j@s.example>\r\n":             "From: J\u00f6rg <j@S.s.example>\r\n",
		"To: a@b,\r\n\t\"B\"\r\n <b@c> (x),d\r\n":       "To: a@R.b,\r\n\t\"B\"\r\n <b@R.c> (x),d@R.bare\r\n",
		"Cc: friends: a@b, c@d;, e@f\r\n":               "Cc: friends: a@R.b, c@R.d;, e@R.f\r\n",
		"To: undisclosed-recipients:;\r\n":              "To: undisclosed-recipients:;\r\n",
		"To: \"a b\"@c, \"a\\\"b\"@c\r\n":               "To: \"a b\"@R.c, \"a\\\"b\"@R.c\r\n",
		"To: <@r1,@r2:a@b>\r\n":                         "To: <@r1,@r2:a@R.b>\r\n",
		"To: a @ b . c\r\n":                             "To: a@R.b.c\r\n",
		"To: a(comment)@b, <c@(x)d>\r\n":                "To: a(comment)@b, <c@(x)d>\r\n",
		"To: a@b c@d, e@f\r\n":                          "To: a@b c@d, e@R.f\r\n",
		"To: <a@b> <c@d>, e@f\r\n":                      "To: <a@b> <c@d>, e@R.f\r\n",
		"To: \"unclosed <a@b>\r\n":                      "To: \"unclosed <a@b>\r\n",
		"To: (unclosed a@b\r\n":                         "To: (unclosed a@b\r\n",
		"To: <a@b\r\n":                                  "To: <a@b\r\n",
		"To: a@[192.0.2.1], b@[x\r\n":                   "To: a@[192.0.2.1], b@[x\r\n",
		"Subject: a@b\r\n":                              "Subject: a@b\r\n",
		"Subject: x\r\n From: a@b\r\n":                  "Subject: x\r\n From: a@b\r\n",
		"X-From: a@b\r\nno colon\r\nFrom: a@b\r\n":      "X-From: a@b\r\nno colon\r\nFrom: a@S.b\r\n",
		"\r\nFrom: a@b\r\n":                             "\r\nFrom: a@b\r\n",
		"Sender: a@b\r\nReply-To: a@b\r\nErrors-To: <a@b>\r\nBcc: a@b\r\nResent-From: a@b\r\nResent-To: a@b\r\nMessage-ID: <a@b>\r\n\r\nFrom: a@b\r\n": "Sender: a@S.b\r\nReply-To: a@S.b\r\nErrors-To: <a@S.b>\r\nBcc: a@R.b\r\nResent-From: a@S.b\r\nResent-To: a@R.b\r\nMessage-ID: <a@b>\r\n\r\nFrom: a@b\r\n",
		"From: a@b": "From: a@S.b",
	} {
		want := strings.NewReplacer("@S.", "@header-sender.", "@R.", "@header-recipient.").Replace(want)
		got, err := header(t.Context(), []byte(in), upper)
		if got == nil {
			got = []byte(in)
		}
		if err != nil || string(got) != want {
			t.Errorf("%q becomes\n%q, %v; want\n%q", in, got, err, want)
		}
		if got, err := header(t.Context(), []byte(in), keep); got != nil || err != nil {
			t.Errorf("%q is written again where nothing changes: %q, %v", in, got, err)
		}
	}
}

// TestLongLinesAreFolded: a header that grows keeps its lines within what SMTP
// carries.
func TestLongLinesAreFolded(t *testing.T) {
	t.Parallel()
	var list []string
	for i := range 40 {
		list = append(list, fmt.Sprintf("user%d@b", i))
	}
	got, err := header(t.Context(), []byte("To: "+strings.Join(list, ",")+"\r\nX: y\r\n"), func(_ context.Context, a mail.Address, _ Class) (mail.Address, error) {
		a.Domain = mail.Domain(strings.Repeat("sub.", 40) + "example")
		return a, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(got) {
		if len(line) > 998 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
	found, _, ok := specs(bytes.TrimPrefix(bytes.TrimSuffix(got, []byte("X: y\r\n")), []byte("To:")))
	if !ok || len(found) != len(list) {
		t.Errorf("%d addresses are left", len(found))
	}
}

func TestWhoseHeader(t *testing.T) {
	t.Parallel()
	const in, local, remote = "From: ann\r\nTo: a@host\r\n", "From: ann@example.com\r\nTo: a@host.example.com\r\n", "From: ann@far.invalid\r\nTo: a@host.far.invalid\r\n"
	own := &mail.Client{Identity: &mail.Identity{Authentication: "ann"}}
	near := &mail.Client{Remote: netip.MustParseAddrPort("192.0.2.7:1234")}
	mapped := &mail.Client{Remote: netip.MustParseAddrPort("[::ffff:192.0.2.7]:1234")}
	far := &mail.Client{Remote: netip.MustParseAddrPort("203.0.113.7:1234")}
	for name, row := range map[string]struct {
		client *mail.Client
		remote mail.Domain
		want   string
	}{
		"logged in":             {own, "", local},
		"from our network":      {near, "", local},
		"mapped":                {mapped, "far.invalid", local},
		"a stranger":            {far, "", ""},
		"a stranger, rewritten": {far, "far.invalid", remote},
		"without address":       {&mail.Client{}, "", ""},
	} {
		cfg := config()
		cfg.AppendDomain, cfg.RemoteDomain = "example.com", row.remote
		got, err := rewriter(t, cfg).Header(t.Context(), row.client, []byte(in))
		if err != nil || string(got) != row.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, row.want)
		}
	}
}

func TestHeaderOutage(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Canonical = Map{[]table.Table{down{}}, []Class{HeaderSender}}
	client := &mail.Client{Identity: &mail.Identity{}}
	if got, err := rewriter(t, cfg).Header(t.Context(), client, []byte("From: a@b.example\r\n")); status.Of(err) != status.DirectoryDown {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := rewriter(t, cfg).Header(t.Context(), client, []byte("To: a@b.example\r\n")); got != nil || err != nil {
		t.Errorf("a field of another class: %q, %v", got, err)
	}
}

// TestHeaderPatience: tables that always answer get no more time than others.
func TestHeaderPatience(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Canonical = Map{[]table.Table{file(t, "texthash:", "x@b.example y@b.example\n")}, []Class{HeaderSender}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := rewriter(t, cfg).Header(ctx, &mail.Client{Identity: &mail.Identity{}}, []byte("From: a@b.example\r\n")); status.Of(err) != status.DirectoryDown {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSection(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		read  string
		whole bool
		want  string
	}{
		{"A: b\r\n\r\nbody", false, "A: b\r\n"},
		{"A: b\r\n\r\nbody", true, "A: b\r\n"},
		{"\r\nbody", true, ""},
		{"A: b\r\nC: d\r\n", true, "A: b\r\nC: d\r\n"},
		{"A: b\r\nC: d", true, "A: b\r\nC: d"},
		{"A: b\r\nC: d", false, "A: b\r\n"},
		{"A: b\r\nC: d\r\n", false, "A: b\r\n"},
		{"A: b\r\n c\r\n", false, ""},
		{"A: b\r\nC: d\r\n e", false, "A: b\r\n"},
		{"", true, ""},
		{"", false, ""},
	} {
		if got := Section([]byte(row.read), row.whole); string(got) != row.want {
			t.Errorf("Section(%q, %t) = %q, want %q", row.read, row.whole, got, row.want)
		}
	}
}

// FuzzHeader: what is no address stays octet by octet, and what was changed is
// read back as changed.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{
		"From: a@b\r\nTo: \"x, y\" <c@d>, friends: e@f;, g (h)\r\n\r\nbody", "To: <@a,@b:c@d>\r\n e@f\r\n", "From: =?x?q?y?= <\"a b\"@c>\r\n", "Cc: a\\b@c, d@[1.2.3.4]\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, section []byte) {
		if got, err := header(t.Context(), section, keep); got != nil || err != nil {
			t.Fatalf("%q was changed to %q, %v", section, got, err)
		}
		var given []mail.Address
		note := func(_ context.Context, a mail.Address, _ Class) (mail.Address, error) {
			given = append(given, a)
			return mail.Address{Local: "new", Domain: "x.example"}, nil
		}
		got, err := header(t.Context(), section, note)
		if err != nil || (got == nil) != (len(given) == 0) && !onlyNew(given) {
			t.Fatalf("%q: %q, %v with %d addresses", section, got, err, len(given))
		}
		if got == nil {
			return
		}
		before := len(given)
		if _, err := header(t.Context(), got, note); err != nil {
			t.Fatal(err)
		}
		for _, a := range given[before:] {
			if a != (mail.Address{Local: "new", Domain: "x.example"}) {
				t.Fatalf("%q became %q, which holds %s", section, got, a)
			}
		}
	})
}

func onlyNew(list []mail.Address) bool {
	for _, a := range list {
		if a != (mail.Address{Local: "new", Domain: "x.example"}) {
			return false
		}
	}
	return true
}

func BenchmarkHeaderUnchanged(b *testing.B) {
	cfg := config()
	cfg.Canonical = Map{[]table.Table{text(b, "x@example.com y@example.com")}, all}
	r := rewriter(b, cfg)
	client := &mail.Client{Identity: &mail.Identity{}}
	section := []byte("Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\nFrom: \"Ann\" <ann@example.com>\r\nTo: bob@example.org, carol@example.org\r\nSubject: hello\r\nMessage-ID: <1@example.com>\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if got, err := r.Header(b.Context(), client, section); got != nil || err != nil {
			b.Fatal(err)
		}
	}
}

package imapd

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/utf7"
)

func TestMailboxNames(t *testing.T) {
	t.Parallel()
	for wire, want := range map[string]string{
		"INBOX":                "INBOX",
		"inbox":                "INBOX",
		"inBox/Sub":            "INBOX/Sub",
		"inboxes":              "inboxes",
		"Entw&APw-rfe":         "Entwürfe",
		"a&-b":                 "a&b",
		"&U,BTFw-/&ZeVnLIqe-":  "台北/日本語",
		"&2D3eAA-":             "😀",
		"Entwürfe":             "Entwürfe",
		"Cafe\u0301":           "Caf\u00e9",
		"~peter/mail/&ZeVnLA-": "~peter/mail/日本",
	} {
		if got, err := mailboxName(wire); err != nil || got != want {
			t.Errorf("mailboxName(%q) = %q, %v; want %q", wire, got, err, want)
		}
	}
	for _, wire := range []string{"", "/a", "a//b", "a&b", "&", "&AAA-", "&2D0-", "&3gA-", "&!!!-", "a\x7fb", "\xff", strings.Repeat("x", 2000), "&AAo-"} {
		if got, err := mailboxName(wire); err == nil {
			t.Errorf("mailboxName(%q) = %q, want an error", wire, got)
		}
	}
}

func FuzzModifiedUTF7(f *testing.F) {
	for _, s := range []string{"INBOX", "Entwürfe & Co", "😀/日本", "&-", "", "a&b-c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := utf7.Decode(s); err != nil && err != utf7.ErrEncoding {
			t.Fatalf("utf7.Decode(%q): %v", s, err)
		}
		if !utf8.ValidString(s) {
			return
		}
		wire := utf7.Encode(s)
		if strings.ContainsFunc(wire, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("utf7.Encode(%q) = %q is not printable ASCII", s, wire)
		}
		back, err := utf7.Decode(wire)
		if err != nil || back != s {
			t.Fatalf("%q -> %q -> %q, %v", s, wire, back, err)
		}
	})
}

func TestPattern(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		reference, pattern, name string
		want                     bool
	}{
		{"", "*", "a/b/c", true},
		{"", "%", "a", true},
		{"", "%", "a/b", false},
		{"", "%/%", "a/b", true},
		{"", "a*c", "a/b/c", true},
		{"", "a%c", "a/b/c", false},
		{"", "a%c", "abbbc", true},
		{"a/", "%", "a/b", true},
		{"a/", "%", "b", false},
		{"", "inbox", "INBOX", true},
		{"", "InB%", "INBOX", true},
		{"", "inb%", "inbred", true},
		{"", "INB%", "inbred", false},
		{"", "inbox/*", "INBOX/x", true},
		{"inbox/", "%", "INBOX/x", true},
		{"", "*%", "a/b", true},
		{"", "%*", "a/b", true},
		{"", "%%", "a/b", false},
		{"", "*b", "ab", true},
		{"", "*b", "aba", false},
		{"", "a", "a/b", false},
		{"", "*/b", "a/c/b", true},
		{"", "a%/b", "a/b", true},
	} {
		if got := newPattern(tt.reference, tt.pattern).match(tt.name); got != tt.want {
			t.Errorf("%q+%q matches %q: %v, want %v", tt.reference, tt.pattern, tt.name, got, tt.want)
		}
	}
}

// A pattern that is exponential for a backtracking matcher takes no time here.
func TestPatternIsLinear(t *testing.T) {
	t.Parallel()
	p := newPattern("", strings.Repeat("*a", 400)+"*b")
	name := strings.Repeat("a", 1000)
	matched := make(chan bool, 1)
	go func() { matched <- p.match(name) }()
	select {
	case yes := <-matched:
		if yes {
			t.Error("pattern matches")
		}
	case <-time.After(soon):
		t.Error("the match does not end")
	}
}

// FuzzPattern compares the matcher with a plain recursive one on small inputs.
func FuzzPattern(f *testing.F) {
	f.Add("a*%b/", "aab/")
	f.Fuzz(func(t *testing.T, pat, name string) {
		if len(pat) > 8 || len(name) > 8 || strings.ContainsAny(pat+name, "iI") {
			return
		}
		if got, want := newPattern("", pat).match(name), slowMatch(pat, name); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pat, name, got, want)
		}
	})
}

func slowMatch(pat, name string) bool {
	if pat == "" {
		return name == ""
	}
	switch c := pat[0]; {
	case c == '*' || c == '%':
		return slowMatch(pat[1:], name) || name != "" && (c == '*' || name[0] != '/') && slowMatch(pat, name[1:])
	default:
		return name != "" && name[0] == c && slowMatch(pat[1:], name[1:])
	}
}

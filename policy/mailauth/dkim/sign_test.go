package dkim

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-mail/postern/mail"
)

func TestSignedFields(t *testing.T) {
	t.Parallel()
	fields, body := split("Received: by x\r\nFrom: a@example.com\r\nSubject: s\r\nList-Id: <l>\r\nX-Other: y\r\nTo: b@example.net\r\n\r\nhello\r\n")
	for _, row := range []struct {
		opts Options
		want string
	}{
		{Options{Headers: []string{"Subject", "List-Id", "Cc"}, Oversigned: []string{"From", "Subject", "cc"}}, "from:from:subject:subject:list-id:cc"},
		{Options{Headers: []string{"from", "subject", "x-none"}, Oversigned: []string{}}, "from:subject"},
	} {
		made, err := newSigner(t, row.opts).Sign(fields, strings.NewReader(body), "", newKey(t, "Example.COM", "ED", edKey()))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseSignature(made[0].Value())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.Headers, ":"); got != row.want {
			t.Errorf("signed %s, want %s", got, row.want)
		}
		if s.Domain != "example.com" || s.Selector != "ed" {
			t.Errorf("d=%s s=%s", s.Domain, s.Selector)
		}
	}
}

// TestLines sees that no line of a field is longer than RFC 5322 likes, and that
// what is folded verifies in both canonical forms.
func TestLines(t *testing.T) {
	t.Parallel()
	domain := strings.Repeat("abcdefgh.", 8) + "example.com"
	z := zone{"rsa._domainkey." + domain: {recordOf(t, rsaKey())}}
	fields, body := split("From: a@example.com\r\nTo: b\r\nTo: c\r\nSubject: a\r\n b\r\n\r\nhello\r\n")
	for _, opts := range []Options{{}, {SimpleHeader: true}, {SimpleBody: true}, {SimpleHeader: true, SimpleBody: true}} {
		made, err := newSigner(t, opts).Sign(fields, strings.NewReader(body), "a b=;@"+domain, newKey(t, domain, "rsa", rsaKey()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(made[0]), "\r\n") {
			if len(line) > 78 && !strings.Contains(line, domain) {
				t.Errorf("line of %d octets: %q", len(line), line)
			}
		}
		if got := verify(t, Config{}, z, append(made, fields...), body); got[0].Result != Pass {
			t.Errorf("%+v: %s %q of\n%s", opts, got[0].Result, got[0].Reason, made[0])
		}
	}
}

func TestWhatCannotBeSigned(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{
		{Headers: []string{"Received"}}, {Headers: []string{"DKIM-Signature"}}, {Headers: []string{"a b"}}, {Headers: []string{""}},
		{Headers: []string{"from"}, Oversigned: []string{"subject"}}, {Validity: -1},
	} {
		if _, err := NewSigner(opts); err == nil {
			t.Errorf("%+v is accepted", opts)
		}
	}
	signer, key := newSigner(t, Options{}), newKey(t, "example.com", "ed", edKey())
	if _, err := signer.Sign([]mail.Field{"To: b"}, strings.NewReader(""), "", key); !errors.Is(err, ErrNoFrom) {
		t.Errorf("without From: %v", err)
	}
	many := slices.Repeat([]mail.Field{"From: a"}, 600)
	if _, err := signer.Sign(many, strings.NewReader(""), "", key); !errors.Is(err, ErrTooMany) {
		t.Errorf("with many From: %v", err)
	}
	broken := iotest.ErrReader(errors.New("disk"))
	if _, err := signer.Sign(many[:1], broken, "", key); err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("from a broken disk: %v", err)
	}
	for _, name := range [][2]string{{"example", "s"}, {"example.com", ""}, {"example.com", "a b"}, {"exa mple.com", "s"}} {
		if _, err := NewKey(name[0], name[1], edKey()); err == nil {
			t.Errorf("%v is accepted", name)
		}
	}
}

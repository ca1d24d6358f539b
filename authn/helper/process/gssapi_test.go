package process

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/authn/gssapi"
)

func TestChosen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		choice        string
		want          gssapi.Outcome
		authorization string
	}{
		{"\x01\x00\x00\x00", gssapi.Accepted, ""},
		{"\x01\x00\x00\x00alice", gssapi.Accepted, "alice"},
		{"\x01\x00\xff\xff\xc3\xbc", gssapi.Accepted, "ü"}, // a size some clients write, which means nothing
		{"", gssapi.Refused, ""},
		{"\x01\x00\x00", gssapi.Refused, ""},
		{"\x00\x00\x00\x00", gssapi.Refused, ""},
		{"\x02\x00\x00\x00", gssapi.Refused, ""},
		{"\x04\x00\x00\x00", gssapi.Refused, ""},
		{"\x03\x00\x00\x00", gssapi.Refused, ""},
		{"\x01\x00\x00\x00bob\x00", gssapi.Refused, ""},
		{"\x01\x00\x00\x00\xff", gssapi.Refused, ""},
	} {
		if r := chosen([]byte(tt.choice)); r.Outcome != tt.want || r.Authorization != tt.authorization {
			t.Errorf("%q: %+v", tt.choice, r)
		}
	}
}

func TestIsFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		principal string
		hosts     []string
		want      bool
	}{
		{"imap/mail.example.com@EXAMPLE.COM", nil, true},
		{"imap/mail.example.com@EXAMPLE.COM", []string{"mx.example.com", "MAIL.example.com"}, true},
		{"imap/mail.example.com@EXAMPLE.COM", []string{"mx.example.com"}, false},
		{"IMAP/mail.example.com@EXAMPLE.COM", nil, false},
		{"smtp/mail.example.com@EXAMPLE.COM", nil, false},
		{"imap/a/b@EXAMPLE.COM", nil, false},
		{"imap@EXAMPLE.COM", nil, false},
		{"imap/@EXAMPLE.COM", nil, false},
		{"", nil, false},
	} {
		if got := isFor(tt.principal, "imap", tt.hosts); got != tt.want {
			t.Errorf("isFor(%q, %q) = %v", tt.principal, tt.hosts, got)
		}
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	state, rest, err := cutState(append(appendState(nil, []byte("key")), "rest"...))
	if err != nil || string(state) != "key" || string(rest) != "rest" {
		t.Errorf("%q, %q, %v", state, rest, err)
	}
	for _, message := range []string{"", "abc", "\x00\x00\x00\x05abcd", "\xff\xff\xff\xff"} {
		if _, _, err := cutState([]byte(message)); err == nil {
			t.Errorf("%q was cut", message)
		}
	}
}

func FuzzIsKerberos(f *testing.F) {
	f.Add([]byte("\x60\x0b" + kerberosOID))
	f.Add([]byte("\x60\x81\x0b" + kerberosOID))
	f.Add([]byte("\x60\x84\xff\xff\xff\xff"))
	f.Add([]byte("\x60\x83\x00"))
	f.Fuzz(func(t *testing.T, token []byte) {
		if isKerberos(token) && !bytes.Contains(token, []byte(kerberosOID)) {
			t.Errorf("%x is taken for a token of Kerberos", token)
		}
	})
}

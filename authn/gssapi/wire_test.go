package gssapi

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestLoginOf(t *testing.T) {
	t.Parallel()
	realms := []string{"EXAMPLE.COM", "OTHER.EXAMPLE"}
	for _, tt := range []struct {
		principal, want string
	}{
		{"alice@EXAMPLE.COM", "alice"},
		{"alice@OTHER.EXAMPLE", "alice"},
		{"alice@example.com", "alice@example.com"}, // another realm
		{"alice@EVIL.EXAMPLE", "alice@EVIL.EXAMPLE"},
		{"alice/admin@EXAMPLE.COM", "alice/admin"},
		{"host/mail.example.com@EXAMPLE.COM", "host/mail.example.com"},
		{`alice\@EXAMPLE.COM@EVIL.EXAMPLE`, ""},
		{`alice\/admin@EXAMPLE.COM`, ""},
		{"alice@EXAMPLE.COM@EVIL.EXAMPLE", ""},
		{"alice", ""},
		{"@EXAMPLE.COM", ""},
		{"alice@", ""},
		{"", ""},
	} {
		if got, err := loginOf(tt.principal, realms); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("loginOf(%q) = %q, %v; want %q", tt.principal, got, err, tt.want)
		}
	}
}

func TestMessagesRefuse(t *testing.T) {
	t.Parallel()
	good, err := Begin{Service: "imap", Hosts: []string{"mail.example.com"}, Token: []byte("token")}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(i int, c byte) []byte {
		message := bytes.Clone(good)
		message[i] = c
		return message
	}
	for name, message := range map[string][]byte{
		"empty": nil, "short": good[:2], "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0),
		"version": changed(1, 9), "policy": changed(2, 9), "length": changed(3, 0xff), "reply": changed(0, kindReply),
		"host": bytes.Replace(good, []byte("mail."), []byte("ma\x00l."), 1), "endless": make([]byte, MaxMessageOctets+1),
	} {
		var b Begin
		if err := b.UnmarshalBinary(message); err == nil {
			t.Errorf("%s was decoded as %+v", name, b)
		}
	}
	if _, err := (Begin{Token: make([]byte, MaxMessageOctets)}).AppendBinary(nil); err == nil {
		t.Error("an endless token was encoded")
	}
	if _, err := (Confirm{Token: make([]byte, MaxConfirmOctets)}).AppendBinary(nil); err == nil {
		t.Error("an endless choice was encoded")
	}
	for _, r := range []Reply{{Principal: "al\nice"}, {Authorization: "\xff"}, {Outcome: Refused + 1}} {
		message, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(Reply).UnmarshalBinary(message); err == nil {
			t.Errorf("%+v was decoded", r)
		}
	}
}

func FuzzMessages(f *testing.F) {
	for _, m := range []interface{ AppendBinary([]byte) ([]byte, error) }{
		Begin{}, Begin{Service: "imap", Hosts: []string{"a.example", "b.example"}, Bindings: "tls-server-end-point:x", Policy: BindingsRequired, Token: []byte("t")},
		Confirm{Token: []byte("choice")}, Reply{}, Reply{Outcome: Accepted, Token: []byte("t"), Offer: []byte("o"), Principal: "alice@EXAMPLE.COM", Authorization: "bob", Detail: "why"},
	} {
		seed, err := m.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		check := func(v, again interface {
			AppendBinary([]byte) ([]byte, error)
			UnmarshalBinary([]byte) error
		}) {
			if v.UnmarshalBinary(message) != nil {
				return
			}
			back, err := v.AppendBinary(nil)
			if err != nil {
				t.Fatalf("%x does not go back: %v", message, err)
			}
			if err := again.UnmarshalBinary(back); err != nil || !reflect.DeepEqual(v, again) {
				t.Errorf("%x reads back as %+v, %v", message, again, err)
			}
		}
		check(new(Begin), new(Begin))
		check(new(Confirm), new(Confirm))
		var r Reply
		check(&r, new(Reply))
		if strings.ContainsAny(r.Principal, "\x00\n") && r.UnmarshalBinary(message) == nil {
			t.Errorf("principal %q", r.Principal)
		}
	})
}

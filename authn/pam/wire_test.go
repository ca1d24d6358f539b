package pam

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

func TestMessagesRefuse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxMessageOctets)
	for name, r := range map[string]Request{
		"NUL in user":     {User: "alice\x00zzz", Password: "x"},
		"NUL in password": {User: "alice", Password: "secret\x00junk"},
		"too long":        {User: "alice", Password: long},
		"overflow":        {User: strings.Repeat("x", 1<<16), Password: "x"},
	} {
		if _, err := r.AppendBinary(nil); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
	good, err := Request{Service: "postern", User: "alice", Password: "secret", RemoteHost: "192.0.2.1"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	otherVersion := bytes.Clone(good)
	otherVersion[1]++
	for name, message := range map[string][]byte{
		"empty": nil, "short": good[:1], "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0),
		"version": otherVersion, "NUL": bytes.ReplaceAll(good, []byte("alice"), []byte("al\x00ce")),
		"endless": make([]byte, MaxMessageOctets+1), "response": {kindResponse, wireVersion, 0, 0, 0, 0, 0, 0, 0},
	} {
		var r Request
		if err := r.UnmarshalBinary(message); err == nil {
			t.Errorf("%s was decoded as %#v", name, r)
		}
	}
	var r Response
	if err := r.UnmarshalBinary([]byte{kindResponse, wireVersion, byte(PhaseAccount) + 1, 0, 0, 0, 0, 0, 0}); err == nil {
		t.Error("an unknown phase was decoded")
	}
}

func TestRequestPrintsNoPassword(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, Request{User: "alice", Password: "hunter2"}); strings.Contains(text, "hunter2") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

// TestVerdicts holds every code of Linux-PAM in both phases: no and not-mine
// are exactly those listed, all others are unknown.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	const refused, expired, no, notMine = "refused", "expired", "no", "not mine"
	authenticate := map[string]string{
		"PAM_AUTH_ERR": no, "PAM_MAXTRIES": refused, "PAM_USER_UNKNOWN": notMine, "PAM_PERM_DENIED": refused,
		"PAM_ACCT_EXPIRED": refused, "PAM_CRED_EXPIRED": refused, "PAM_AUTHTOK_EXPIRED": refused, "PAM_NEW_AUTHTOK_REQD": refused,
	}
	account := map[string]string{
		"PAM_SUCCESS": "yes", "PAM_AUTH_ERR": refused, "PAM_MAXTRIES": refused, "PAM_USER_UNKNOWN": refused, "PAM_PERM_DENIED": refused,
		"PAM_ACCT_EXPIRED": refused, "PAM_CRED_EXPIRED": refused, "PAM_AUTHTOK_EXPIRED": expired, "PAM_NEW_AUTHTOK_REQD": expired,
	}
	for phase, table := range map[Phase]map[string]string{PhaseHelper: {}, PhaseStart: {}, PhaseAuthenticate: authenticate, PhaseAccount: account} {
		for code := range Code(40) {
			want := table[code.String()]
			if want == "" {
				want = "unknown"
			}
			if got := class(verdict(Response{Phase: phase, Code: code, Detail: "why"})); got != want {
				t.Errorf("%v in phase %v is %s, want %s", code, phase, got, want)
			}
		}
	}
}

func class(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, authn.ErrUnknownLogin):
		return "not mine"
	case status.Of(err) == status.PasswordExpired && errors.Is(err, authn.ErrRefused):
		return "expired"
	case status.Of(err) == status.AuthFailed && errors.Is(err, authn.ErrRefused):
		return "refused"
	case status.Of(err) == status.AuthFailed:
		return "no"
	}
	return "unknown"
}

func FuzzRequest(f *testing.F) {
	for _, r := range []Request{{}, {Service: "postern", User: "alice", Password: "secret", RemoteHost: "2001:db8::1"}} {
		seed, err := r.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte{kindRequest, wireVersion, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, message []byte) {
		var r Request
		if err := r.UnmarshalBinary(message); err != nil {
			return
		}
		if back, err := r.AppendBinary(nil); err != nil || !bytes.Equal(back, message) {
			t.Errorf("%x reads back as %x, %v", message, back, err)
		}
	})
}

func FuzzResponse(f *testing.F) {
	for _, r := range []Response{{}, {Phase: PhaseAccount, Code: 13, User: "alice", Detail: "expired"}} {
		seed, err := r.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte{kindResponse, wireVersion, 9, 9, 9})
	f.Fuzz(func(t *testing.T, message []byte) {
		var r Response
		if err := r.UnmarshalBinary(message); err != nil {
			return
		}
		_ = verdict(r)
		if back, err := r.AppendBinary(nil); err != nil || !bytes.Equal(back, message) {
			t.Errorf("%x reads back as %x, %v", message, back, err)
		}
	})
}

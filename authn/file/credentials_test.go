package file

import (
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
)

func TestFileCredentials(t *testing.T) {
	t.Parallel()
	keys, err := authn.MakeHash("scram-sha-256", right)
	if err != nil {
		t.Fatal(err)
	}
	f, _, _ := open(t, Config{}, "alice:"+keys+"\n")
	if f.Covers(authn.FormSCRAMSHA256) != authn.CoversAll || f.Covers(authn.FormSCRAMSHA1) != authn.CoversNone || f.Example(authn.FormSCRAMSHA256) != keys {
		t.Errorf("covers %v, %v; example %q", f.Covers(authn.FormSCRAMSHA256), f.Covers(authn.FormSCRAMSHA1), f.Example(authn.FormSCRAMSHA256))
	}
	if id, stored, err := f.Stored(t.Context(), "alice", authn.FormSCRAMSHA256); err != nil || stored != keys || id.Authentication != "alice" {
		t.Errorf("Stored = %+v, %q, %v", id, stored, err)
	}
	if _, err := verify(t, f, "alice", right); err != nil {
		t.Errorf("the password itself: %v", err)
	}
	if _, err := verify(t, f, "alice", "wrong"); err == nil {
		t.Error("a wrong password matches the keys")
	}
	write(t, f.cfg.Path, "alice:"+keys+"\nbob:"+ssha+"\n")
	if f.Covers(authn.FormSCRAMSHA256) != authn.CoversSome {
		t.Errorf("after a change: covers %v", f.Covers(authn.FormSCRAMSHA256))
	}
	if _, _, err := f.Stored(t.Context(), "bob", authn.FormSCRAMSHA256); !errors.Is(err, authn.ErrNoForm) {
		t.Errorf("another form: %v", err)
	}
	if _, _, err := f.Stored(t.Context(), "mallory", authn.FormSCRAMSHA256); !errors.Is(err, authn.ErrUnknownLogin) {
		t.Errorf("nobody: %v", err)
	}
}

func TestStoredCredentials(t *testing.T) {
	t.Parallel()
	keys, err := authn.MakeHash("scram-sha-256", right)
	if err != nil {
		t.Fatal(err)
	}
	source := shelf{
		accounts: map[string]mail.Account{"alice": {Name: "alice"}, "gone": {Name: "gone", Disabled: true}, "none": {Name: "none"}, "old": {Name: "old"}},
		hashes:   map[string][]string{"alice": {ssha, keys}, "gone": {keys}, "old": {ssha}},
	}
	s, err := NewStored("ldif", source, newHasher(t), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, stored, err := s.Stored(t.Context(), "alice", authn.FormSCRAMSHA256); err != nil || stored != keys {
		t.Errorf("Stored = %q, %v", stored, err)
	}
	for login, want := range map[string]error{"gone": authn.ErrRefused, "none": authn.ErrUnknownLogin, "nobody": authn.ErrUnknownLogin, "old": authn.ErrNoForm} {
		if _, stored, err := s.Stored(t.Context(), login, authn.FormSCRAMSHA256); !errors.Is(err, want) || stored != "" {
			t.Errorf("%s: %q, %v; want %v", login, stored, err, want)
		}
	}
	// A source that cannot tell all its passwords covers nobody for certain.
	if got := s.Covers(authn.FormSCRAMSHA256); got != authn.CoversNone {
		t.Errorf("covers %v", got)
	}
}

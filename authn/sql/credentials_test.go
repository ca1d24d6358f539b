package sql

import (
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	hasher, err := authn.NewHasher(authn.HashConfig{AllowCleartext: true})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := authn.MakeHash("scram-sha-256", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	content := rows{
		"alice": {{"password": keys, "user": "alice.lee"}},
		"gone":  {{"password": keys, "nologin": "1"}},
		"clear": {{"password": "{CLEARTEXT}correct horse"}},
		"bare":  {{"password": "correct horse"}},
		"old":   {{"password": sha512}},
	}
	open := func(scheme string) authn.Credentials {
		v, err := New(Config{DefaultScheme: scheme}, content, hasher, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		return v.(authn.Credentials)
	}
	c := open("SCRAM-SHA-256")
	if c.Covers(authn.FormSCRAMSHA256) != authn.CoversAll || c.Covers(authn.FormSCRAMSHA1) != authn.CoversNone || c.Covers(authn.FormCleartext) != authn.CoversNone {
		t.Error("the form of the default scheme alone is covered")
	}
	if made := c.Example(authn.FormSCRAMSHA256); made == "" || made != c.Example(authn.FormSCRAMSHA256) || c.Example(authn.FormSCRAMSHA1) != "" {
		t.Errorf("example %q", made)
	}
	if id, stored, err := c.Stored(t.Context(), "alice", authn.FormSCRAMSHA256); err != nil || stored != keys || id.Authentication != "alice.lee" {
		t.Errorf("alice: %+v, %q, %v", id, stored, err)
	}
	if c.Example(authn.FormSCRAMSHA256) != keys {
		t.Error("unknown logins do not look like the known one")
	}
	if _, stored, err := c.Stored(t.Context(), "clear", authn.FormSCRAMSHA256); err != nil || stored != "{CLEARTEXT}correct horse" {
		t.Errorf("clear: %q, %v", stored, err)
	}
	for login, want := range map[string]error{"gone": authn.ErrRefused, "nobody": authn.ErrUnknownLogin} {
		if _, _, err := c.Stored(t.Context(), login, authn.FormSCRAMSHA256); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", login, err, want)
		}
	}
	if _, _, err := c.Stored(t.Context(), "down", authn.FormSCRAMSHA256); err == nil || errors.Is(err, authn.ErrUnknownLogin) {
		t.Errorf("down: %v", err)
	}
	if c.Covers(authn.FormSCRAMSHA256) != authn.CoversAll {
		t.Error("covers less without a reason")
	}
	if _, _, err := c.Stored(t.Context(), "old", authn.FormSCRAMSHA256); !errors.Is(err, authn.ErrNoForm) || c.Covers(authn.FormSCRAMSHA256) != authn.CoversSome {
		t.Errorf("old: %v; covers %v", err, c.Covers(authn.FormSCRAMSHA256))
	}
	plain := open("PLAIN")
	for _, form := range []string{authn.FormCleartext, authn.FormSCRAMSHA1, authn.FormSCRAMSHA256} {
		if _, stored, err := plain.Stored(t.Context(), "bare", form); err != nil || stored != "{CLEARTEXT}correct horse" && stored != "{PLAIN}correct horse" || plain.Covers(form) != authn.CoversAll {
			t.Errorf("%s of cleartext: %q, %v", form, stored, err)
		}
	}
	if hashed := open("SHA512-CRYPT"); hashed.Covers(authn.FormCleartext) != authn.CoversNone || hashed.Example(authn.FormSCRAMSHA256) != "" {
		t.Error("hashes cover something")
	}
}

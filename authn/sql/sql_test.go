package sql

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

const sha512 = "$6$ab$taQi2R/p.00nDn/0OiJ.5VXxxXle4RnNFdp1MRTAv1YDfnWjTzvJxb43j8XusV1GVxGhgSwzDrEJhwBIxUw.Q/" // "correct horse"

// rows is a database.
type rows map[string][]map[string]string

func (r rows) Rows(_ context.Context, login string) ([]map[string]string, error) {
	if login == "down" {
		return nil, status.Errorf(status.DirectoryDown, "connection refused")
	}
	return r[login], nil
}

func TestVerify(t *testing.T) {
	t.Parallel()
	hasher, err := authn.NewHasher(authn.HashConfig{})
	if err != nil {
		t.Fatal(err)
	}
	content := rows{
		"alice":  {{"password": sha512, "user": "Alice.Lee"}},
		"bob":    {{"password": "{SHA512-CRYPT}" + sha512, "username": "bob", "domain": "corp.example"}},
		"carol":  {{"password": "{SSHA}YSIUok7GQpd53zppUfwyAKAa9vVv9JcZ"}},
		"gone":   {{"password": sha512, "nologin": "Y"}},
		"zero":   {{"password": sha512, "disabled": "0"}},
		"empty":  {{"password": ""}},
		"null":   {{"user": "null"}},
		"twice":  {{"password": sha512}, {"password": sha512}},
		"clear":  {{"password": "correct horse"}},
		"broken": {{"password": "{MD4}xyz"}},
	}
	v, err := New(Config{DefaultScheme: "SHA512-CRYPT"}, content, hasher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	const unknown, wrong, doubt = "unknown", "wrong", "doubt"
	for _, c := range []struct{ login, password, want string }{
		{"alice", "correct horse", "alice.lee"}, {"alice", "x", wrong}, {"bob", "correct horse", "bob@corp.example"}, {"carol", "correct horse", "carol"},
		{"gone", "correct horse", wrong}, {"zero", "correct horse", "zero"}, {"null", "x", unknown}, {"nobody", "x", unknown},
		{"down", "x", doubt}, {"twice", "correct horse", doubt}, {"clear", "correct horse", doubt}, {"broken", "x", doubt}, {"empty", "", doubt},
	} {
		before := hasher.Computed()
		id, err := v.Verify(t.Context(), authn.Attempt{Login: c.login, Password: c.password})
		got := id.Authentication
		switch {
		case errors.Is(err, authn.ErrUnknownLogin):
			got = unknown
		case status.Of(err) == status.AuthFailed:
			got = wrong
		case err != nil:
			got = doubt
		}
		if got != c.want {
			t.Errorf("%s: %s, %v; want %s", c.login, got, err, c.want)
		}
		if cost := hasher.Computed() - before; cost != 1 && c.login != "down" && c.login != "twice" {
			t.Errorf("%s cost %d hashes, want 1 whoever it is", c.login, cost)
		}
	}
	if _, err := New(Config{DefaultScheme: "{a}b"}, content, hasher, hclog.NewNullLogger()); err == nil {
		t.Error("a scheme that is none")
	}
}

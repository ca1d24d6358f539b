package config

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/authn/sasl"
)

func TestSASLPolicy(t *testing.T) {
	t.Parallel()
	var none *SASL
	if cfg := none.Room(true, "h"); !cfg.AllowWithoutTLS || cfg.Mechanisms != nil || !none.withoutTLS(true) || none.withoutTLS(false) {
		t.Errorf("no block: %+v", cfg)
	}
	s := &SASL{Mechanisms: []string{"PLAIN"}, MechanismsWithoutTLS: []string{"SCRAM-SHA-256"}, Options: []string{"NoAnonymous"}, OptionsWithoutTLS: []string{"noplaintext"}}
	cfg := s.Room(false, "h")
	if cfg.Refuse[0] != sasl.NoAnonymous || cfg.RefuseWithoutTLS[0] != sasl.NoPlaintext || !s.withoutTLS(false) {
		t.Errorf("%+v", cfg)
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	a := &Authn{Claims: []string{"groups=mail=users", "typ=Bearer"}}
	if c, err := a.claims(); err != nil || c["groups"] != "mail=users" || c["typ"] != "Bearer" {
		t.Errorf("%v, %v", c, err)
	}
	for _, bad := range []string{"groups", "=x"} {
		a.Claims = []string{bad}
		if _, err := a.claims(); err == nil || !strings.Contains(err.Error(), "claim=value") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

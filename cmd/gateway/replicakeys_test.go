package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pairedSite is a site whose backend has a replica block.
func pairedSite(t *testing.T, replica string) *site {
	t.Helper()
	return newSite(t, strings.Replace(standard, "backend {\n", "backend {\n  node = 1\n  replica {\n"+replica+"\n  }\n", 1), nil)
}

// TestReplicaKeys: the secret is for its owner only and is not written over;
// the pin can be asked for before the partner's is known, and stays.
func TestReplicaKeys(t *testing.T) {
	t.Parallel()
	s := pairedSite(t, `partner = "127.0.0.1:9"`)
	secret := filepath.Join(s.Dir, "pair.secret")
	s.run("replica", "keygen", secret)
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 || info.Size() < 33 {
		t.Errorf("%v, %v", info, err)
	}
	before := read(t, secret)
	if out, err := runFailing(t, "replica", "keygen", secret); err != nil || !strings.Contains(out, "is there already") || read(t, secret) != before {
		t.Errorf("%s, %v", out, err)
	}
	pin := s.run("replica", "pin")
	if again := s.run("replica", "pin"); again != pin || !strings.HasPrefix(pin, "sha256:") || len(pin) != len("sha256:")+64+1 {
		t.Errorf("pins %q and %q", pin, again)
	}
	own := pairedSite(t, `partner = "127.0.0.1:9"
	cert_file = "{{.Dir}}/cert.pem"
	key_file  = "{{.Dir}}/key.pem"
	partner_pin = "`+strings.TrimSpace(pin)+`"`)
	if out := own.run("config", "check"); !strings.Contains(out, "no mistakes") {
		t.Error(out)
	}
	if other := own.run("replica", "pin"); other == pin || !strings.HasPrefix(other, "sha256:") {
		t.Errorf("pin %q", other)
	}
	alone := newSite(t, standard, nil)
	if out, err := runFailing(t, "replica", "pin", "-c", alone.Config); err != nil || !strings.Contains(out, "replica { ... }") {
		t.Errorf("%s, %v", out, err)
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestDirectoryCheck is the command as an administrator calls it.
func TestDirectoryCheck(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	s := newLDAPSite(t, slapd, ldapAuthn)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := root()
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append([]string{"directory", "check", "-c", s.Config}, args...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run()
	if err != nil || !strings.Contains(out, "directory company\n  "+slapd.LDAPS) || strings.Contains(out, "FAILURE") {
		t.Errorf("check = %v\n%s", err, out)
	}
	if _, err := run("nobody"); err == nil || !strings.Contains(err.Error(), `no directory "nobody"`) {
		t.Errorf("check of a directory that is not there = %v", err)
	}
	slapd.Stop()
	if out, err = run("company"); err == nil || !strings.Contains(out, "FAILURE") || !strings.Contains(out, "what to do:") {
		t.Errorf("check with the server down = %v\n%s", err, out)
	}
}

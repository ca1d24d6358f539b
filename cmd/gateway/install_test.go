package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// install runs deploy/install.sh into a folder, with a file in the place of the
// program, and returns what it says.
func install(t *testing.T, folder string, env ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "postern")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	c := exec.Command("/bin/sh", "../../deploy/install.sh", program)
	c.Env = append(os.Environ(), append(env, "PREFIX=/usr/local", "DESTDIR="+folder)...)
	said, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return string(said)
}

// TestInstall: the program and its names are where they should be, and what an
// administrator or another mail system has stays as it is.
func TestInstall(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	theirs := filepath.Join(folder, "usr/sbin/sendmail")
	must(t, os.MkdirAll(filepath.Dir(theirs), 0o755))
	must(t, os.WriteFile(theirs, []byte("theirs"), 0o755))
	install(t, folder)
	leadsTo := func(path, want string) {
		t.Helper()
		if to, _ := os.Readlink(filepath.Join(folder, path)); to != want {
			t.Errorf("%s leads to %q, want %q", path, to, want)
		}
	}
	const program = "/usr/local/bin/postern"
	for _, name := range []string{"sendmail", "mailq", "newaliases"} {
		leadsTo("/usr/local/libexec/postern/"+name, program)
	}
	leadsTo("/usr/bin/mailq", "")

	// Again, with the links that other programs call.
	config := filepath.Join(folder, "etc/postern/postern.hcl")
	must(t, os.WriteFile(config, []byte("# mine\n"), 0o644))
	said := install(t, folder, "SENDMAIL=/usr/sbin")
	if !strings.Contains(said, "/usr/sbin/sendmail is another mail system's") || read(t, theirs) != "theirs" {
		t.Errorf("another mail system's sendmail was replaced, or nothing was said of it: %s", said)
	}
	if read(t, config) != "# mine\n" {
		t.Error("the configuration was replaced")
	}
	leadsTo("/usr/bin/mailq", program)
	must(t, os.Remove(theirs))
	if said := install(t, folder, "SENDMAIL=/usr/sbin"); strings.Contains(said, "another mail system") {
		t.Errorf("said: %s", said)
	}
	leadsTo("/usr/sbin/sendmail", program)
	leadsTo("/usr/bin/newaliases", program)
}

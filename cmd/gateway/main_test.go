package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program is the path of the program under test: the real one, with what the
// Makefile builds it with.
var program string

// programName is what the program under test is called. This binary under that
// name is the program: to link it takes as long as many tests.
const programName = "postern"

// buildFlags are those of a program that this binary cannot stand for.
var buildFlags = []string{"build"}

// builtWith are the build tags of this binary that change the program.
var builtWith []string

func TestMain(m *testing.M) {
	if self, err := os.Executable(); err == nil && filepath.Base(self) == programName {
		main()
		return
	}
	os.Exit(withProgram(m))
}

func withProgram(m *testing.M) int {
	if slices.Contains(os.Args, "-test.fuzzworker") {
		return m.Run() // no fuzz target runs the program
	}
	dir, err := os.MkdirTemp("", "postern-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, programName)
	if err := makeProgram(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// A race in the program ends it, and so the test; and a command need not
	// wait a second at its end for one.
	if err := os.Setenv("GORACE", "halt_on_error=1 atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// makeProgram puts the program in its place. It has PAM and Kerberos where the
// machine has what they take, also when the tests were built without.
func makeProgram() error {
	var tags []string
	whole := true
	for tag, header := range map[string]string{"pam": "/usr/include/security/pam_appl.h", "gssapi": "/usr/include/gssapi/gssapi.h"} {
		if _, err := os.Stat(header); err == nil {
			tags = append(tags, tag)
			whole = whole && slices.Contains(builtWith, tag)
		}
	}
	if whole {
		return copySelf()
	}
	build := exec.Command("go", append(buildFlags, "-tags", strings.Join(tags, ","), "-o", program, ".")...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program under test: %w\n%s", err, out)
	}
	return nil
}

func copySelf() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer func() { _ = self.Close() }() // only read
	to, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, self); err != nil {
		_ = to.Close()
		return err
	}
	return to.Close()
}

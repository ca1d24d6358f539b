package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// buildFlags are those of the program under test: the real one, built as the
// Makefile builds it.
var buildFlags = []string{"build"}

// program is the path of the program under test.
var program string

func TestMain(m *testing.M) { os.Exit(withProgram(m)) }

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
	program = filepath.Join(dir, "postern")
	var tags []string
	for tag, header := range map[string]string{"pam": "/usr/include/security/pam_appl.h", "gssapi": "/usr/include/gssapi/gssapi.h"} {
		if _, err := os.Stat(header); err == nil {
			tags = append(tags, tag)
		}
	}
	buildFlags = append(buildFlags, "-tags", strings.Join(tags, ","))
	build := exec.Command("go", append(buildFlags, "-o", program, ".")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program under test: %v\n%s", err, out)
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

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// runDemo starts the demo, waits until it says how to go on, and stops it as
// Ctrl-C does.
func runDemo(t *testing.T, dir string, while func(said string)) {
	t.Helper()
	p := testenv.Start(t, testenv.Command{Path: program, Args: []string{"demo", "--dir", dir}})
	said := ""
	testenv.Eventually(t, time.Minute, func() error {
		if said = p.Log(); !strings.Contains(said, "Stays up until Ctrl-C.") {
			return &mismatch{"Stays up", said}
		}
		return nil
	})
	while(said)
	must(t, p.Signal(syscall.SIGINT))
	select {
	case <-p.Ended():
	case <-time.After(time.Minute):
		t.Fatal("the demo does not stop on SIGINT")
	}
	if err := p.Err(); err != nil {
		t.Errorf("the demo ended with %v", err)
	}
	if said := p.Log(); !strings.Contains(said, "Stopped.") {
		t.Errorf("at its end the demo said\n%s", said)
	}
}

// TestDemo starts it twice: the second finds what the first received, and what
// it prints to try can be tried.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.TempDir(t), "demo")
	runDemo(t, dir, func(said string) {
		if !regexp.MustCompile(`INBOX of bob, 1 message\(s\)\n +1  alice@example.com +Hello from Postern, `).MatchString(said) {
			t.Errorf("bob's mail is not shown:\n%s", said)
		}
		commands := regexp.MustCompile(`(?m)^  (?:swaks .*\\\n.*|curl .*|\S+/postern .*)$`).FindAllString(said, -1)
		if len(commands) != 6 {
			t.Errorf("%d commands to try in:\n%s", len(commands), said)
		}
		testenv.Program(t, "swaks")
		testenv.Program(t, "curl")
		for _, command := range commands {
			testenv.Eventually(t, time.Minute, func() error { // the mail may be on its way
				out, err := exec.Command("sh", "-c", command).CombinedOutput()
				if err != nil {
					return fmt.Errorf("%s: %w\n%s", command, err, out)
				}
				return nil
			})
		}
	})
	runDemo(t, dir, func(said string) {
		if !regexp.MustCompile(`INBOX of bob, 3 message\(s\)\n +1  alice.*Hello.*\n +2  bob.*\n +3  alice.*Hello`).MatchString(said) {
			t.Errorf("the first start's mail is not there:\n%s", said)
		}
	})
}

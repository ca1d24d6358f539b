package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PostfixTables asks lookup tables as Postfix does, by its own postmap. Nothing
// of it runs as a server and it needs no rights.
type PostfixTables struct {
	t       testing.TB
	dir     string
	program string
}

// Postfix returns a private configuration of Postfix whose tables can be asked.
// Of the types beyond Postfix's own, the named ones must be installed ("ldap").
func Postfix(t testing.TB, types ...string) *PostfixTables {
	t.Helper()
	p := &PostfixTables{t: t, dir: TempDir(t), program: Program(t, "postmap")}
	writeFile(t, p.File("main.cf"), []byte("compatibility_level = 3.6\nmyhostname = host.example.com\nmynetworks_style = host\n"), 0o644)
	known := strings.Fields(Run(t, Program(t, "postconf"), "-c", p.dir, "-m"))
	for _, wanted := range types {
		found := false
		for _, name := range known {
			found = found || name == wanted
		}
		if !found {
			Missing(t, "postfix-"+wanted)
		}
	}
	return p
}

// File returns the path of a file beside the configuration.
func (p *PostfixTables) File(name string) string { return filepath.Join(p.dir, name) }

// Write writes a table's file and returns its path.
func (p *PostfixTables) Write(name, content string) string {
	p.t.Helper()
	return writeFile(p.t, p.File(name), []byte(content), 0o600)
}

// Query looks key up in a table such as "ldap:/path/to/file.cf". Nothing found
// is "" without an error; an error is one that makes Postfix put mail off.
func (p *PostfixTables) Query(table, key string) (string, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, p.program, "-c", p.dir, "-q", key, table)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return strings.TrimSuffix(string(out), "\n"), nil
	case errors.As(err, &exit) && !strings.Contains(said.String(), "fatal:") && !strings.Contains(said.String(), "error:"):
		return "", nil // postmap ends with 1 where it finds nothing
	default:
		return "", fmt.Errorf("postmap -q %q %s: %w: %s", key, table, err, said.String())
	}
}

// QueryAll looks keys up one after another in one run, over one connection, and
// returns how long it took. The table must have all of them.
func (p *PostfixTables) QueryAll(table string, keys []string) time.Duration {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, p.program, "-c", p.dir, "-q", "-", table)
	c.Stdin = strings.NewReader(strings.Join(keys, "\n") + "\n")
	started := time.Now()
	out, err := c.Output()
	if err != nil || bytes.Count(out, []byte("\n")) != len(keys) {
		p.t.Fatalf("postmap -q - %s: %d of %d keys, %v", table, bytes.Count(out, []byte("\n")), len(keys), err)
	}
	return time.Since(started)
}

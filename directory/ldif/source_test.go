package ldif_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldif"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	company "github.com/postern-mail/postern/testdata/ldif"
)

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	tree := company.OpenLDAP()
	file := filepath.Join(t.TempDir(), "people.ldif")
	write(t, file, string(tree.LDIF))
	log := &buffer{}
	s, err := ldif.Open(ldif.Config{File: file, CheckInterval: 5 * time.Millisecond}, hclog.New(&hclog.LoggerOptions{Output: log}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	cfg := directorytest.Config(tree)
	cfg.Cache = directory.CacheConfig{} // answers of the old file must go with it
	d := directorytest.Open(t, cfg, s)
	resolve := func(address string, want status.Reason) func() error {
		return func() error {
			_, err := d.Resolve(ctx, mail.MustAddress(address))
			if got := status.Of(err); got != want {
				return fmt.Errorf("Resolve(%s) = %v, want %v", address, got, want)
			}
			return nil
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(resolve("bob@example.com", status.OK)())
	must(resolve("hugo@example.com", status.NoSuchUser)())

	changed := strings.ReplaceAll(string(tree.LDIF), "bob@example.com", "hugo@example.com")
	write(t, file, changed)
	testenv.Eventually(t, time.Minute, resolve("hugo@example.com", status.OK))
	must(resolve("bob@example.com", status.NoSuchUser)())

	write(t, file, changed+"\nthis is no LDIF\n")
	testenv.Eventually(t, time.Minute, func() error {
		if !strings.Contains(log.String(), "people.ldif:") {
			return errors.New("the broken file is not reported with its line")
		}
		return nil
	})
	must(resolve("hugo@example.com", status.OK)())

	must(os.Remove(file))
	testenv.Eventually(t, time.Minute, func() error {
		if !strings.Contains(log.String(), "no such file") {
			return errors.New("the missing file is not reported")
		}
		return nil
	})
	must(resolve("hugo@example.com", status.OK)())

	write(t, file, string(tree.LDIF))
	testenv.Eventually(t, time.Minute, resolve("bob@example.com", status.OK))
}

func TestOpenReportsMistakes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "people.ldif")
	if _, err := ldif.Open(ldif.Config{File: file}, hclog.NewNullLogger()); err == nil {
		t.Error("a missing file opens")
	}
	write(t, file, "dn: dc=x\noops\n")
	if _, err := ldif.Open(ldif.Config{File: file}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), file+":2:") {
		t.Errorf("a broken file = %v", err)
	}
	write(t, file, strings.Repeat("# comment\n", 100)+"dn: dc=x\ndc: x\n")
	if _, err := ldif.Open(ldif.Config{File: file, MaxOctets: 500}, hclog.NewNullLogger()); err == nil {
		t.Error("a file beyond its bound opens")
	}
}

func TestPasswordHashes(t *testing.T) {
	t.Parallel()
	tree := company.OpenLDAP()
	s := load(t, tree)
	p := ldif.NewPasswords(directorytest.Open(t, directorytest.Config(tree), s), s)
	for login, prefix := range map[string]string{"alice": "{SSHA}", "a.anders@example.com": "{SSHA}", "carol": "{CRYPT}$6$"} {
		account, hashes, err := p.PasswordHashes(t.Context(), login)
		if err != nil || account.Name == "" || len(hashes) != 1 || !strings.HasPrefix(hashes[0], prefix) {
			t.Errorf("PasswordHashes(%q) = %+v, %d hashes, %v", login, account, len(hashes), err)
		}
	}
	if _, hashes, err := p.PasswordHashes(t.Context(), "nobody"); status.Of(err) != status.NoSuchUser || len(hashes) > 0 {
		t.Errorf("PasswordHashes(nobody) = %d hashes, %v", len(hashes), err)
	}
}

func TestUnknownRuleIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := load(t, company.AD())
	f := directory.MustFilter("(member:1.2.840.113556.1.4.1941:=CN=staff,CN=Users,DC=example,DC=com)")
	if entries, err := s.Search(t.Context(), directory.Request{Base: "dc=example,dc=com", Filter: f}); status.Of(err) != status.DirectoryDown {
		t.Errorf("search by an unknown rule = %v, %v; want DirectoryDown", entries, err)
	}
}

package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Hashes of "correct horse" by slappasswd, libxcrypt and doveadm.
const (
	ssha   = "{SSHA}YSIUok7GQpd53zppUfwyAKAa9vVv9JcZ"
	bcrypt = "$2b$05$zcTEuB8xaIvbeQaiUj4UvO2TUD1.2JDyurP/iDEzsTQbMWRB5CXN6"
	sha512 = "$6$ab$taQi2R/p.00nDn/0OiJ.5VXxxXle4RnNFdp1MRTAv1YDfnWjTzvJxb43j8XusV1GVxGhgSwzDrEJhwBIxUw.Q/"
	right  = "correct horse"
)

func newHasher(t testing.TB) *authn.Hasher {
	t.Helper()
	h, err := authn.NewHasher(authn.HashConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func write(t *testing.T, path, text string) {
	t.Helper()
	// As an editor or configuration management does it: a new file, renamed.
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, cfg Config, text string) (*File, *authn.Hasher, *bytes.Buffer) {
	t.Helper()
	cfg.Path = filepath.Join(t.TempDir(), "passwd")
	write(t, cfg.Path, text)
	hasher, log := newHasher(t), &bytes.Buffer{}
	f, err := New(cfg, hasher, hclog.New(&hclog.LoggerOptions{Output: log}))
	if err != nil {
		t.Fatal(err)
	}
	return f, hasher, log
}

func verify(t *testing.T, v authn.Verifier, login, password string) (mail.Identity, error) {
	t.Helper()
	return v.Verify(t.Context(), authn.Attempt{Login: login, Password: password})
}

func TestFile(t *testing.T) {
	t.Parallel()
	text := "# people\n\nAlice:" + ssha + "\r\nbob@example.com:" + bcrypt + ":1000:1000::/home/bob::\n" +
		"carol:" + sha512 + "\nlocked:!" + sha512 + ":19000:0\nnologin:*\n"
	f, _, _ := open(t, Config{}, text)
	tests := []struct {
		login, password string
		want            error
	}{
		{"alice", right, nil},
		{"bob@example.com", right, nil},
		{"carol", right, nil},
		{"alice", "wrong", status.New(status.AuthFailed, nil)},
		{"locked", right, status.New(status.AuthFailed, nil)},
		{"nologin", right, status.New(status.AuthFailed, nil)},
		{"mallory", right, authn.ErrUnknownLogin},
		{"# people", right, authn.ErrUnknownLogin},
	}
	for _, tt := range tests {
		id, err := verify(t, f, tt.login, tt.password)
		if status.Of(err) != status.Of(tt.want) || errors.Is(err, authn.ErrUnknownLogin) != errors.Is(tt.want, authn.ErrUnknownLogin) {
			t.Errorf("Verify(%q, %q) = %v, want %v", tt.login, tt.password, err, tt.want)
		}
		if (id.Authentication == tt.login) != (tt.want == nil) {
			t.Errorf("Verify(%q, %q) identified %q", tt.login, tt.password, id.Authentication)
		}
	}
}

func TestUnknownLoginCostsAsMuch(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"alice:" + sha512 + "\n", "", "nologin:*\n"} {
		f, hasher, _ := open(t, Config{}, text)
		for i := range 20 {
			before := hasher.Computed()
			login := fmt.Sprintf("nobody%d", i)
			if _, err := verify(t, f, login, right); !errors.Is(err, authn.ErrUnknownLogin) {
				t.Fatalf("Verify(%q) = %v, want ErrUnknownLogin even with another's password", login, err)
			}
			if cost := hasher.Computed() - before; cost != 1 {
				t.Fatalf("an unknown login cost %d hashes in %q, want 1 as a known one", cost, text)
			}
		}
	}
	f, _, _ := open(t, Config{}, "a:"+ssha+"\nb:"+bcrypt+"\nc:"+sha512+"\n")
	like := map[string]int{}
	for i := range 300 {
		login := fmt.Sprint("x", i)
		hash, _ := f.lookup(login)
		if again, _ := f.lookup(login); again.Scheme() != hash.Scheme() {
			t.Fatalf("%s costs once %s and once %s", login, hash.Scheme(), again.Scheme())
		}
		like[hash.Scheme()]++
	}
	if len(like) != 3 || like["ssha"] < 50 || like["bcrypt"] < 50 {
		t.Errorf("unknown logins cost %v, want them spread as the known", like)
	}
}

func TestMistakesNameFileAndLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passwd")
	text := "alice:" + ssha + "\nno colon here\nbob:hunter2\nALICE:" + ssha + "\nbad login:" + ssha + "\ncarol:{CLEARTEXT}hunter2\n:" + ssha + "\ndave:\n"
	write(t, path, text)
	_, err := New(Config{Path: path}, newHasher(t), hclog.NewNullLogger())
	if err == nil {
		t.Fatal("mistakes were accepted")
	}
	for line, want := range map[int]string{2: "no colon", 3: "bob", 4: "line 1", 5: "character", 6: "cleartext", 7: "empty login", 8: "empty password hash"} {
		if !strings.Contains(err.Error(), fmt.Sprintf("%s:%d: ", path, line)) || !strings.Contains(err.Error(), want) {
			t.Errorf("no mistake in line %d about %q:\n%v", line, want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows a secret:\n%v", err)
	}
	write(t, path, "alice:"+ssha+"\n"+strings.Repeat("x", maxLineOctets+1)+"\n")
	if _, err := New(Config{Path: path}, newHasher(t), hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), ":2: line longer") {
		t.Errorf("endless line: %v", err)
	}
	for _, path := range []string{"", filepath.Join(t.TempDir(), "absent"), t.TempDir()} {
		if _, err := New(Config{Path: path}, newHasher(t), hclog.NewNullLogger()); err == nil {
			t.Errorf("path %q was accepted", path)
		}
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	f, _, log := open(t, Config{}, "alice:"+ssha+"\n")
	known := func(login string) bool {
		_, err := verify(t, f, login, right)
		return err == nil
	}
	if !known("alice") || known("bob") {
		t.Fatal("first text not in force")
	}
	write(t, f.cfg.Path, "bob:"+ssha+"\n")
	if known("alice") || !known("bob") {
		t.Fatal("changed text not in force")
	}
	write(t, f.cfg.Path, "carol:"+ssha+"\nbroken\n")
	for range 3 {
		if !known("bob") || known("carol") {
			t.Fatal("a wrong text must leave the last good one in force")
		}
	}
	if n := strings.Count(log.String(), ":2: no colon"); n != 1 {
		t.Errorf("mistake logged %d times, want once:\n%s", n, log)
	}
	if err := os.Remove(f.cfg.Path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !known("bob") {
			t.Fatal("a missing file must leave the last good text in force")
		}
	}
	if n := strings.Count(log.String(), "no such file"); n != 1 {
		t.Errorf("missing file logged %d times, want once:\n%s", n, log)
	}
	write(t, f.cfg.Path, "dave:"+ssha+"\n")
	if known("bob") || !known("dave") {
		t.Fatal("mended text not in force")
	}
}

// TestFileWrittenInPlace has an editor that truncates and then writes: what
// stands there meanwhile must not make logins unknown.
func TestFileWrittenInPlace(t *testing.T) {
	t.Parallel()
	f, _, _ := open(t, Config{}, "bob:"+ssha+"\nalice:"+ssha+"\n")
	known := func(login string) bool {
		_, err := verify(t, f, login, right)
		return err == nil
	}
	inPlace := func(text string) {
		t.Helper()
		if err := os.WriteFile(f.cfg.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	until := func(login string) {
		t.Helper()
		testenv.Eventually(t, time.Minute, func() error {
			if !known(login) {
				return fmt.Errorf("%s is not known: the file is never read again", login)
			}
			return nil
		})
	}
	for {
		began := time.Now()
		inPlace("bob:" + ssha + "\n")
		if known("alice") {
			break
		}
		if time.Since(began) < restTime/2 {
			t.Fatal("half a file is in force")
		}
		// The machine stood still for as long as nobody writes for.
		inPlace("bob:" + ssha + "\nalice:" + ssha + "\n")
		until("alice")
	}
	inPlace("bob:" + ssha + "\ncarol:" + ssha + "\n")
	until("carol")
	if known("alice") {
		t.Error("what was deleted is still in force")
	}
}

func TestReadableByEverybodyIsWarnedAbout(t *testing.T) {
	t.Parallel()
	path, log := filepath.Join(t.TempDir(), "passwd"), &bytes.Buffer{}
	write(t, path, "alice:"+ssha)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Path: path}, newHasher(t), hclog.New(&hclog.LoggerOptions{Output: log})); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "readable by everybody") {
		t.Errorf("not warned about:\n%s", log)
	}
}

// shelf hands out hashes by login.
type shelf struct {
	accounts map[string]mail.Account
	hashes   map[string][]string
	err      error
}

func (s shelf) PasswordHashes(_ context.Context, login string) (mail.Account, []string, error) {
	if s.err != nil {
		return mail.Account{}, nil, s.err
	}
	account, found := s.accounts[login]
	if !found {
		return mail.Account{}, nil, status.New(status.NoSuchUser, nil)
	}
	return account, s.hashes[account.Name], nil
}

func TestStored(t *testing.T) {
	t.Parallel()
	named := func(name string) mail.Account { return mail.Account{Name: name} }
	source := shelf{
		accounts: map[string]mail.Account{
			"alice": named("alice"), "alice@example.com": named("alice"), "two": named("two"), "none": named("none"),
			"odd": named("odd"), "mixed": named("mixed"), "gone": {Name: "gone", Disabled: true},
		},
		hashes: map[string][]string{
			"alice": {sha512}, "two": {bcrypt, ssha}, "odd": {"{SASL}odd@EXAMPLE"}, "mixed": {"{MD5}x", ssha}, "gone": {ssha},
		},
	}
	unknown, notMine := status.Unknown, status.Reason(255)
	tests := []struct {
		login, password string
		want            status.Reason
		account         string
	}{
		{"alice", right, status.OK, "alice"},
		{"alice@example.com", right, status.OK, "alice"},
		{"two", right, status.OK, "two"},
		{"mixed", right, status.OK, "mixed"},
		{"alice", "wrong", status.AuthFailed, ""},
		{"gone", right, status.AuthFailed, ""},
		{"gone", "wrong", status.AuthFailed, ""},
		{"nobody", right, notMine, ""},
		{"none", right, notMine, ""},
		{"odd", right, unknown, ""},
	}
	hasher := newHasher(t)
	v, err := NewStored("demo", source, hasher, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		before := hasher.Computed()
		id, err := verify(t, v, tt.login, tt.password)
		got := status.Of(err)
		if errors.Is(err, authn.ErrUnknownLogin) {
			got = notMine
		}
		if got != tt.want || id.Authentication != tt.account {
			t.Errorf("Verify(%q, %q) = %q, %v; want %q, %v", tt.login, tt.password, id.Authentication, err, tt.account, tt.want)
		}
		if hasher.Computed() == before {
			t.Errorf("Verify(%q) cost nothing", tt.login)
		}
	}
	if _, err := verify(t, v, "gone", right); !errors.Is(err, authn.ErrRefused) {
		t.Errorf("disabled account = %v, want ErrRefused", err)
	}
	down, _ := NewStored("demo", shelf{err: status.New(status.DirectoryDown, nil)}, hasher, hclog.NewNullLogger())
	if _, err := verify(t, down, "alice", right); status.Of(err) != status.DirectoryDown {
		t.Errorf("with the directory down: %v", err)
	}
	if _, err := NewStored("", source, hasher, hclog.NewNullLogger()); err == nil {
		t.Error("a verifier without a name was accepted")
	}
}

func FuzzPasswd(f *testing.F) {
	for _, seed := range []string{
		"alice:" + ssha, "alice:" + sha512 + ":1:2\n#x\n\nbob:*", "alice", ":", "a:b:c", "a:!\na:!", "\xff:*", strings.Repeat("a", 5000),
	} {
		f.Add(seed)
	}
	hasher := newHasher(f)
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parsePasswd("passwd", strings.NewReader(text), hasher)
		if err != nil {
			return
		}
		if len(table.entries) != len(table.logins) {
			t.Fatalf("%d entries for %d logins in %q", len(table.entries), len(table.logins), text)
		}
		for _, login := range table.logins {
			if canonical, err := authn.CanonicalLogin(login); err != nil || canonical != login {
				t.Errorf("login %q of %q is not canonical", login, text)
			}
			if table.entries[login].Scheme() == "" {
				t.Errorf("login %q of %q has no hash", login, text)
			}
		}
	})
}

package pam_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/pam"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

// built is the program with the helper in it.
var built = testenv.NewShared(testenv.PAMHelper)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// run keeps v's helper running until the test ends.
func run(t *testing.T, v *pam.Verifier) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func attempt(login, password string) authn.Attempt {
	return authn.Attempt{Login: login, Password: password, Remote: netip.MustParseAddrPort("[::ffff:192.0.2.7]:4000")}
}

func class(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, authn.ErrUnknownLogin):
		return "not mine"
	case status.Of(err) == status.PasswordExpired:
		return "expired"
	case status.Of(err) == status.AuthFailed:
		return "no"
	}
	return "unknown"
}

// TestRealPAM drives the helper as the daemon does, with real PAM modules.
func TestRealPAM(t *testing.T) {
	t.Parallel()
	helper, matrix := built.Get(t), testenv.PAMMatrix(t)
	dir := testenv.TempDir(t)
	passdb := filepath.Join(dir, "passdb")
	if err := os.WriteFile(passdb, []byte("alice:secret:matrix\nbob:pässwörd:matrix\neve:secret:other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	module := matrix + " passdb=" + passdb
	testenv.PAMService(t, dir, "matrix", "auth required "+module, "account required "+module)
	testenv.PAMService(t, dir, "denied", "auth required pam_permit.so", "account required pam_deny.so")
	testenv.PAMService(t, dir, "broken", "auth required /nonexistent/pam_nothing.so", "account required pam_permit.so")
	testenv.PAMService(t, dir, "permit", "auth required pam_permit.so", "account required pam_permit.so")
	open := func(t *testing.T, service string) *pam.Verifier {
		t.Helper()
		v, err := pam.New(pam.Config{Service: service, Command: []string{helper, "auth-helper"}, ServiceDir: dir, Workers: 2}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		run(t, v)
		return v
	}

	t.Run("matrix", func(t *testing.T) {
		t.Parallel()
		v := open(t, "matrix")
		for _, tt := range []struct{ login, password, want string }{
			{"alice", "secret", "yes"},
			{"bob", "pässwörd", "yes"},
			{"alice", "wrong", "no"},
			{"alice", "secre", "no"},
			{"alice", "", "no"},
			{"alice", "secret\x00junk", "no"},
			{"alice\x00zzz", "secret", "unknown"},
			{"eve", "secret", "no"},
			{"mallory", "secret", "no"}, // pam_matrix says PAM_AUTH_ERR here
		} {
			id, err := v.Verify(t.Context(), attempt(tt.login, tt.password))
			if got := class(err); got != tt.want {
				t.Errorf("Verify(%q, %q) is %s (%v), want %s", tt.login, tt.password, got, err, tt.want)
			}
			if err == nil && id.Authentication != tt.login {
				t.Errorf("Verify(%q) identified %q", tt.login, id.Authentication)
			}
		}
		var clients sync.WaitGroup
		for i := range 40 {
			clients.Go(func() {
				password, want := "secret", "yes"
				if i%2 == 0 {
					password, want = "wrong", "no"
				}
				if _, err := v.Verify(t.Context(), attempt("alice", password)); class(err) != want {
					t.Errorf("concurrent %q: %v, want %s", password, err, want)
				}
			})
		}
		clients.Wait()
	})
	t.Run("broken module is unknown", func(t *testing.T) {
		t.Parallel()
		if _, err := open(t, "broken").Verify(t.Context(), attempt("alice", "secret")); class(err) != "unknown" {
			t.Errorf("Verify = %v, want unknown", err)
		}
	})
	t.Run("service without a file is unknown", func(t *testing.T) {
		t.Parallel()
		if _, err := open(t, "absent").Verify(t.Context(), attempt("alice", "secret")); class(err) != "unknown" {
			t.Errorf("Verify = %v, want unknown", err)
		}
	})
	t.Run("account management counts", func(t *testing.T) {
		t.Parallel()
		if _, err := open(t, "permit").Verify(t.Context(), attempt("alice", "anything")); err != nil {
			t.Errorf("permitted: %v", err)
		}
		if _, err := open(t, "denied").Verify(t.Context(), attempt("alice", "secret")); class(err) != "no" {
			t.Errorf("right password, account denied: %v, want no", err)
		}
	})
	// pam_debug answers as it is told: the helper must carry each code over.
	for _, tt := range []struct{ auth, account, want string }{
		{"success", "success", "yes"},
		{"auth_err", "success", "no"},
		{"maxtries", "success", "no"},
		{"user_unknown", "success", "not mine"},
		{"authinfo_unavail", "success", "unknown"},
		{"system_err", "success", "unknown"},
		{"abort", "success", "unknown"},
		{"cred_insufficient", "success", "unknown"},
		{"success", "acct_expired", "no"},
		{"success", "new_authtok_reqd", "expired"},
		{"success", "authtok_expired", "expired"},
		{"new_authtok_reqd", "success", "no"}, // nobody says that the password was right
		{"success", "perm_denied", "no"},
		{"success", "user_unknown", "no"},
		{"success", "authinfo_unavail", "unknown"},
		{"success", "service_err", "unknown"},
	} {
		t.Run("auth "+tt.auth+", account "+tt.account, func(t *testing.T) {
			t.Parallel()
			service := "debug-" + tt.auth + "-" + tt.account
			testenv.PAMService(t, dir, service, "auth required pam_debug.so auth="+tt.auth, "account required pam_debug.so acct="+tt.account)
			_, err := open(t, service).Verify(t.Context(), attempt("alice", "secret"))
			if got := class(err); got != tt.want {
				t.Errorf("is %s (%v), want %s", got, err, tt.want)
			}
			if tt.account != "success" && tt.want == "no" && !errors.Is(err, authn.ErrRefused) {
				t.Errorf("%v is not marked as a refusal after a right password", err)
			}
		})
	}
}

// TestLocalUser has pam_unix check a user of this machine.
func TestLocalUser(t *testing.T) {
	t.Parallel()
	stored, err := authn.MakeHash("sha512-crypt", "right horse")
	if err != nil {
		t.Fatal(err)
	}
	login := testenv.LocalUser(t, strings.TrimPrefix(stored, "{CRYPT}"))
	dir := testenv.TempDir(t)
	testenv.PAMService(t, dir, "unix", "auth required pam_unix.so nodelay", "account required pam_unix.so")
	v, err := pam.New(pam.Config{Service: "unix", Command: []string{built.Get(t), "auth-helper"}, ServiceDir: dir}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	run(t, v)
	verify := func(password string) (string, error) {
		id, err := v.Verify(t.Context(), attempt(login, password))
		return id.Authentication, err
	}
	if name, err := verify("right horse"); err != nil || name != login {
		t.Errorf("right password: %q, %v", name, err)
	}
	if _, err := verify("wrong horse"); class(err) != "no" {
		t.Errorf("wrong password: %v", err)
	}
	testenv.Run(t, testenv.Program(t, "chage"), "--expiredate", "2001-01-01", login)
	if _, err := verify("right horse"); class(err) != "no" || !errors.Is(err, authn.ErrRefused) {
		t.Errorf("expired account with the right password: %v, want a refusal", err)
	}
}

func TestHelperIsStartedAgain(t *testing.T) {
	t.Parallel()
	dir := testenv.TempDir(t)
	// A helper that cannot start, until it can.
	command := filepath.Join(dir, "command")
	script := fmt.Sprintf("#!/bin/sh\n[ -e %s/ready ] || exit 1\nexec %s \"$@\"\n", dir, built.Get(t))
	if err := os.WriteFile(command, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.PAMService(t, dir, "permit", "auth required pam_permit.so", "account required pam_permit.so")
	v, err := pam.New(pam.Config{
		Service: "permit", Command: []string{command, "auth-helper"}, ServiceDir: dir, Timeout: 500 * time.Millisecond,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	run(t, v)
	if _, err := v.Verify(t.Context(), attempt("alice", "secret")); class(err) != "unknown" {
		t.Errorf("without a helper: %v, want unknown", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		_, err := v.Verify(t.Context(), attempt("alice", "secret"))
		return err
	})
}

// TestSocket is about helpers somebody else runs, or something else in their
// place.
func TestSocket(t *testing.T) {
	t.Parallel()
	yes, err := pam.Response{Phase: pam.PhaseAccount, User: "Alice"}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		answer []byte // nil to close without one
		want   string
	}{
		{"answers", yes, "yes"},
		{"closes", nil, "unknown"},
		{"answers nonsense", []byte("250 OK"), "unknown"},
		{"answers too much", make([]byte, pam.MaxMessageOctets+100), "unknown"},
		{"names no user", []byte{'A', 1, byte(pam.PhaseAccount), 0, 0, 0, 0, 0, 0}, "unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(testenv.TempDir(t), "s")
			listener, err := net.Listen("unixpacket", path)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				buf := make([]byte, pam.MaxMessageOctets)
				if _, err := conn.Read(buf); err == nil && tt.answer != nil {
					_, _ = conn.Write(tt.answer)
				}
			}()
			v, err := pam.New(pam.Config{Socket: path}, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			id, err := v.Verify(t.Context(), attempt("alice", "secret"))
			if got := class(err); got != tt.want {
				t.Errorf("Verify = %v, want %s", err, tt.want)
			}
			if tt.want == "yes" && id.Authentication != "alice" {
				t.Errorf("identity %q, want alice in canonical form", id.Authentication)
			}
		})
	}
}

func TestDeafHelperIsUnknown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testenv.TempDir(t), "s")
	listener, err := net.Listen("unixpacket", path) // connects, but nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	v, err := pam.New(pam.Config{Socket: path, Timeout: 100 * time.Millisecond}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), attempt("alice", "secret")); class(err) != "unknown" {
		t.Errorf("Verify = %v, want unknown", err)
	}
	absent, err := pam.New(pam.Config{Socket: path + "x"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := absent.Verify(t.Context(), attempt("alice", "secret")); class(err) != "unknown" {
		t.Errorf("without a socket: %v, want unknown", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]pam.Config{
		"service with a path": {Service: "../etc/passwd", Socket: "/x"},
		"negative timeout":    {Timeout: -1, Socket: "/x"},
		"negative workers":    {Workers: -1, Socket: "/x"},
	} {
		if _, err := pam.New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestNewMakesNothing: commands and reloads build verifiers that never run.
func TestNewMakesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	v, err := pam.New(pam.Config{Timeout: 50 * time.Millisecond}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), attempt("alice", "secret")); class(err) != "unknown" {
		t.Errorf("before Run: %v, want unknown", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

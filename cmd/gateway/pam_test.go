package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
)

// services writes PAM services into a folder: matrix knows alice, bob and
// carol, and has bob's account denied.
func services(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/usr/include/security/pam_appl.h"); err != nil {
		testenv.Missing(t, "header security/pam_appl.h (libpam0g-dev)")
	}
	dir := testenv.TempDir(t)
	passwords, denied := filepath.Join(dir, "passwords"), filepath.Join(dir, "denied")
	must(t, os.WriteFile(passwords, []byte("alice:tiger:matrix\nbob:tiger:matrix\ncarol:tiger:matrix\n"), 0o600))
	must(t, os.WriteFile(denied, []byte("bob\n"), 0o644))
	testenv.PAMService(t, dir, "matrix",
		"auth required "+testenv.PAMMatrix(t)+" passdb="+passwords,
		"account required pam_listfile.so item=user sense=deny onerr=fail file="+denied)
	testenv.PAMService(t, dir, "local", "auth required pam_unix.so", "account required pam_unix.so")
	return dir
}

// startPAMHelper runs the helper as systemd would, beside the server.
func startPAMHelper(t *testing.T, socket, dir string, services ...string) *testenv.Process {
	t.Helper()
	args := []string{"pam-helper", "--socket", socket, "--service-dir", dir}
	for _, service := range services {
		args = append(args, "--service", service)
	}
	return testenv.Start(t, testenv.Command{Path: program, Args: args, Ready: testenv.DialReady("unixpacket", socket)})
}

// newPAMSite is a site whose passwords PAM knows.
func newPAMSite(t *testing.T, authn string) *site {
	t.Helper()
	return newSite(t, variant(t, standard, ldifAuthn, authn), nil)
}

// login opens a submission session and logs in.
func (s *site) login(login, password string) error {
	c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.Auth(sasl.NewPlainClient("", login, password))
}

func TestPAM(t *testing.T) {
	t.Parallel()
	dir := services(t)
	socket := filepath.Join(dir, "helper.sock")
	s := newPAMSite(t, fmt.Sprintf(`authn "pam" {
  directory   = directory.company # alice@example.com is asked as alice
  service     = "matrix"
  socket      = %q
}`, socket)).start()
	wantAnswer(t, "before the helper runs", s.login("alice", "tiger"), "454 4.7.0")
	helper := startPAMHelper(t, socket, dir, "matrix")
	for what, row := range map[string]struct{ login, password, want string }{
		"password":              {"alice", "tiger", ""},
		"login by address":      {"a.anders@example.com", "tiger", ""},
		"wrong password":        {"alice", "wrong", "535 5.7.8"},
		"directory's password":  {"alice", "alice-secret", "535 5.7.8"},
		"empty password":        {"alice", "", "535 5.7.8"},
		"account is denied":     {"bob", "tiger", "535 5.7.13"},
		"nobody":                {"nobody", "tiger", "535 5.7.8"},
		"disabled in directory": {"dave", "tiger", "535 5.7.8"},
	} {
		if err := s.login(row.login, row.password); answer(err) != row.want && (row.want == "" || code(err) != 535) {
			t.Errorf("%s: %v, want %q", what, err, row.want)
		}
	}
	must(t, s.submit("alice", "tiger", "alice@example.com", []string{"carol@example.com"}, "by PAM"))
	if _, err := s.imap("bob", "tiger"); err == nil {
		t.Error("a denied account may read mail")
	}
	if c, err := s.imap("carol", "tiger"); err != nil {
		t.Errorf("IMAP: %v", err)
	} else {
		_ = c.Close()
	}

	helper.Kill()
	wantAnswer(t, "helper killed", s.login("alice", "tiger"), "454 4.7.0")
	wantAnswer(t, "helper killed, a new wrong password", s.login("alice", "another"), "454 4.7.0")
	startPAMHelper(t, socket, dir, "matrix")
	testenv.Eventually(t, outageLimit, func() error { return s.login("alice", "tiger") })
}

// TestPAMHelperOfTheServer: without a helper beside it the server runs one
// itself, starts it again when it dies, and ends it.
func TestPAMHelperOfTheServer(t *testing.T) {
	t.Parallel()
	dir := services(t)
	s := newPAMSite(t, fmt.Sprintf(`authn "pam" {
  service     = "matrix"
  service_dir = %q
}`, dir)).start()
	testenv.Eventually(t, outageLimit, func() error { return s.login("alice", "tiger") })
	helper := children(t, s.proc.PID())
	if len(helper) != 1 {
		t.Fatalf("the server's children are %v, want one helper", helper)
	}
	must(t, syscall.Kill(helper[0], syscall.SIGKILL))
	testenv.Eventually(t, outageLimit, func() error { return s.login("alice", "tiger") })
	if again := children(t, s.proc.PID()); len(again) != 1 || again[0] == helper[0] {
		t.Errorf("after the kill the children are %v, before %v", again, helper)
	}
	helper = children(t, s.proc.PID())
	s.proc.Stop()
	must(t, s.proc.Err())
	testenv.Eventually(t, outageLimit, func() error {
		if err := syscall.Kill(helper[0], 0); err != syscall.ESRCH {
			return fmt.Errorf("the helper is left behind: %v", err)
		}
		return nil
	})
}

// children lists the processes that a process started and that still run.
func children(t *testing.T, pid int) (found []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(t, err)
	for _, task := range tasks {
		list, err := os.ReadFile(task)
		if err != nil {
			continue // that thread has ended
		}
		for _, word := range strings.Fields(string(list)) {
			child, err := strconv.Atoi(word)
			must(t, err)
			found = append(found, child)
		}
	}
	return found
}

// TestLocalUser logs in a user of this machine, by pam_unix, until the account
// expires.
func TestLocalUser(t *testing.T) {
	t.Parallel()
	dir := services(t)
	hash := exec.Command(program, "password", "--scheme", "sha512-crypt")
	hash.Stdin = strings.NewReader("a local secret\n")
	out, err := hash.Output()
	must(t, err)
	user := testenv.LocalUser(t, strings.TrimPrefix(strings.TrimSpace(string(out)), "{CRYPT}"))
	s := newPAMSite(t, fmt.Sprintf(`authn "pam" {
  service     = "local"
  service_dir = %q
}`, dir)).start()
	testenv.Eventually(t, outageLimit, func() error { return s.login(user, "a local secret") })
	if err := s.login(user, "another secret"); code(err) != 535 {
		t.Errorf("wrong password: %v", err)
	}
	testenv.Run(t, testenv.Program(t, "chage"), "--expiredate", "1", user)
	if err := s.login(user, "a local secret"); code(err) != 535 {
		t.Errorf("expired account: %v, want 535", err)
	}
}

// TestPAMSocketOfAnother: what answers in the helper's place and talks
// nonsense says nothing about passwords.
func TestPAMSocketOfAnother(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(testenv.TempDir(t), "s")
	l, err := net.Listen("unixpacket", socket)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("yes, whatever you ask"))
			_ = conn.Close()
		}
	}()
	s := newPAMSite(t, fmt.Sprintf("authn \"pam\" { socket = %q }", socket)).start()
	wantAnswer(t, "login", s.login("alice", "tiger"), "454 4.7.0")
}

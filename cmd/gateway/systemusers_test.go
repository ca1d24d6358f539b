package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestSystemUsers: a user of this machine has mail, logs in by PAM and reads
// it, as where Dovecot has "userdb { driver = passwd }".
func TestSystemUsers(t *testing.T) {
	t.Parallel()
	dir := services(t)
	hash := exec.Command(program, "password", "--scheme", "sha512-crypt")
	hash.Stdin = strings.NewReader("a local secret\n")
	out, err := hash.Output()
	must(t, err)
	user := testenv.LocalUser(t, strings.TrimPrefix(strings.TrimSpace(string(out)), "{CRYPT}"))
	local := variant(t, standard, ldifDirectory, `directory "nss" "company" {
  sources       = ["files"]
  home_template = "/var/mail/%n"
}
`, ldifAuthn, fmt.Sprintf(`authn "pam" {
  directory   = directory.company
  service     = "local"
  service_dir = %q
}`, dir))
	s := newSite(t, local, nil).start()
	address := user + "@example.com"
	testenv.Eventually(t, outageLimit, func() error { return s.login(user, "a local secret") })
	must(t, s.login(address, "a local secret"))
	must(t, s.submit(user, "a local secret", address, []string{user + "@example.net"}, "to a local user"))
	testenv.Eventually(t, outageLimit, func() error {
		c, err := s.imap(user, "a local secret")
		if err == nil {
			defer c.Close()
			var found, _ = c.Select("INBOX", nil).Wait()
			if found == nil || found.NumMessages != 1 {
				err = fmt.Errorf("INBOX holds %+v", found)
			}
		}
		return err
	})
	for _, nobody := range []string{"root", "nobody", "no-such-user-here"} {
		if err := s.inject("a@example.org", []string{nobody + "@example.com"}, "to nobody"); code(err) != 550 {
			t.Errorf("%s: %v, want 550", nobody, err)
		}
	}
	if err := s.submit(user, "a local secret", "root@example.com", []string{address}, "as root"); code(err) != 553 {
		t.Errorf("sent as root: %v", err)
	}
	// The command has a helper of its own.
	temporary := testenv.TempDir(t)
	lookup := exec.Command(program, "lookup", "--servers", address, "-c", s.Config)
	lookup.Env = append(os.Environ(), "TMPDIR="+temporary)
	if text, err := lookup.CombinedOutput(); err != nil || !strings.Contains(string(text), user) || strings.Contains(string(text), "not answer") {
		t.Errorf("lookup: %v\n%s", err, text)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestSystemUsersOutage: a source that does not answer refuses nobody for good.
func TestSystemUsersOutage(t *testing.T) {
	t.Parallel()
	s := newSite(t, variant(t, standard, ldifDirectory, `directory "nss" "company" { sources = ["files", "posternabsent"] }
`,
		ldifAuthn, `authn "pam" { directory = directory.company }`), nil).start()
	if err := s.inject("a@example.org", []string{"no-such-user-here@example.com"}, "unknown"); code(err) != 451 {
		t.Errorf("with a source that does not answer: %v, want 451", err)
	}
}

// TestPasswordExpired: who knows the password is told that it has expired, by
// SMTP in words and by IMAP in a code (RFC 5530); who does not, is not.
func TestPasswordExpired(t *testing.T) {
	t.Parallel()
	dir := services(t)
	passwords := filepath.Join(dir, "passwords")
	testenv.PAMService(t, dir, "imap", "auth required "+testenv.PAMMatrix(t)+" passdb="+passwords, "account required pam_debug.so acct=new_authtok_reqd")
	testenv.PAMService(t, dir, "mail", "auth required "+testenv.PAMMatrix(t)+" passdb="+passwords, "account required pam_debug.so acct=authtok_expired")
	must(t, os.WriteFile(passwords, []byte("alice:tiger:imap\nalice:tiger:mail\n"), 0o600))
	s := newPAMSite(t, fmt.Sprintf(`authn "pam" {
  directory   = directory.company
  service     = "{protocol}"
  services    = ["smtp=mail"]
  service_dir = %q
}`, dir)).start()
	testenv.Eventually(t, outageLimit, func() error {
		if err := s.login("alice", "wrong"); answer(err) != "535 5.7.8" {
			return fmt.Errorf("wrong password: %v", err)
		}
		return nil
	})
	if err := s.login("alice", "wrong again"); err == nil || strings.Contains(err.Error(), "expired") {
		t.Errorf("wrong password: %v", err)
	}
	if err := s.login("alice", "tiger"); code(err) != 535 || !strings.Contains(err.Error(), "Password expired") {
		t.Errorf("expired password by SMTP: %v", err)
	}
	if _, err := s.imap("alice", "tiger"); err == nil || !strings.Contains(err.Error(), "EXPIRED") {
		t.Errorf("expired password by IMAP: %v", err)
	}
	s.waitForAudit("PAM_NEW_AUTHTOK_REQD", "PAM_AUTHTOK_EXPIRED") // of each service
}

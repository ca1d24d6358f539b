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

// kerberosSite is a site in a realm, whose people log in by tickets, and by
// passwords as well.
func newKerberosSite(t *testing.T, authn string) (*site, *testenv.KDCServer) {
	t.Helper()
	if _, err := os.Stat("/usr/include/gssapi/gssapi.h"); err != nil {
		testenv.Missing(t, "header gssapi/gssapi.h (libkrb5-dev)")
	}
	kdc := testenv.KDC(t, "EXAMPLE.COM", "alice", "dave", "mallory", "imap/localhost", "smtp/localhost")
	keytab := kdc.Keytab("imap/localhost", "smtp/localhost")
	s := newSite(t, variant(t, standard, ldifAuthn, ldifAuthn+fmt.Sprintf(`
authn "gssapi" {
  directory   = directory.company
  keytab      = %q
  krb5_config = %q
  realms      = ["EXAMPLE.COM"]
}`, keytab, kdc.Config)+authn), nil)
	return s, kdc
}

// by runs a client with somebody's tickets.
func by(kdc *testenv.KDCServer, cache, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(append(os.Environ(), kdc.Env()...), "KRB5CCNAME="+cache)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestKerberos: curl and Cyrus's clients send and read with a ticket in the
// place of a password.
func TestKerberos(t *testing.T) {
	t.Parallel()
	curl := testenv.Program(t, "curl")
	s, kdc := newKerberosSite(t, "")
	s.start()
	alice := kdc.Login("alice")
	letter := filepath.Join(s.Dir, "letter")
	must(t, os.WriteFile(letter, []byte("From: alice@example.com\r\nTo: alice@example.com\r\nSubject: by ticket\r\n\r\nhello\r\n"), 0o600))
	args := []string{"-sS", "--max-time", "120", "--cacert", filepath.Join(s.Dir, "cert.pem"), "--ssl-reqd", "--user", ":", "--login-options", "AUTH=GSSAPI"}
	send := func(cache, from string) (string, error) {
		return by(kdc, cache, curl, append(args, "smtp://localhost:"+s.port("Submission"), "-v", "--mail-from", from, "--mail-rcpt", "alice@example.com", "--upload-file", letter)...)
	}
	if out, err := send(alice, "alice@example.com"); err != nil {
		t.Fatalf("submit by ticket: %v\n%s", err, out)
	}
	s.waitFor("alice", "by ticket", 1)
	if out, err := by(kdc, alice, curl, append(args, "imaps://localhost:"+s.port("IMAPS")+"/INBOX;UID=1")...); err != nil || !strings.Contains(out, "Subject: by ticket") {
		t.Errorf("read by ticket: %v\n%s", err, out)
	}
	if out, err := send(alice, "carol@example.com"); err == nil {
		t.Errorf("alice sent as carol\n%s", out)
	}
	// A principal without an account, and one whose account is disabled.
	for _, name := range []string{"mallory", "dave"} {
		if out, err := send(kdc.Login(name), name+"@example.com"); err == nil || !strings.Contains(out, "535 5.7.8") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	s.waitForAudit(`"mechanism":"GSSAPI"`, "alice@EXAMPLE.COM", "mallory@EXAMPLE.COM", `"verifier":"gssapi"`)
	t.Run("cyrus", func(t *testing.T) {
		t.Parallel()
		imtest, smtptest := testenv.Program(t, "imtest"), testenv.Program(t, "smtptest")
		for _, tt := range []struct{ program, port, quit, ok string }{
			{imtest, s.port("IMAPS"), ". LOGOUT\r\n", "S: A01 OK"},
			{smtptest, s.port("Submission"), "QUIT\r\n", "S: 235"},
		} {
			args := []string{"-m", "GSSAPI", "-p", tt.port}
			if tt.program == imtest {
				args = append(args, "-s")
			} else {
				args = append(args, "-t", "")
			}
			cmd := exec.Command(tt.program, append(args, "localhost")...)
			cmd.Env = append(append(os.Environ(), kdc.Env()...), "KRB5CCNAME="+alice)
			cmd.Stdin = strings.NewReader(tt.quit)
			out, err := cmd.CombinedOutput()
			if !strings.Contains(string(out), "Authenticated.") {
				t.Errorf("%s: %v\n%s", tt.program, err, out)
			}
		}
	})
}

// TestKerberosWithoutKeys: a keytab that lacks the keys is an outage of ours,
// and passwords go on.
func TestKerberosWithoutKeys(t *testing.T) {
	t.Parallel()
	curl := testenv.Program(t, "curl")
	s, kdc := newKerberosSite(t, "")
	s.start()
	must(t, s.login("alice", "alice-secret"))
	kdc.Keytab("smtp/localhost") // a newer key, which the server does not have
	out, err := by(kdc, kdc.Login("alice"), curl, "-sS", "-v", "--max-time", "120", "--cacert", filepath.Join(s.Dir, "cert.pem"), "--ssl-reqd", "--user", ":",
		"--login-options", "AUTH=GSSAPI", "smtp://localhost:"+s.port("Submission"), "--mail-from", "alice@example.com", "--mail-rcpt", "alice@example.com", "--upload-file", s.Config)
	if err == nil || !strings.Contains(out, "454 4.7.0") {
		t.Errorf("with an old keytab: %v\n%s", err, out)
	}
	must(t, s.login("alice", "alice-secret"))
}

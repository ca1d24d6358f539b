package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// DovecotServer is a private Dovecot: a mailbox server that shares no code
// with ours.
type DovecotServer struct {
	// LMTP is a unix socket; LMTPAddr is 127.0.0.1 with a port and offers
	// STARTTLS. Recipients who are no users are refused at RCPT.
	LMTP, LMTPAddr string
	// Auth is the client socket of its auth service.
	Auth string
	// IMAP is 127.0.0.1 with a port, in the clear, with STARTTLS on offer.
	IMAP string
	// POP3 is 127.0.0.1 with a port, in the clear, with STLS on offer.
	POP3 string
	// Password is every user's.
	Password string
	// Master may log in as any user, with MasterPassword; connections from
	// this machine may say for whom they come.
	Master, MasterPassword string
	// CAFile trusts the certificate, which is for localhost and 127.0.0.1.
	CAFile string

	t        testing.TB
	dir      string
	program  string
	settings string // beyond those that every test has
	process  *Process
}

// Dovecot starts a Dovecot in a private directory, with users by their
// address, and ends it after the test.
func Dovecot(t testing.TB, users ...string) *DovecotServer {
	t.Helper()
	return DovecotWith(t, "", users...)
}

// DovecotWith is Dovecot with settings of its own, in the form of
// dovecot.conf, which win over the others.
func DovecotWith(t testing.TB, settings string, users ...string) *DovecotServer {
	t.Helper()
	s := &DovecotServer{
		Password: "secret",
		Master:   "master", MasterPassword: "master secret",
		t:        t,
		dir:      TempDir(t),
		program:  Program(t, "dovecot"),
		settings: settings,
	}
	s.LMTP, s.Auth = s.path("lmtp"), s.path("auth")
	// The login processes run under other accounts than the test's.
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mail := s.path("mail")
	if err := os.Mkdir(mail, 0o700); err != nil {
		t.Fatal(err)
	}
	owner := dovecotOwner(t)
	if err := os.Chown(mail, owner.uid, owner.gid); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, u := range users {
		fmt.Fprintf(&table, "%s:{PLAIN}%s:%d:%d::%s/%s::\n", strings.ToLower(u), s.Password, owner.uid, owner.gid, mail, strings.ToLower(u))
	}
	writeFile(t, s.path("users"), []byte(table.String()), 0o644)
	writeFile(t, s.path("masters"), []byte(s.Master+":{PLAIN}"+s.MasterPassword+"\n"), 0o644)
	ca := NewCA(t)
	s.CAFile = ca.WriteFile(s.dir)
	cert, key := ca.Issue("localhost", "127.0.0.1").WriteFiles(t, s.dir, "dovecot")
	s.start(owner, cert, key)
	return s
}

// Process is the running program, to be paused or killed.
func (s *DovecotServer) Process() *Process { return s.process }

// Restart starts the program again after it was killed, with the same
// mailboxes and at the same addresses.
func (s *DovecotServer) Restart() {
	s.t.Helper()
	s.process.Stop()
	s.process.Kill() // login processes outlive the master, and hold its ports
	for _, address := range []string{s.LMTPAddr, s.IMAP, s.POP3} {
		awaitPort(s.t, address)
	}
	s.process = Start(s.t, s.command())
}

func (s *DovecotServer) path(name string) string { return filepath.Join(s.dir, name) }

func (s *DovecotServer) start(owner dovecotAccount, cert, key string) {
	s.t.Helper()
	lmtp, imap, pop3 := FreePort(s.t), FreePort(s.t), FreePort(s.t)
	s.LMTPAddr, s.IMAP, s.POP3 = loopback(lmtp), loopback(imap), loopback(pop3)
	writeFile(s.t, s.path("dovecot.conf"), []byte(s.config(owner, cert, key, lmtp, imap, pop3)), 0o644)
	s.process = Start(s.t, s.command())
}

func (s *DovecotServer) command() Command {
	lmtp, imap, pop3, auth := DialReady("unix", s.LMTP), DialReady("tcp", s.IMAP), DialReady("tcp", s.POP3), DialReady("unix", s.Auth)
	ready := func(ctx context.Context) error { return errors.Join(lmtp(ctx), imap(ctx), pop3(ctx), auth(ctx)) } // its sockets open one after the other
	return Command{Path: s.program, Args: []string{"-F", "-c", s.path("dovecot.conf")}, Ready: ready, OwnGroup: true, Expendable: true}
}

func (s *DovecotServer) config(owner dovecotAccount, cert, key string, lmtp, imap, pop3 int) string {
	return fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
instance_name = %[2]s
log_path = /dev/stderr
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <%[3]s
ssl_key = <%[4]s
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_format = %%Lu
mail_location = maildir:%%h/Maildir
mail_fsync = never
first_valid_uid = 1
default_login_user = %[5]s
default_internal_user = %[6]s
default_internal_group = %[7]s
postmaster_address = postmaster@localhost
lmtp_save_to_detail_mailbox = no
namespace inbox {
  inbox = yes
}
login_trusted_networks = 127.0.0.0/8
passdb {
  driver = passwd-file
  master = yes
  args = username_format=%%u %[1]s/masters
}
passdb {
  driver = passwd-file
  args = username_format=%%Lu %[1]s/users
}
userdb {
  driver = passwd-file
  args = username_format=%%Lu %[1]s/users
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[8]d
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  chroot =
  inet_listener pop3 {
    port = %[10]d
  }
  inet_listener pop3s {
    port = 0
  }
}
service lmtp {
  inet_listener lmtp {
    port = %[9]d
  }
  unix_listener %[1]s/lmtp {
    mode = 0666
  }
}
service auth {
  unix_listener %[1]s/auth {
    mode = 0666
  }
}
service anvil {
  chroot =
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
%[11]s
`, s.dir, filepath.Base(s.dir), cert, key, owner.login, owner.internal, owner.internalGroup, imap, lmtp, pop3, s.settings)
}

// dovecotAccount is what Dovecot's processes run as and mail belongs to.
type dovecotAccount struct {
	uid, gid                       int // of mail
	login, internal, internalGroup string
}

// dovecotOwner returns the accounts of Dovecot's package when we are root, as
// it insists on then, and else our own for everything.
func dovecotOwner(t testing.TB) dovecotAccount {
	t.Helper()
	if os.Getuid() == 0 {
		u, err := user.Lookup("nobody")
		if err != nil {
			Missing(t, "user nobody")
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID != nil || errGID != nil {
			t.Fatalf("user nobody has ids %q and %q", u.Uid, u.Gid)
		}
		return dovecotAccount{uid: uid, gid: gid, login: "dovenull", internal: "dovecot", internalGroup: "dovecot"}
	}
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return dovecotAccount{uid: os.Getuid(), gid: os.Getgid(), login: u.Username, internal: u.Username, internalGroup: g.Name}
}

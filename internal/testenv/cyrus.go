package testenv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// CyrusServer is a private Cyrus IMAP server, of which only LMTP runs: its
// package and Dovecot's for IMAP exclude each other, so mailboxes are read from
// the spool.
type CyrusServer struct {
	// LMTP is a unix socket, on which clients need no login. LMTPAddr is
	// 127.0.0.1 with a port; it offers STARTTLS, and AUTH after it, without which
	// it takes no mail.
	LMTP, LMTPAddr string
	// Login and Password are the LMTP client's.
	Login, Password string
	// CAFile trusts the certificate, which is for localhost and 127.0.0.1.
	CAFile string

	t       testing.TB
	dir     string
	account string // the programs run as
}

// cyrusPrograms is where Cyrus keeps what it does not mean for users.
const cyrusPrograms = "/usr/lib/cyrus/bin"

// Cyrus starts a Cyrus in a private directory and ends it after the test.
// Users, by their local-part, have mailboxes of at most quotaKiB, 0 for no
// limit; others are refused at RCPT.
func Cyrus(t testing.TB, quotaKiB int, users ...string) *CyrusServer {
	t.Helper()
	master := filepath.Join(cyrusPrograms, "master")
	if _, err := os.Stat(master); err != nil {
		Missing(t, "cyrus-common")
	}
	setsid := Program(t, "setsid") // at its end master signals all of its process group
	saslpasswd := Program(t, "saslpasswd2")
	s := &CyrusServer{Login: "postern", Password: "secret", t: t, dir: TempDir(t)}
	s.LMTP = s.path("lmtp")
	for _, dir := range []string{"conf", "conf/socket", "spool", "run", "sieve"} {
		if err := os.Mkdir(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ca := NewCA(t)
	s.CAFile = ca.WriteFile(s.dir)
	cert, key := ca.Issue("localhost", "127.0.0.1").WriteFiles(t, s.dir, "cyrus")
	writeFile(t, s.path("imapd.conf"), []byte(s.config(quotaKiB, users, cert, key)), 0o644)
	s.setPassword(saslpasswd)
	s.own(t)
	s.LMTPAddr = loopback(FreePort(t))
	writeFile(t, s.path("cyrus.conf"), []byte(s.services()), 0o644)
	Start(t, Command{
		Path: setsid, Args: []string{master, "-D", "-C", s.path("imapd.conf"), "-M", s.path("cyrus.conf"), "-p", s.path("pid")},
		Env: []string{"CYRUS_USER=" + s.account}, Ready: s.greets,
	})
	return s
}

// greets is ready when the first process took a connection: it creates the
// databases, which it must not do beside another one.
func (s *CyrusServer) greets(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", s.LMTP)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "QUIT\r\n"); err != nil {
		return err
	}
	said, err := io.ReadAll(conn)
	if !bytes.HasPrefix(said, []byte("220 ")) {
		return fmt.Errorf("said %q, %w", said, err)
	}
	return nil
}

func (s *CyrusServer) path(name string) string { return filepath.Join(s.dir, name) }

// setPassword gives the LMTP client a password, by standard input.
func (s *CyrusServer) setPassword(program string) {
	s.t.Helper()
	c := exec.Command(program, "-p", "-c", "-f", s.path("sasldb"), "-u", "localhost", s.Login)
	c.Stdin = strings.NewReader(s.Password + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// own decides which account the programs run as and gives it the directory:
// the package's when we are root, as they insist on then, else our own.
func (s *CyrusServer) own(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		u, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		s.account = u.Username
		return
	}
	s.account = "cyrus"
	u, err := user.Lookup(s.account)
	if err != nil {
		Missing(t, "user cyrus")
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if errUID != nil || errGID != nil {
		t.Fatalf("user cyrus has ids %q and %q", u.Uid, u.Gid)
	}
	err = filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *CyrusServer) config(quotaKiB int, users []string, cert, key string) string {
	return fmt.Sprintf(`configdirectory: %[1]s/conf
partition-default: %[1]s/spool
defaultpartition: default
sievedir: %[1]s/sieve
lmtpsocket: %[1]s/lmtp
idlesocket: %[1]s/run/idle
notifysocket: %[1]s/run/notify
proc_path: %[1]s/run/proc
mboxname_lockpath: %[1]s/run/lock
servername: localhost
lmtp_admins: %[2]s
unixhierarchysep: yes
virtdomains: off
autocreate_post: yes
autocreate_quota: %[3]d
autocreate_users: %[4]s
duplicatesuppression: no
allowplaintext: no
sasl_mech_list: PLAIN
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: %[1]s/sasldb
tls_server_cert: %[5]s
tls_server_key: %[6]s
`, s.dir, s.Login, quotaKiB, strings.Join(users, " "), cert, key)
}

func (s *CyrusServer) services() string {
	return fmt.Sprintf(`START {
  recover cmd="%[1]s/ctl_cyrusdb -C %[2]s/imapd.conf -r"
}
SERVICES {
  lmtpunix cmd="%[1]s/lmtpd -C %[2]s/imapd.conf" listen="%[2]s/lmtp" prefork=0
  lmtp cmd="%[1]s/lmtpd -C %[2]s/imapd.conf" listen="%[3]s" prefork=0
}
EVENTS {
}
`, cyrusPrograms, s.dir, s.LMTPAddr)
}

// Messages returns what is in a user's INBOX, in order of arrival; lines end
// in CRLF.
func (s *CyrusServer) Messages(user string) [][]byte {
	s.t.Helper()
	c := exec.Command(filepath.Join(cyrusPrograms, "mbpath"), "-C", s.path("imapd.conf"), "user/"+user)
	c.Env = append(os.Environ(), "CYRUS_USER="+s.account)
	out, err := c.Output()
	if err != nil {
		s.t.Fatalf("where the mailbox of %s is: %v", user, err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*."))
	if err != nil {
		s.t.Fatal(err)
	}
	number := func(path string) int {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), "."))
		if err != nil {
			s.t.Fatalf("%s is no message", path)
		}
		return n
	}
	slices.SortFunc(files, func(a, b string) int { return number(a) - number(b) })
	var found [][]byte
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			s.t.Fatal(err)
		}
		found = append(found, content)
	}
	return found
}

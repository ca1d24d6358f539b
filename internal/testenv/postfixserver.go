package testenv

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// PostfixServer is a private Postfix that takes mail in: its own master, with
// configuration, queue and data in a temporary folder.
type PostfixServer struct {
	// SMTP is 127.0.0.1 with a port, with STARTTLS on offer.
	SMTP string
	// CAFile trusts the certificate, which is for localhost and 127.0.0.1.
	CAFile string

	dir string
}

// postfixServerConfig takes mail for everybody from those who logged in, and
// passes nothing on.
const postfixServerConfig = `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
myhostname = postfix.example.com
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_dns_support_level = disabled
smtpd_tls_cert_file = %[2]s
smtpd_tls_key_file = %[3]s
smtpd_tls_security_level = may
smtpd_client_connection_rate_limit = 0
default_transport = hold:nowhere
`

const postfixServerMaster = `%s inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
smtp unix - - n - - smtp
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
`

// override replaces the lines of a main.cf that say something of the same
// parameters, for Postfix warns of two.
func override(config string, lines []string) string {
	said := make(map[string]bool)
	parameter := func(line string) string {
		name, _, _ := strings.Cut(line, "=")
		return strings.TrimSpace(name)
	}
	for _, line := range lines {
		said[parameter(line)] = true
	}
	out := &strings.Builder{}
	for line := range strings.Lines(config) {
		if !said[parameter(line)] {
			out.WriteString(line)
		}
	}
	return out.String() + strings.Join(lines, "\n") + "\n"
}

// PostfixMaster starts a Postfix with the given lines of main.cf beside those
// it needs, and ends it after the test. It needs root: master changes users.
func PostfixMaster(t testing.TB, lines ...string) *PostfixServer {
	t.Helper()
	return postfixMaster(t, lines, nil)
}

// PostfixService is one more SMTP server of a PostfixServer, with settings of its
// own as master.cf gives them.
type PostfixService struct {
	Settings []string // "name = value"
	// Address is where it listens, filled in.
	Address string
}

// PostfixServices is PostfixMaster with further SMTP servers.
func PostfixServices(t testing.TB, lines []string, services []*PostfixService) *PostfixServer {
	t.Helper()
	return postfixMaster(t, lines, services)
}

// masterEntries are the lines of master.cf for services at fresh ports.
func masterEntries(t testing.TB, services []*PostfixService) string {
	var b strings.Builder
	for _, s := range services {
		s.Address = loopback(FreePort(t))
		b.WriteString(s.Address + " inet n - n - - smtpd\n")
		for _, setting := range s.Settings {
			b.WriteString("  -o { " + setting + " }\n")
		}
	}
	return b.String()
}

func postfixMaster(t testing.TB, lines []string, services []*PostfixService) *PostfixServer {
	t.Helper()
	program := Program(t, "postfix")
	owner, err := user.Lookup("postfix")
	if err != nil || os.Getuid() != 0 {
		Missing(t, "root, and the user postfix, for Postfix's master")
	}
	s := &PostfixServer{dir: TempDir(t)}
	for _, d := range []string{"", "etc", "spool", "data"} {
		path := filepath.Join(s.dir, d)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil { // its processes run as another user
			t.Fatal(err)
		}
	}
	uid, errUID := strconv.Atoi(owner.Uid)
	gid, errGID := strconv.Atoi(owner.Gid)
	if errUID != nil || errGID != nil {
		t.Fatalf("user postfix has ids %q and %q", owner.Uid, owner.Gid)
	}
	if err := os.Chown(filepath.Join(s.dir, "data"), uid, gid); err != nil {
		t.Fatal(err)
	}
	ca := NewCA(t)
	s.CAFile = ca.WriteFile(s.dir)
	cert, key := ca.Issue("localhost", "127.0.0.1").WriteFiles(t, s.dir, "postfix")
	etc := filepath.Join(s.dir, "etc")
	config := override(fmt.Sprintf(postfixServerConfig, s.dir, cert, key), lines)
	writeFile(t, filepath.Join(etc, "main.cf"), []byte(config), 0o644)
	writeFile(t, filepath.Join(etc, "master.cf"), fmt.Appendf(nil, postfixServerMaster, "smtp"), 0o644)
	Run(t, program, "-c", etc, "check") // makes the folders of the queue
	// Not "postfix start-fg": a shell would stand between us and master.
	master := filepath.Join(strings.TrimSpace(Run(t, Program(t, "postconf"), "-c", etc, "-h", "daemon_directory")), "master")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of Postfix:\n%s", s.Log())
		}
	})
	own := &PostfixService{}
	entries := masterEntries(t, append([]*PostfixService{own}, services...))
	s.SMTP = own.Address
	writeFile(t, filepath.Join(etc, "master.cf"), []byte(strings.Replace(postfixServerMaster, "%s inet n - n - - smtpd\n", entries, 1)), 0o644)
	Start(t, Command{Path: master, Args: []string{"-c", etc}, Ready: s.ready(services)})
	return s
}

// ready succeeds when the last server listens: master begins with the first.
func (s *PostfixServer) ready(services []*PostfixService) func(context.Context) error {
	last := s.SMTP
	if len(services) > 0 {
		last = services[len(services)-1].Address
	}
	return DialReady("tcp", last)
}

// Log is what Postfix logged.
func (s *PostfixServer) Log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "mail.log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

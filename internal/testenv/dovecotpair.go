package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// DovecotPairServer is two private Dovecots 2.3 that replicate all mailboxes to
// each other by dsync, over cables.
type DovecotPairServer struct {
	Nodes [2]*DovecotNode
	// Cables are what node 0 and node 1 reach their partner by.
	Cables [2]*Cable
}

// DovecotNode is one of a pair.
type DovecotNode struct {
	// LMTP and IMAP are 127.0.0.1 with a port, in the clear.
	LMTP, IMAP string

	t       testing.TB
	name    string
	dir     string
	process *Process
}

// DovecotPairOptions are what tests change of a pair.
type DovecotPairOptions struct {
	// ShortMemory rotates index logs with every kilobyte and second, in the
	// place of a long outage.
	ShortMemory bool
	Users       []string
}

const dovecotPairPassword = "secret"

// DovecotPair starts two Dovecots that replicate, and ends them after the test.
// Every user's password is "secret".
func DovecotPair(t testing.TB, o DovecotPairOptions) *DovecotPairServer {
	t.Helper()
	program := Program(t, "dovecot")
	owner := dovecotOwner(t)
	p := &DovecotPairServer{}
	var doveadm [2]int
	for i := range p.Nodes {
		doveadm[i] = FreePort(t)
		n := &DovecotNode{t: t, name: fmt.Sprintf("node%d.test", i), dir: TempDir(t)}
		n.IMAP = net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
		n.LMTP = net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
		p.Nodes[i] = n
	}
	for i, n := range p.Nodes {
		p.Cables[i] = NewCable(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(doveadm[1-i])))
		_, partner, _ := net.SplitHostPort(p.Cables[i].Addr())
		n.prepare(owner, o, doveadm[i], partner)
		n.start(program)
	}
	return p
}

// Pull cuts the pair apart; Plug joins it.
func (p *DovecotPairServer) Pull() {
	for _, c := range p.Cables {
		c.Pull()
	}
}

// Plug lets the two reach each other again.
func (p *DovecotPairServer) Plug() {
	for _, c := range p.Cables {
		c.Plug()
	}
}

// Process is the running master process.
func (n *DovecotNode) Process() *Process { return n.process }

// Mail is the folder of a user's mail.
func (n *DovecotNode) Mail(user string) string { return filepath.Join(n.dir, "mail", user) }

// Restart starts the program again with the same mailboxes and addresses.
func (n *DovecotNode) Restart() {
	n.t.Helper()
	n.process.Stop()
	n.start(Program(n.t, "dovecot"))
}

// Doveadm runs a command of doveadm against the node and returns what it wrote,
// and how it ended.
func (n *DovecotNode) Doveadm(args ...string) (string, error) {
	n.t.Helper()
	command := exec.Command(Program(n.t, "doveadm"), append([]string{"-c", filepath.Join(n.dir, "dovecot.conf")}, args...)...)
	command.Env = append(os.Environ(), n.environment()...)
	out, err := command.CombinedOutput()
	return string(out), err
}

// environment keeps the two apart, on what dsync takes for two machines.
func (n *DovecotNode) environment() []string {
	return []string{"DOVECOT_HOSTNAME=" + n.name, "DOVECOT_HOSTDOMAIN=" + n.name}
}

func (n *DovecotNode) start(program string) {
	n.t.Helper()
	lmtp, imap := DialReady("tcp", n.LMTP), DialReady("tcp", n.IMAP)
	n.process = Start(n.t, Command{
		Path: program, Args: []string{"-F", "-c", filepath.Join(n.dir, "dovecot.conf")}, Env: n.environment(),
		Ready: func(ctx context.Context) error { return errors.Join(lmtp(ctx), imap(ctx)) }, // its sockets open one after the other
	})
}

// prepare writes what the node runs with.
func (n *DovecotNode) prepare(owner dovecotAccount, o DovecotPairOptions, doveadm int, partnerPort string) {
	n.t.Helper()
	// The login processes run under other accounts than the test's.
	if err := os.Chmod(n.dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	mail := filepath.Join(n.dir, "mail")
	if err := os.Mkdir(mail, 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Chown(mail, owner.uid, owner.gid); err != nil {
		n.t.Fatal(err)
	}
	var table strings.Builder
	for _, u := range o.Users {
		fmt.Fprintf(&table, "%s:{PLAIN}%s:%d:%d::%s/%s::\n", u, dovecotPairPassword, owner.uid, owner.gid, mail, u)
	}
	writeFile(n.t, filepath.Join(n.dir, "users"), []byte(table.String()), 0o644)
	_, imap, _ := net.SplitHostPort(n.IMAP)
	_, lmtp, _ := net.SplitHostPort(n.LMTP)
	memory := ""
	if o.ShortMemory {
		memory = "mail_index_log_rotate_min_size = 1k\nmail_index_log_rotate_max_size = 1k\nmail_index_log_rotate_min_age = 1 secs\nmail_index_log2_max_age = 1 secs\n"
	}
	values := strings.NewReplacer(
		"DIR", n.dir, "INSTANCE", filepath.Base(n.dir), "LOGIN", owner.login, "INTERNAL", owner.internal, "GROUP", owner.internalGroup,
		"PORT_IMAP", imap, "PORT_LMTP", lmtp, "PORT_DOVEADM", strconv.Itoa(doveadm), "PORT_PARTNER", partnerPort,
		"MEMORY\n", memory, "PASSWORD", dovecotPairPassword,
	)
	writeFile(n.t, filepath.Join(n.dir, "dovecot.conf"), []byte(values.Replace(dovecotPairConfig)), 0o644)
}

const dovecotPairConfig = `base_dir = DIR/run
state_dir = DIR/state
instance_name = INSTANCE
log_path = /dev/stderr
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_format = %Lu
mail_location = sdbox:%h/sdbox
mail_plugins = $mail_plugins notify replication
MEMORY
first_valid_uid = 1
default_login_user = LOGIN
default_internal_user = INTERNAL
default_internal_group = GROUP
postmaster_address = postmaster@localhost
doveadm_password = PASSWORD
doveadm_port = PORT_PARTNER
namespace inbox {
  inbox = yes
  separator = /
}
passdb {
  driver = passwd-file
  args = username_format=%Lu DIR/users
}
userdb {
  driver = passwd-file
  args = username_format=%Lu DIR/users
}
service imap-login {
  chroot =
  inet_listener imap {
    port = PORT_IMAP
  }
  inet_listener imaps {
    port = 0
  }
}
service lmtp {
  inet_listener lmtp {
    port = PORT_LMTP
  }
}
service replicator {
  process_min_avail = 1
  unix_listener replicator-doveadm {
    mode = 0666
  }
}
service aggregator {
  fifo_listener replication-notify-fifo {
    mode = 0666
  }
  unix_listener replication-notify {
    mode = 0666
  }
}
service doveadm {
  inet_listener {
    address = 127.0.0.1
    port = PORT_DOVEADM
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
replication_max_conns = 10
plugin {
  mail_replica = tcp:127.0.0.1:PORT_PARTNER
}
`

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// peersMissing says why Postfix and Dovecot cannot be measured, or nothing.
func peersMissing() string {
	for _, name := range []string{"postfix", "postmap", "dovecot"} {
		if _, err := lookProgram(name); err != nil {
			return "Postfix and Dovecot are not installed (no " + name + ")"
		}
	}
	if os.Getuid() != 0 {
		return "Postfix needs root to start an instance of its own"
	}
	for _, account := range []string{"postfix", "dovecot", "dovenull", "nobody"} {
		if _, err := user.Lookup(account); err != nil {
			return "Postfix and Dovecot are not installed (no account " + account + ")"
		}
	}
	return ""
}

// lookProgram also looks where servers stand, which PATH may leave out.
func lookProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// startPeers starts a private Dovecot and a private Postfix that delivers to
// it by LMTP over a unix socket, in dir, beside which the certificate lies.
func startPeers(ctx context.Context, dir string) (*system, error) {
	out, err := startReceiver()
	if err != nil {
		return nil, err
	}
	d, err := startDovecot(ctx, filepath.Join(dir, "dovecot"))
	if err != nil {
		return nil, err
	}
	p, err := startPostfix(ctx, filepath.Join(dir, "postfix"), postfixSetup{certificates: filepath.Dir(dir), lmtp: "unix:" + d.lmtp, out: out.address()})
	if err != nil {
		d.process.stop()
		return nil, err
	}
	s := &system{
		name: "Postfix+Dovecot", dir: dir, smtp: smtpDoor(p.smtp), imap: d.imap, pop3: d.pop3, out: out,
		lmtp:  door{network: "unix", address: d.lmtp, lmtp: true},
		roots: func() []int { return []int{p.master, d.process.command.Process.Pid} },
		stop: func() {
			p.stop()
			d.process.stop()
		},
		list:    p.list,
		another: startPeers,
	}
	// A start is Postfix's alone: it takes mail without Dovecot.
	s.start = func(ctx context.Context) error {
		if err := p.start(ctx); err != nil {
			return err
		}
		return s.untilGreeted(ctx)
	}
	return s, nil
}

type dovecot struct {
	process          *program
	lmtp, imap, pop3 string
	sasl             string // socket that Postfix asks about logins
}

// dovecotConfig is for throughput: a few processes of each kind wait, and are
// used again; mailboxes are sdbox, the faster of its two safe formats, synced
// as by default (the sync belongs to the reply).
const dovecotConfig = `base_dir = %[1]s/run
state_dir = %[1]s/state
instance_name = postern-bench
log_path = %[1]s/dovecot.log
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = sdbox:%%h/sdbox
mail_fsync = optimized
mail_max_userip_connections = 1000
first_valid_uid = 1
default_client_limit = 4000
default_vsz_limit = 1G
postmaster_address = postmaster@bench.example
namespace inbox {
  inbox = yes
  separator = /
}
passdb {
  driver = passwd-file
  args = username_format=%%Lu %[1]s/users
}
userdb {
  driver = static
  args = uid=%[2]s gid=%[3]s home=%[1]s/mail/%%Ln
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  inet_listener imap {
    port = %[4]d
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  service_count = 0
  process_min_avail = 2
  inet_listener pop3 {
    port = %[5]d
  }
  inet_listener pop3s {
    port = 0
  }
}
service imap {
  service_count = 256
  process_limit = 1200
}
service lmtp {
  process_min_avail = 4
  process_limit = 100
  unix_listener lmtp {
    mode = 0666
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
`

func startDovecot(ctx context.Context, dir string) (*dovecot, error) {
	owner, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	mail := filepath.Join(dir, "mail")
	if err := os.MkdirAll(mail, 0o755); err != nil {
		return nil, err
	}
	if err := chownTo(mail, owner); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	pop3Port, err := freePort()
	if err != nil {
		return nil, err
	}
	var table strings.Builder
	for n := range users {
		fmt.Fprintf(&table, "%s:{PLAIN}%s::::::\n", userAddress(n), userPassword(n))
	}
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(table.String()), 0o644); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "dovecot.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, dovecotConfig, dir, owner.Uid, owner.Gid, port, pop3Port), 0o644); err != nil {
		return nil, err
	}
	binary, err := lookProgram("dovecot")
	if err != nil {
		return nil, err
	}
	p, err := startProgram(filepath.Join(dir, "output"), binary, "-F", "-c", config)
	if err != nil {
		return nil, err
	}
	d := &dovecot{process: p, lmtp: filepath.Join(dir, "run", "lmtp"), imap: loopback(port), pop3: loopback(pop3Port)}
	if err := untilListening(ctx, p, d.imap); err != nil {
		p.stop()
		return nil, fmt.Errorf("dovecot: %w", err)
	}
	return d, nil
}

// chownTo gives a folder to an account.
func chownTo(path string, u *user.User) error {
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return fmt.Errorf("ids of %s: %w", u.Username, err)
	}
	return os.Chown(path, uid, gid)
}

type postfix struct {
	binary, dir, etc string
	smtp             string
	master           int // process id
}

// postfixConfig has users and recipients in local tables and lets load in
// freely: no flow control, no limit per client, many delivery agents. The
// rest is as shipped.
const postfixConfig = `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
myhostname = mx.bench.example
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks = 127.0.0.2/32
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_dns_support_level = disabled
smtp_host_lookup = native
virtual_mailbox_domains = bench.example
virtual_mailbox_maps = %[2]s:%[1]s/etc/mailboxes
virtual_transport = lmtp:%[3]s
smtpd_relay_restrictions = reject_unauth_destination
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
default_process_limit = 200
message_size_limit = 52428800
lmtp_destination_concurrency_limit = 20
smtpd_tls_cert_file = %[4]s/cert.pem
smtpd_tls_key_file = %[4]s/key.pem
smtpd_tls_security_level = may
relay_domains = out.example dead.example
transport_maps = inline:{out.example=smtp:[127.0.0.1]:%[5]s, dead.example=smtp:[127.0.0.1]:9}
`

// postfixServices are those that mail of this kind passes behind smtpd.
const postfixServices = `pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
relay unix - - n - - smtp
tlsmgr unix - - n 1000? 1 tlsmgr
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// postfixSetup is what instances differ in.
type postfixSetup struct {
	certificates string            // the folder of the certificate
	lmtp         string            // where mailboxes are, as lmtp(8) takes it
	out          string            // host:port of what is passed on
	more         string            // lines of main.cf
	indexed      map[string]string // tables for postmap, beside that of the mailboxes
	files        map[string]string // tables read as they are
}

// startPostfix starts a new instance.
func startPostfix(ctx context.Context, dir string, setup postfixSetup) (*postfix, error) {
	binary, err := lookProgram("postfix")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &postfix{binary: binary, dir: dir, etc: filepath.Join(dir, "etc"), smtp: loopback(port)}
	if err := p.write(setup); err != nil {
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	// master listens before it goes to the background.
	if err := untilListening(ctx, &program{log: p.log()}, p.smtp); err != nil {
		p.stop()
		return nil, fmt.Errorf("postfix: %w", err)
	}
	return p, nil
}

func (p *postfix) log() string { return filepath.Join(p.dir, "mail.log") }

func (p *postfix) start(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, p.binary, "-c", p.etc, "start").CombinedOutput(); err != nil {
		return fmt.Errorf("postfix start: %w\n%s%s", err, out, logTail(p.log()))
	}
	pid, err := os.ReadFile(filepath.Join(p.dir, "spool", "pid", "master.pid"))
	if err == nil {
		p.master, err = strconv.Atoi(strings.TrimSpace(string(pid)))
	}
	if err != nil {
		p.stop()
		return fmt.Errorf("postfix: %w", err)
	}
	return nil
}

func (p *postfix) list(ctx context.Context) error {
	postqueue, err := lookProgram("postqueue")
	if err != nil {
		return err
	}
	return run(ctx, postqueue, "-c", p.etc, "-p")
}

// write makes the instance: main.cf, master.cf and the tables.
func (p *postfix) write(setup postfixSetup) error {
	_, port, err := net.SplitHostPort(setup.out)
	if err != nil {
		return err
	}
	var mailboxes strings.Builder
	for n := range users {
		fmt.Fprintf(&mailboxes, "%s x\n", userAddress(n))
	}
	indexed := map[string]string{"mailboxes": mailboxes.String()}
	maps.Copy(indexed, setup.indexed)
	kind := mapType()
	files := map[string]string{
		"main.cf":   fmt.Sprintf(postfixConfig, p.dir, kind, setup.lmtp, setup.certificates, port) + setup.more,
		"master.cf": p.smtp + " inet n - n - - smtpd\n" + postfixServices,
	}
	maps.Copy(files, indexed)
	maps.Copy(files, setup.files)
	if err := p.place(files); err != nil {
		return err
	}
	postmap, err := lookProgram("postmap")
	if err != nil {
		return err
	}
	for name := range indexed {
		if out, err := exec.Command(postmap, "-c", p.etc, kind+":"+filepath.Join(p.etc, name)).CombinedOutput(); err != nil {
			return fmt.Errorf("postmap: %w\n%s", err, out)
		}
	}
	return nil
}

// place makes the folders of an instance with their owners, and its files.
func (p *postfix) place(files map[string]string) error {
	for _, d := range []string{"etc", "spool", "data"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			return err
		}
	}
	account, err := user.Lookup("postfix")
	if err != nil {
		return err
	}
	if err := chownTo(filepath.Join(p.dir, "data"), account); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(p.etc, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mapType is the faster table where its plug-in is installed.
func mapType() string { return plugIn("lmdb", "hash") }

// plugIn returns a kind of table that Postfix has where its plug-in is
// installed, or another.
func plugIn(kind, otherwise string) string {
	if found, err := filepath.Glob("/usr/lib/postfix/postfix-" + kind + ".so*"); err == nil && len(found) > 0 {
		return kind
	}
	return otherwise
}

func (p *postfix) stop() {
	// It may have ended already, and nothing is left to do about it then.
	_ = exec.Command(p.binary, "-c", p.etc, "stop").Run()
}

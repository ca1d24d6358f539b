package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"time"
)

// The systems of the directory's cases. Each is named by how it asks the one
// slapd that all of them read.
const (
	sidePostfix       = "Postfix, ldap:"
	sidePostfixProxy  = "Postfix, proxy:ldap:"
	sideDovecot       = "Postfix+Dovecot, bind"
	sideDovecotCached = "Postfix+Dovecot, auth cache"
	sideAsked         = "Postern, asks each time"
	sideRemembers     = "Postern, cache of answers"
	sideReplica       = "Postern, replica"
	sideVerified      = "Postern, replica and verifier cache"
)

// entries is how many people the directory of most cases has.
const entries = 10_000

// startDirectory starts slapd and the systems that read it.
func startDirectory(ctx context.Context, o options, dir string) (systems []*system, missing string, err error) {
	if missing = slapdMissing(); missing != "" {
		return nil, missing, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, "", err
	}
	s, err := startSlapd(ctx, filepath.Join(dir, "slapd"), entries)
	if err != nil {
		return nil, "", err
	}
	// It ends with the last of the systems: each of them needs it.
	defer func() {
		if len(systems) == 0 {
			s.stop()
			return
		}
		last := systems[0] // which are stopped in reverse
		stop := last.stop
		last.stop = func() {
			stop()
			s.stop()
		}
	}()
	binary, err := filepath.Abs(o.postern)
	if err != nil {
		return nil, "", err
	}
	for n, side := range posternSides {
		p, err := startPosternLDAP(ctx, binary, filepath.Join(dir, fmt.Sprintf("postern%d", n)), s, side)
		if err != nil {
			return systems, "", fmt.Errorf("%s: %w", side.name, err)
		}
		systems = append(systems, p)
	}
	if o.alone {
		return systems, "", nil
	}
	if missing = ldapPeersMissing(); missing != "" {
		return systems, missing, nil
	}
	peers, err := startLDAPPeers(ctx, filepath.Join(dir, "peers"), s)
	return append(systems, peers...), "", err
}

// posternSide is one way to configure Postern.
type posternSide struct {
	name      string
	directory string // settings of the directory's block
	authn     string // settings of the authn block
}

var posternSides = []posternSide{
	{name: sideAsked, directory: "replica = \"off\"\ncache_ttl = \"0s\""},
	{name: sideRemembers, directory: `replica = "off"`},
	{name: sideReplica, directory: `replica = "on"`},
	{name: sideVerified, directory: `replica = "on"`, authn: `verifier_cache = "online-only"`},
}

const posternLDAPConfig = `hostname = "mx.bench.example"
data_dir = "%[1]s/data"
log { file = "%[1]s/postern.log" }
control { socket = "%[1]s/control.sock" }
tls {
  cert_file = "%[5]s/cert.pem"
  key_file  = "%[5]s/key.pem"
}
directory "ldap" "people" {
  preset             = "openldap"
  uris               = [%[6]q]
  bind_dn            = %[7]q
  bind_password_file = "%[1]s/service.password"
  disabled_filter    = "(employeeType=disabled)"
  %[8]s
}
authn "ldap" {
  directory = directory.people
  %[9]s
}
gateway {
  listener "mx" {
    bind                    = [%[2]q]
    max_sessions_per_client = 0
  }
  listener "submission" {
    bind                    = [%[3]q]
    allow_plaintext_auth    = true
    max_sessions_per_client = 0
  }
  domains "local" {
    names      = ["bench.example"]
    recipients = directory.people
    deliver    = target.mailboxes
  }
  target "lmtp" "mailboxes" { address = ["unix:%[1]s/lmtp.sock"] }
  mynetworks = ["127.0.0.2/32"]
}
backend {
  listener "lmtp" { bind = ["unix:%[1]s/lmtp.sock"] }
  listener "imap" {
    bind                    = [%[4]q]
    allow_plaintext_auth    = true
    max_sessions_per_client = 0
    max_sessions_per_login  = 0
  }
}
`

// startPosternLDAP starts a Postern that reads slapd in dir, beside which the
// certificate lies.
func startPosternLDAP(ctx context.Context, binary, dir string, s *slapd, side posternSide) (*system, error) {
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return nil, err
	}
	var ports [3]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	p := &system{
		name: side.name, dir: dir, directory: s,
		smtp: smtpDoor(loopback(ports[0])), submission: loopback(ports[1]), imap: loopback(ports[2]),
	}
	config := filepath.Join(dir, "postern.hcl")
	text := fmt.Appendf(nil, posternLDAPConfig, dir, p.smtp.address, p.submission, p.imap, filepath.Dir(dir), s.uri(), serviceDN, side.directory, side.authn)
	err := errors.Join(os.WriteFile(config, text, 0o600),
		os.WriteFile(filepath.Join(dir, "service.password"), []byte(servicePassword+"\n"), 0o600))
	if err != nil {
		return nil, err
	}
	process, err := startProgram(filepath.Join(dir, "output"), binary, "serve", "-c", config)
	if err != nil {
		return nil, err
	}
	p.roots = func() []int { return []int{process.command.Process.Pid} }
	p.stop = process.stop
	p.copied = func(ctx context.Context) (replicaState, error) { return askReplica(ctx, binary, config) }
	err = untilListening(ctx, process, p.smtp.address, p.submission, p.imap)
	if err == nil && side.name != sideAsked && side.name != sideRemembers {
		err = p.untilCopied(ctx)
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("postern: %w\n%s", err, logTail(filepath.Join(dir, "postern.log")))
	}
	return p, nil
}

// replicaState is what `postern directory status --json` tells of a copy.
type replicaState struct {
	Ready   bool  `json:"ready"`
	Entries int   `json:"entries"`
	Octets  int64 `json:"octets"`
}

func askReplica(ctx context.Context, binary, config string) (replicaState, error) {
	out, err := exec.CommandContext(ctx, binary, "directory", "status", "--json", "-c", config).Output()
	if err != nil {
		return replicaState{}, fmt.Errorf("directory status: %w", err)
	}
	var answer struct {
		Replica replicaState `json:"replica"`
	}
	err = json.Unmarshal(out, &answer)
	return answer.Replica, err
}

// untilCopied waits until the system has its copy of the whole directory.
func (s *system) untilCopied(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	for {
		state, err := s.copied(ctx)
		if err == nil && state.Ready && state.Entries >= s.directory.people {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no copy of the directory (%+v): %w", state, errors.Join(err, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ldapPeersMissing says why the peers cannot be measured on a directory.
func ldapPeersMissing() string {
	if missing := peersMissing(); missing != "" {
		return missing
	}
	if firstThatHas([]string{"/usr/lib/postfix", "/usr/lib64/postfix", "/usr/libexec/postfix"}, "postfix-ldap.so*") == "" {
		return "Postfix has no LDAP maps (postfix-ldap)"
	}
	if firstThatHas([]string{"/usr/lib/dovecot", "/usr/lib64/dovecot"}, "modules/auth/libauthdb_ldap.so") == "" &&
		firstThatHas([]string{"/usr/lib/dovecot", "/usr/lib64/dovecot"}, "auth/libauthdb_ldap.so") == "" {
		return "Dovecot has no LDAP (dovecot-ldap)"
	}
	return ""
}

// startLDAPPeers starts two Dovecots, one with a cache, and one Postfix with a
// port for each way of looking up and of logging in.
func startLDAPPeers(ctx context.Context, dir string, s *slapd) (systems []*system, err error) {
	var logins []*dovecot
	for n, cache := range []string{"", "auth_cache_size = 64M\nauth_cache_ttl = 1 hour\n"} {
		d, err := startLDAPDovecot(ctx, filepath.Join(dir, fmt.Sprintf("dovecot%d", n)), s, cache)
		if err != nil {
			return systems, err
		}
		systems = append(systems, &system{
			name: []string{sideDovecot, sideDovecotCached}[n], dir: dir, imap: d.imap, directory: s, stop: d.process.stop,
		})
		logins = append(logins, d)
	}
	p, ports, err := startLDAPPostfix(ctx, filepath.Join(dir, "postfix"), s, logins)
	if err != nil {
		return systems, err
	}
	for n, d := range logins {
		systems[n].submission = ports[2+n]
		systems[n].roots = func() []int { return []int{p.master, d.process.command.Process.Pid} }
	}
	for n, name := range []string{sidePostfix, sidePostfixProxy} {
		systems = append(systems, &system{
			name: name, dir: dir, smtp: smtpDoor(ports[n]), directory: s, stop: func() {},
			roots: func() []int { return []int{p.master} },
		})
	}
	systems[len(systems)-1].stop = p.stop
	return systems, nil
}

// ldapDovecotConfig verifies passwords by binding as the person, whose DN
// follows from the login, and finds home and mailbox by a search.
const ldapDovecotConfig = `base_dir = %[1]s/run
state_dir = %[1]s/state
instance_name = postern-bench-ldap
log_path = %[1]s/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = sdbox:%%h/sdbox
mail_max_userip_connections = 8192
first_valid_uid = 1
namespace inbox {
  inbox = yes
  separator = /
}
%[5]s
passdb {
  driver = ldap
  args = %[1]s/pass.conf.ext
}
userdb {
  driver = ldap
  args = %[1]s/user.conf.ext
}
service auth {
  unix_listener auth-sasl {
    mode = 0666
  }
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  process_limit = 8
  inet_listener imap {
    port = %[4]d
  }
  inet_listener imaps {
    port = 0
  }
}
service imap {
  service_count = 256
  process_limit = 400
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
`

func startLDAPDovecot(ctx context.Context, dir string, s *slapd, cache string) (*dovecot, error) {
	owner, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	mail := filepath.Join(dir, "mail")
	if err := errors.Join(os.MkdirAll(mail, 0o755), chownTo(mail, owner)); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "dovecot.conf")
	server := "uris = " + s.uri() + "\nldap_version = 3\nbase = ou=people," + suffix + "\n"
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "pass.conf.ext"),
			[]byte(server+"auth_bind = yes\nauth_bind_userdn = uid=%Ln,ou=people,"+suffix+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "user.conf.ext"), fmt.Appendf(nil,
			"%sdn = %s\ndnpass = %s\nscope = onelevel\nuser_filter = (&(objectClass=inetOrgPerson)(mail=%%Lu))\nuser_attrs = =uid=%s,=gid=%s,=home=%s/%%Ln\n",
			server, serviceDN, servicePassword, owner.Uid, owner.Gid, mail), 0o600),
		os.WriteFile(config, fmt.Appendf(nil, ldapDovecotConfig, dir, owner.Uid, owner.Gid, port, cache), 0o644),
	)
	if err != nil {
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
	d := &dovecot{process: p, imap: loopback(port), sasl: filepath.Join(dir, "run", "auth-sasl")}
	if err := untilListening(ctx, p, d.imap); err != nil {
		p.stop()
		return nil, fmt.Errorf("dovecot: %w\n%s", err, logTail(filepath.Join(dir, "dovecot.log")))
	}
	return d, nil
}

// ldapPostfixConfig is postfixConfig with tables in the directory.
const ldapPostfixConfig = `compatibility_level = 3.6
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
virtual_mailbox_maps = proxy:ldap:%[1]s/etc/mailboxes.cf
virtual_alias_maps = proxy:ldap:%[1]s/etc/aliases.cf
virtual_transport = lmtp:unix:%[1]s/nowhere
smtpd_recipient_restrictions = permit_sasl_authenticated, reject_unauth_destination, reject_unlisted_recipient
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_sasl_type = dovecot
default_process_limit = 200
`

const ldapSMTPD = `%s inet n - n - - smtpd
  -o virtual_mailbox_maps=%s:%s/etc/mailboxes.cf
  -o virtual_alias_maps=%s:%s/etc/aliases.cf
`

const saslSMTPD = `%s inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_sasl_path=%s
  -o smtpd_tls_auth_only=no
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
`

// startLDAPPostfix returns the instance and its ports: tables asked by each
// smtpd, tables asked through proxymap, and submission with each Dovecot.
func startLDAPPostfix(ctx context.Context, dir string, s *slapd, logins []*dovecot) (*postfix, []string, error) {
	binary, err := lookProgram("postfix")
	if err != nil {
		return nil, nil, err
	}
	p := &postfix{binary: binary, dir: dir, etc: filepath.Join(dir, "etc")}
	var ports []string
	for range 2 + len(logins) {
		port, err := freePort()
		if err != nil {
			return nil, nil, err
		}
		ports = append(ports, loopback(port))
	}
	services := fmt.Sprintf(ldapSMTPD, ports[0], "ldap", dir, "ldap", dir) + fmt.Sprintf(ldapSMTPD, ports[1], "proxy:ldap", dir, "proxy:ldap", dir)
	for n, d := range logins {
		services += fmt.Sprintf(saslSMTPD, ports[2+n], d.sasl)
	}
	table := fmt.Sprintf("server_host = %s\nversion = 3\nbind = yes\nbind_dn = %s\nbind_pw = %s\nscope = one\ndomain = %s\nsearch_base = ou=people,%s\nresult_attribute = mail\nquery_filter = ",
		s.uri(), serviceDN, servicePassword, domain, suffix)
	err = p.place(map[string]string{
		"main.cf":      fmt.Sprintf(ldapPostfixConfig, dir),
		"master.cf":    services + postfixServices,
		"mailboxes.cf": table + "(&(objectClass=inetOrgPerson)(mail=%s))\n",
		"aliases.cf":   table + "(&(objectClass=inetLocalMailRecipient)(mailLocalAddress=%s))\n",
	})
	if err != nil {
		return nil, nil, err
	}
	if err := p.start(ctx); err != nil {
		return nil, nil, err
	}
	for _, port := range ports {
		if err := untilListening(ctx, &program{log: p.log()}, port); err != nil {
			p.stop()
			return nil, nil, fmt.Errorf("postfix: %w", err)
		}
	}
	return p, ports, nil
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// posternConfig runs both roles in one process. Like the peers it logs to a
// file, looks its users up in a local table, and has no networks of its own:
// the driver's mail is accepted because its recipients exist.
const posternConfig = `hostname = "mx.bench.example"
data_dir = "%[1]s/data"
log { file = "%[1]s/postern.log" }
control { socket = "%[1]s/control.sock" }
tls {
  cert_file = "%[4]s/cert.pem"
  key_file  = "%[4]s/key.pem"
}
directory "ldif" "people" {
  file = "%[1]s/people.ldif"
  base = "dc=bench,dc=example"
}
authn "ldif" {
  directory       = directory.people
  allow_cleartext = true
}
gateway {
  listener "mx" {
    bind                    = ["%[2]s"]
    max_sessions_per_client = 0
  }
  domains "local" {
    names      = ["bench.example"]
    recipients = directory.people
    deliver    = target.mailboxes
  }
  domains "relay" {
    names   = ["out.example"]
    deliver = target.sink
  }
  domains "relay" {
    names   = ["dead.example"]
    deliver = target.nobody
  }
  target "lmtp" "mailboxes" { address = ["unix:%[1]s/lmtp.sock"] }
  target "smtp" "sink"      { address = ["%[5]s"] }
  target "smtp" "nobody"    { address = ["127.0.0.1:9"] }
  mynetworks = ["127.0.0.2/32"]
}
backend {
  listener "lmtp" { bind = ["unix:%[1]s/lmtp.sock"] }
  listener "imap" {
    bind                    = ["%[3]s"]
    allow_plaintext_auth    = true
    max_sessions_per_client = 0
    max_sessions_per_login  = 0
  }
  listener "pop3" {
    bind                    = ["%[6]s"]
    allow_plaintext_auth    = true
    max_sessions_per_client = 0
    max_sessions_per_login  = 0
  }
}
`

// startPostern starts a new Postern in dir, beside which the certificate lies.
func startPostern(ctx context.Context, binary, dir string) (*system, error) {
	return startPosternWith(ctx, binary, dir, func(config, _ string) string { return config })
}

// startPosternWith starts one whose configuration change had in its hands, with
// the address of the receiver.
func startPosternWith(ctx context.Context, binary, dir string, change func(config, out string) string) (*system, error) {
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return nil, err
	}
	smtpPort, err := freePort()
	if err != nil {
		return nil, err
	}
	imapPort, err := freePort()
	if err != nil {
		return nil, err
	}
	pop3Port, err := freePort()
	if err != nil {
		return nil, err
	}
	out, err := startReceiver()
	if err != nil {
		return nil, err
	}
	s := &system{
		name: "Postern", dir: dir, smtp: smtpDoor(loopback(smtpPort)), imap: loopback(imapPort), pop3: loopback(pop3Port), out: out,
		lmtp: door{network: "unix", address: filepath.Join(dir, "lmtp.sock"), lmtp: true},
		another: func(ctx context.Context, dir string) (*system, error) {
			return startPosternWith(ctx, binary, dir, change)
		},
	}
	config := filepath.Join(dir, "postern.hcl")
	text := change(fmt.Sprintf(posternConfig, dir, s.smtp.address, s.imap, filepath.Dir(dir), out.address(), s.pop3), out.address())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "people.ldif"), []byte(people()), 0o600); err != nil {
		return nil, err
	}
	s.list = func(ctx context.Context) error { return run(ctx, binary, "queue", "list", "-c", config) }
	s.start = func(ctx context.Context) error {
		p, err := startProgram(filepath.Join(dir, "output"), binary, "serve", "-c", config)
		if err != nil {
			return err
		}
		s.roots = func() []int { return []int{p.command.Process.Pid} }
		s.stop = p.stop
		return untilListening(ctx, p, s.smtp.address, s.imap)
	}
	if err := s.start(ctx); err != nil {
		if s.stop != nil {
			s.stop()
		}
		return nil, fmt.Errorf("postern: %w", err)
	}
	return s, nil
}

// people is the directory as LDIF.
func people() string {
	var b strings.Builder
	b.WriteString("dn: dc=bench,dc=example\nobjectClass: dcObject\nobjectClass: organization\ndc: bench\no: Bench\n\n")
	b.WriteString("dn: ou=people,dc=bench,dc=example\nobjectClass: organizationalUnit\nou: people\n\n")
	for n := range users {
		address := userAddress(n)
		uid, _, _ := strings.Cut(address, "@")
		fmt.Fprintf(&b, "dn: uid=%[1]s,ou=people,dc=bench,dc=example\nobjectClass: inetOrgPerson\nuid: %[1]s\ncn: %[1]s\nsn: %[1]s\nmail: %[2]s\nuserPassword: {CLEARTEXT}%[3]s\n\n",
			uid, address, userPassword(n))
	}
	return b.String()
}

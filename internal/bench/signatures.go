package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// The systems of the cases of DKIM: one gateway each, with its own steps, with
// OpenDKIM as its milter, and with neither, which tells what the rest costs.
const (
	sideSteps    = "Postern, own steps"
	sideOpenDKIM = "Postern, OpenDKIM"
	sideUnsigned = "Postern, no DKIM"
)

var ofSignatures = []string{sideOpenDKIM, sideSteps, sideUnsigned}

// signatureCases are about DKIM: mail that comes in is verified, mail that goes
// out signed.
var signatureCases = []benchCase{
	{name: "DKIM verified, 5 KB, 1 connection", measure: signatures(verifying, 5_000, 1), of: ofSignatures},
	{name: "DKIM verified, 5 KB, 16 connections", measure: signatures(verifying, 5_000, 16), of: ofSignatures},
	{name: "DKIM verified, 1 MB, 1 connection", measure: signatures(verifying, 1_000_000, 1), of: ofSignatures},
	{name: "DKIM verified, 1 MB, 16 connections", measure: signatures(verifying, 1_000_000, 16), of: ofSignatures},
	{name: "DKIM signed, 5 KB, 1 connection", measure: signatures(signing, 5_000, 1), of: ofSignatures},
	{name: "DKIM signed, 5 KB, 16 connections", measure: signatures(signing, 5_000, 16), of: ofSignatures},
	{name: "DKIM signed, 1 MB, 1 connection", measure: signatures(signing, 1_000_000, 1), of: ofSignatures},
	{name: "DKIM signed, 1 MB, 16 connections", measure: signatures(signing, 1_000_000, 16), of: ofSignatures},
}

// task is what becomes of a message on its way through.
type task int

const (
	verifying task = iota
	signing
)

// proof is what the header of a message holds when it was done. The driver's
// own messages do not.
var proof = map[task]string{verifying: "dkim=pass", signing: "bh="}

// signer signs what the driver sends, and is who all systems sign for.
const (
	signerDomain   = "remote.example"
	signerSelector = "s1"
)

// signatures measures mail that is verified or signed, and passed on by SMTP.
// Each message that arrives must show that it was.
func signatures(what task, size, connections int) measure {
	var (
		once  sync.Once
		texts [][]byte
		fail  error
	)
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		once.Do(func() { texts, fail = letters(s.key, what, size) })
		if fail != nil {
			return f, fail
		}
		var due atomic.Int64
		due.Store(s.out.taken.Load())
		s.out.proof.Store(&[]string{proof[what]}[0])
		before := s.out.proved.Load() - s.out.taken.Load()
		d := drive{
			door: s.smtp, connections: connections, each: perConnection, until: time.Now().Add(o.load), texts: texts,
			recipient: func(id int64) string { return fmt.Sprintf("user%d@%s", id%users, outDomain) },
			accepted:  func(int64) { due.Add(1) },
		}
		if what == signing {
			d.door = s.submits
		}
		err = f.whole(ctx, s, d, relayedPerSecond, func(ctx context.Context) error { return s.out.wait(ctx, due.Load()) })
		if missing := before - s.out.proved.Load() + s.out.taken.Load(); err == nil && missing != 0 && s.name != sideUnsigned {
			err = fmt.Errorf("%d of %d messages do not show %q", missing, f.messages, proof[what])
		}
		return f, err
	}
}

// letters are the driver's messages without the signature that is only made up:
// with a real one where it is to be verified, and else with none.
func letters(key *dkim.Key, what task, size int) ([][]byte, error) {
	signer, err := dkim.NewSigner(dkim.Options{})
	if err != nil {
		return nil, err
	}
	all := messages(size)
	for i, text := range all {
		header, body, _ := bytes.Cut(text, []byte("\r\n\r\n"))
		fields := fieldsOf(string(header))
		var made []mail.Field
		if what == verifying {
			plain := bytes.TrimSuffix(bytes.ReplaceAll(append([]byte("\r\n"), body...), []byte("\r\n.."), []byte("\r\n.")), []byte(".\r\n"))
			if made, err = signer.Sign(fields, bytes.NewReader(plain[2:]), "", key); err != nil {
				return nil, err
			}
		}
		var b bytes.Buffer
		for _, f := range append(made, fields...) {
			b.WriteString(string(f) + "\r\n")
		}
		b.WriteString("\r\n")
		b.Write(body)
		all[i] = b.Bytes()
	}
	return all, nil
}

// fieldsOf divides a header, without signatures.
func fieldsOf(header string) (fields []mail.Field) {
	for line := range strings.SplitSeq(header, "\r\n") {
		if line[0] == ' ' || line[0] == '\t' {
			fields[len(fields)-1] += mail.Field("\r\n" + line)
			continue
		}
		fields = append(fields, mail.Field(line))
	}
	kept := fields[:0]
	for _, f := range fields {
		if !f.Is("DKIM-Signature") {
			kept = append(kept, f)
		}
	}
	return kept
}

// signingSite is what the systems of the cases share: a key, and a name server
// that has its record.
type signingSite struct {
	key   *dkim.Key
	file  string // the private key in PEM
	names *nameServer
}

// startSigning starts a gateway with steps of its own, and where OpenDKIM is
// installed one with that; and one with neither.
func startSigning(ctx context.Context, o options, dir string) (systems []*system, missing string, err error) {
	binary, err := filepath.Abs(o.postern)
	if err != nil {
		return nil, "", err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, "", err
	}
	site, err := newSigningSite(dir)
	if err != nil {
		return nil, "", err
	}
	begin := func(name string, lists contentLists) (*system, error) {
		s, err := site.gateway(ctx, binary, filepath.Join(dir, fmt.Sprint(len(systems))), lists)
		if err == nil {
			s.name = name
			systems = append(systems, s)
		}
		return s, err
	}
	// The name server ends with the system that stops last.
	first, err := begin(sideUnsigned, contentLists{})
	if err != nil {
		site.names.close()
		return systems, "", err
	}
	stop := first.stop
	first.stop = func() { stop(); site.names.close() }
	if _, err := begin(sideSteps, ownSteps(site.file)); err != nil || o.alone {
		return systems, "", err
	}
	path, err := lookProgram("opendkim")
	if err != nil {
		return systems, err.Error(), nil
	}
	filter, socket, err := site.openDKIM(ctx, path, filepath.Join(dir, "opendkim"))
	if err != nil {
		return systems, "", err
	}
	s, err := begin(sideOpenDKIM, filterSteps(socket))
	if err != nil {
		filter.stop()
		return systems, "", err
	}
	stopGateway, roots := s.stop, s.roots
	s.stop = func() { stopGateway(); filter.stop() }
	s.roots = func() []int { return append(roots(), filter.command.Process.Pid) }
	return systems, "", nil
}

func newSigningSite(dir string) (*signingSite, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	key, err := dkim.NewKey(signerDomain, signerSelector, private)
	if err != nil {
		return nil, err
	}
	site := &signingSite{key: key, file: filepath.Join(dir, "key.private")}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
	if err := os.WriteFile(site.file, text, 0o600); err != nil {
		return nil, err
	}
	site.names, err = startNameServer(signerSelector+"._domainkey."+signerDomain, "v=DKIM1; k=rsa; p="+base64.StdEncoding.EncodeToString(public))
	return site, err
}

// gateway starts Postern with a second listener, whose mail is to be signed.
func (site *signingSite) gateway(ctx context.Context, binary, dir string, lists contentLists) (*system, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s, err := startPosternWith(ctx, binary, dir, func(text, _ string) string {
		return strings.NewReplacer(
			"gateway {\n", fmt.Sprintf("dns { servers = [%q] }\ngateway {\n%s\n  listener \"ours\" {\n    mode = \"mx\"\n    bind = [%q]\n    max_sessions_per_client = 0\n%s  }\n", site.names.address, lists.blocks, loopback(port), lists.signs),
			"max_sessions_per_client = 0\n", "max_sessions_per_client = 0\n"+lists.verifies,
		).Replace(text)
	})
	if err != nil {
		return nil, err
	}
	s.key, s.submits = site.key, smtpDoor(loopback(port))
	return s, nil
}

// contentLists are what a gateway does with mail: blocks of the gateway, the
// list for what comes in, the list for what goes out.
type contentLists struct{ blocks, verifies, signs string }

func ownSteps(keyFile string) contentLists {
	return contentLists{
		blocks:   fmt.Sprintf("  dkim_key %q {\n    selector = %q\n    file     = %q\n  }\n", signerDomain, signerSelector, keyFile),
		verifies: "    policy \"content\" {\n      authenticate { methods = [\"dkim\"] }\n    }\n",
		signs:    "    policy \"content\" {\n      sign_dkim { for = \"everyone\" }\n    }\n",
	}
}

func filterSteps(socket string) contentLists {
	return contentLists{
		blocks: fmt.Sprintf("  milter \"verify\" { address = \"unix:%[1]s\" }\n"+
			"  milter \"sign\" {\n    address = \"unix:%[1]s\"\n    macros  = [\"daemon_name=ORIGINATING\"]\n  }\n", socket),
		verifies: "    policy \"content\" {\n      milter { use = milter.verify }\n    }\n",
		signs:    "    policy \"content\" {\n      milter { use = milter.sign }\n    }\n",
	}
}

// openDKIM starts one that signs what the listener "ours" brings, and verifies
// all else. It has the record in a file: its resolver, libunbound, would begin
// anew for each message, and dies where several at once read its configuration.
func (site *signingSite) openDKIM(ctx context.Context, path, dir string) (p *program, socket string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	socket = filepath.Join(dir, "socket")
	for name, text := range map[string]string{
		"internal": "192.0.2.1\n",
		"dns":      site.names.name + " " + site.names.text + "\n",
		"conf": fmt.Sprintf("Mode sv\nDomain %[1]s\nSelector %[2]s\nKeyFile %[3]s\nSocket local:%[4]s\nBackground no\nRequireSafeKeys no\nSyslog no\n"+
			"InternalHosts file:%[5]s/internal\nMacroList daemon_name=ORIGINATING\nCanonicalization relaxed/relaxed\nOversignHeaders From\n"+
			"TestDNSData %[5]s/dns\nAuthservID mx.bench.example\nAlwaysAddARHeader yes\nTemporaryDirectory %[5]s\n",
			signerDomain, signerSelector, site.file, socket, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, "", err
		}
	}
	p, err = startProgram(filepath.Join(dir, "output"), path, "-f", "-x", filepath.Join(dir, "conf"))
	if err != nil {
		return nil, "", err
	}
	if err := untilDialedBy(ctx, p, "unix", socket); err != nil {
		p.stop()
		return nil, "", fmt.Errorf("opendkim: %w\n%s", err, logTail(p.log))
	}
	return p, socket, nil
}

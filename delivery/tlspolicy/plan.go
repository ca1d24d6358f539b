package tlspolicy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/dns"
)

// Source is where a plan comes from.
type Source string

// The sources.
const (
	FromRule   Source = "rule"    // the operator's configuration
	FromDANE   Source = "dane"    // TLSA records
	FromMTASTS Source = "mta-sts" // an MTA-STS policy
)

// Plan is what one connection must be. It is never changed after it was made
// and may be shared.
type Plan struct {
	// Level is what is enforced, never DANEOnly.
	Level Level
	// Source is who asks for it.
	Source Source
	// Why says in words how the plan came about, for log and audit.
	Why string
	// ServerName is sent as SNI.
	ServerName string
	// Testing holds what the connection should be but need not: the policy of
	// a destination that tries MTA-STS out. nil when there is none.
	Testing *Plan

	names   []string // for Verify, Secure, and DANE with usage 2
	digests [][sha256.Size]byte
	tlsa    []dns.TLSA // those that count
	// ruledOut is why the host is no place for the mail at all; only a plan
	// under Testing has it.
	ruledOut error
	// published is what the domain is told about, nil for nothing, and fault
	// what is wrong with it however a session goes.
	published *Published
	fault     error
	roots     *x509.CertPool
	key       string
}

// Required reports whether mail must not go in the clear.
func (p *Plan) Required() bool { return p.Level != None && p.Level != May }

// Authenticates reports whether the server has to prove who it is.
func (p *Plan) Authenticates() bool { return p.Required() && p.Level != Encrypt }

// Key is equal for plans that ask for the same: a connection made by one can be
// used by the other.
func (p *Plan) Key() string { return p.key }

// seal computes the key.
func (p *Plan) seal() *Plan {
	p.key = string(p.Level) + " " + p.ServerName
	if !p.Authenticates() {
		return p
	}
	h := fnv.New128a()
	fmt.Fprintf(h, "%q|%x|%v|%p", p.names, p.digests, p.tlsa, p.roots)
	p.key += " " + string(h.Sum(nil))
	return p
}

// Verify checks the connection and returns nil when it is as planned. Errors
// hold a Failure; where the certificate is at fault they are a
// *tls.CertificateVerificationError.
func (p *Plan) Verify(state tls.ConnectionState) error {
	if !p.Authenticates() {
		return nil
	}
	if p.ruledOut != nil {
		return p.ruledOut
	}
	err := p.verify(state.PeerCertificates)
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}

func (p *Plan) verify(certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return fmt.Errorf("%w: no certificate", ValidationFailure)
	}
	switch p.Level {
	case Fingerprint:
		return p.verifyDigest(certs[0])
	case DANE:
		return verifyTLSA(certs, p.tlsa, p.names, time.Now())
	default:
		return verifyChain(certs, p.roots, p.names, time.Now())
	}
}

func (p *Plan) verifyDigest(leaf *x509.Certificate) error {
	if slices.Contains(p.digests, sha256.Sum256(leaf.Raw)) || slices.Contains(p.digests, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
		return nil
	}
	return fmt.Errorf("%w: neither certificate nor public key has a digest that was expected", ValidationFailure)
}

// Describe tells how a connection made by the plan is protected, in Postfix's
// words, for log, audit and trace fields: "Verified TLSv1.3
// TLS_AES_128_GCM_SHA256 by dane". state is nil for one in the clear, which
// gives "".
func (p *Plan) Describe(state *tls.ConnectionState) string {
	if state == nil {
		return ""
	}
	word := "Untrusted"
	if p.Authenticates() {
		word = "Verified"
	}
	version := strings.Replace(tls.VersionName(state.Version), "TLS ", "TLSv", 1)
	return fmt.Sprintf("%s %s %s by %s", word, version, tls.CipherSuiteName(state.CipherSuite), p.Source)
}

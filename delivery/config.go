package delivery

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// Protocol is what a target speaks.
type Protocol string

// The protocols.
const (
	LMTP Protocol = "lmtp"
	SMTP Protocol = "smtp"
)

// CutThrough says whether a target takes mail while the client that brings it
// waits for its answer, without a stay in the queue.
type CutThrough string

// The modes of cutting through.
const (
	// CutThroughAuto cuts through to servers that drop a repeated delivery
	// (XPOSTERN), as our backend does. The default.
	CutThroughAuto CutThrough = "auto"
	// CutThroughAlways does so to any server. Where a reply is lost after the
	// message was handed over, the next attempt makes a second copy, as it
	// does out of the queue.
	CutThroughAlways CutThrough = "always"
	// CutThroughNever queues everything.
	CutThroughNever CutThrough = "never"
)

// Config says where mail goes. The zero Config sends everything by MX.
type Config struct {
	// Hostname is the name given in EHLO and LHLO, the domain of addresses
	// that have none ("postmaster"), and the MX host at which mail would come
	// back to us. "" means "localhost".
	Hostname string
	// Targets are the next hops that have a name.
	Targets []Target
	// Domains maps a domain of ours to the name of the target that takes its
	// mail.
	Domains map[mail.Domain]string
	// Relayhost names the target that takes all other mail; "" means the
	// target Outbound, so MX delivery unless that target says otherwise.
	Relayhost string
	// Recipients and Senders are rules that come before Domains and Relayhost
	// for recipients, and before Relayhost for senders.
	Recipients, Senders Rules
	// TableDir is where tables of rules lie whose names are not absolute; ""
	// the working directory.
	TableDir string
	// RecipientDelimiter are the characters at which the detail of an address
	// begins, for the keys of rules; "" means "+", "off" that there is none.
	RecipientDelimiter string
	// SoftBounce defers what a next hop or a route refuses for good, so that
	// mail stays in the queue until it expires. It is for the time in which a
	// configuration is tried out.
	SoftBounce bool
	// Hosts maps hosts of the directories, in lower case, to targets, "" being
	// the domain's, for mail that waits for such a host to become known.
	Hosts map[string]string
	// UnknownHost says where mail for other hosts goes: "domain", "connect" or,
	// with any other value, nowhere.
	UnknownHost string
}

// delimiters returns the characters that a RecipientDelimiter means.
func delimiters(setting string) string {
	switch setting {
	case "":
		return "+"
	case "off":
		return ""
	default:
		return setting
	}
}

// Outbound is the name of the target that delivers to the world by MX.
const Outbound = "smtp"

// Local is the name of the LMTP target whose settings serve next hops that the
// directory names itself; where none is configured, one without addresses.
const Local = "lmtp"

// Target is a next hop or, for SMTP without addresses, whatever host the MX
// records of a recipient's domain name.
type Target struct {
	// Name is what Domains, Relayhost and a recipient's Route call it.
	Name string
	// Protocol is "lmtp" or "smtp"; "" means lmtp with addresses and smtp
	// without.
	Protocol Protocol
	// Addresses are tried in order: "unix:/path", "host:port", "[host]:port".
	// With smtp, an unbracketed name is looked up as MX first, as Postfix's
	// relayhost is. Without a port, lmtp uses 24 and smtp 25.
	Addresses []string
	// Fallback are relay hosts for smtp, in the notation of Addresses, that are
	// tried when the others cannot be found or reached or take no mail now,
	// unless we are an MX of the destination ourselves.
	Fallback []string
	// TLS is the level for destinations that Policies has no rule for; "" means
	// dane without addresses and may with them; unix sockets stay as they are
	// then. With lmtp it is none, may, encrypt or verify. ImplicitTLS speaks
	// TLS from the first octet, without STARTTLS, and makes "" mean verify.
	TLS         tlspolicy.Level
	ImplicitTLS bool
	// TLSMatch holds the names or digests that verify, secure and fingerprint
	// ask for, as in tlspolicy.Rule.
	TLSMatch []string
	// Policies holds the rules of single next hops, for smtp only.
	Policies map[string]tlspolicy.Rule
	// IgnoreMTASTS leaves what destinations publish by MTA-STS alone.
	IgnoreMTASTS bool
	// Sessions is told of connections by MX, for TLS reports; nil for nobody.
	Sessions tlspolicy.Sessions
	// CAFile holds the trusted certificates in PEM; "" means the system's.
	CAFile string
	// CertFile and KeyFile hold the certificate we show a server that asks for
	// one, with its chain, and its key, in PEM; "" shows none.
	CertFile, KeyFile string
	// ServerName is the name the certificate must carry; "" means the host of
	// the address, or of the MX.
	ServerName string
	// Login and PasswordFile authenticate, over TLS, to this host and over unix
	// sockets only, unless PlaintextAuth allows more. The file holds the password
	// and nothing else but line ends. Not allowed without Addresses: strangers
	// get no password.
	Login         string
	PasswordFile  string
	PlaintextAuth bool
	// LoginsFile holds logins by sender, host and next hop, which come before
	// Login; lines are those of Postfix's smtp_sasl_password_maps. Hosts that a
	// recipient's domain names get only what stands there for their name.
	LoginsFile string
	// RecipientDelimiter is that of Config, for senders in LoginsFile.
	RecipientDelimiter string
	// Mechanisms are those of smtp.ClientMechanisms to use, the first one that
	// the server offers; none means as in smtp.ClientConfig.
	Mechanisms []string
	// KeepEightBit sends octets above 127 as they are to a server of SMTP that
	// does not offer 8BITMIME, in place of converting them.
	KeepEightBit bool
	// Chunking sends content by BDAT to servers of SMTP that offer it; those of
	// LMTP always get it so.
	Chunking bool
	// Timeouts bound each step; a zero field means Postfix's default, but for
	// Connect with lmtp, which means 5 s. With lmtp and several addresses
	// Connect is 1 s and Greeting 5 s at most: a partner waits to take over.
	Timeouts smtp.ClientTimeouts
	// Dial makes connections; nil means by the network of this machine.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Ourselves tells which hosts are us, beside the one named as we are. nil
	// knows none.
	Ourselves *Ourselves
	// CutThrough is for lmtp only: an answer by SMTP is not the mailbox's.
	CutThrough CutThrough
	// MaxConnections is the number of connections in use at once, and of
	// deliveries to one destination; 0 means 20 for a target with addresses,
	// and 100 without or when the first is a unix socket.
	MaxConnections int
	// IdleTime is how long an unused connection is kept; 0 means 30 s with
	// addresses, 5 s without. Negative keeps none.
	IdleTime time.Duration
	// DownTime is how long an address that could not be reached is tried
	// last; 0 means 10 s.
	DownTime time.Duration
	// Failover is how long a node of a replication pair may take to begin a
	// conversation before its partner is asked, and how long it may be silent
	// in one before it is asked whether it is alive; 0 means 1 s.
	Failover time.Duration
}

// maxConnections is MaxConnections with its default.
func (t Target) maxConnections() int {
	switch {
	case t.MaxConnections > 0:
		return t.MaxConnections
	case len(t.Addresses) == 0, strings.HasPrefix(t.Addresses[0], "unix:"):
		return 100
	default:
		return 20
	}
}

// byMX reports whether the target looks up the recipient's domain.
func (t Target) byMX() bool { return t.protocol() == SMTP && len(t.Addresses) == 0 }

func (t Target) protocol() Protocol {
	if t.Protocol == "" && len(t.Addresses) == 0 {
		return SMTP
	}
	if t.Protocol == "" {
		return LMTP
	}
	return t.Protocol
}

func (t Target) check() error {
	switch {
	case t.Name == "":
		return fmt.Errorf("delivery target without a name")
	case t.protocol() != LMTP && t.protocol() != SMTP:
		return fmt.Errorf("delivery target %q: protocol %q is neither lmtp nor smtp", t.Name, t.Protocol)
	case (t.CertFile == "") != (t.KeyFile == ""):
		return fmt.Errorf("delivery target %q: certificate and key go together", t.Name)
	}
	switch t.CutThrough {
	case "", CutThroughAuto, CutThroughNever:
	case CutThroughAlways:
		if t.protocol() != LMTP {
			return fmt.Errorf("delivery target %q: only lmtp can be cut through to", t.Name)
		}
	default:
		return fmt.Errorf("delivery target %q: cut through %q is none of auto, always, never", t.Name, t.CutThrough)
	}
	if err := cmp.Or(t.checkLogin(), t.checkTLS()); err != nil {
		return err
	}
	if len(t.Fallback) > 0 && t.protocol() != SMTP {
		return fmt.Errorf("delivery target %q: only smtp has relay hosts to fall back to", t.Name)
	}
	for _, a := range slices.Concat(t.Addresses, t.Fallback) {
		if _, err := ParseNextHop(a); err != nil {
			return fmt.Errorf("delivery target %q: %w", t.Name, err)
		}
	}
	return nil
}

func (t Target) checkTLS() error {
	switch {
	case t.TLS != "" && !slices.Contains(tlspolicy.Levels(), t.TLS):
		return fmt.Errorf("delivery target %q: unknown TLS level %q", t.Name, t.TLS)
	case t.TLS == tlspolicy.None && t.ImplicitTLS:
		return fmt.Errorf("delivery target %q: implicit TLS and level none exclude each other", t.Name)
	case t.protocol() == SMTP:
		return nil // package tlspolicy checks the rest
	case len(t.TLSMatch) > 0 || len(t.Policies) > 0 || t.Rule().Level != "" && !slices.Contains(lmtpLevels, t.Rule().Level):
		return fmt.Errorf("delivery target %q: lmtp has no TLS levels but %v", t.Name, lmtpLevels)
	default:
		return nil
	}
}

// lmtpLevels are the levels that make sense for a mailbox server of our own.
var lmtpLevels = []tlspolicy.Level{tlspolicy.None, tlspolicy.May, tlspolicy.Encrypt, tlspolicy.Verify}

// clientTLS is the level as a conversation without a plan knows it.
func (t Target) clientTLS() smtp.ClientTLS {
	switch t.Rule().Level {
	case tlspolicy.None:
		return smtp.ClientTLSNone
	case "", tlspolicy.May:
		return smtp.ClientTLSMay
	case tlspolicy.Encrypt:
		return smtp.ClientTLSEncrypt
	default:
		return smtp.ClientTLSVerify
	}
}

// client returns the configuration of the target's conversations. It reads
// the files the target names.
func (t Target) client(hostname string) (smtp.ClientConfig, error) {
	if err := t.check(); err != nil {
		return smtp.ClientConfig{}, err
	}
	var err error
	cfg := smtp.ClientConfig{
		LMTP:        t.protocol() == LMTP,
		Hello:       hostname,
		TLS:         t.clientTLS(),
		ImplicitTLS: t.ImplicitTLS,
		ServerName:  t.ServerName,
		TLSConfig:   &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(64)},
		Login:       t.Login, Mechanisms: t.Mechanisms, PlaintextAuth: t.PlaintextAuth,
		// To strangers DATA is the better trodden path.
		Chunking: t.protocol() == LMTP || t.Chunking,
		Timeouts: t.Timeouts,
		Dial:     t.Dial,
	}
	if cfg.LMTP && cfg.Timeouts.Connect == 0 {
		cfg.Timeouts.Connect = 5 * time.Second
	}
	if cfg.LMTP && len(t.Addresses) > 1 {
		atMost(&cfg.Timeouts.Connect, time.Second)
		atMost(&cfg.Timeouts.Greeting, 5*time.Second)
	}
	if t.CAFile != "" {
		if cfg.TLSConfig.RootCAs, err = readRoots(t.CAFile); err != nil {
			return cfg, fmt.Errorf("delivery target %q: %w", t.Name, err)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return cfg, fmt.Errorf("delivery target %q: certificate %s: %w", t.Name, t.CertFile, err)
		}
		cfg.TLSConfig.Certificates = []tls.Certificate{pair}
	}
	if t.PasswordFile != "" {
		password, err := os.ReadFile(t.PasswordFile)
		if err != nil {
			return cfg, fmt.Errorf("delivery target %q: %w", t.Name, err)
		}
		cfg.Password = strings.TrimRight(string(password), "\r\n")
	}
	return cfg, nil
}

// atMost bounds a timeout, of which 0 is a longer one.
func atMost(timeout *time.Duration, limit time.Duration) {
	if *timeout == 0 || *timeout > limit {
		*timeout = limit
	}
}

func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificates in %s", path)
	}
	return roots, nil
}

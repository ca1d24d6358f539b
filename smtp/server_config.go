package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Mode is the dialect a listener speaks.
type Mode int

// The dialects. ModeMX is SMTP between servers, ModeSubmission is RFC 6409
// and ModeLMTP is RFC 2033. MX and submission differ only in what the zero
// values of the configuration mean; policy lives in the handler.
const (
	ModeMX Mode = iota
	ModeSubmission
	ModeLMTP
)

var modeNames = [...]string{"mx", "submission", "lmtp"}

// String returns the mode's name in logs and configuration.
func (m Mode) String() string { return modeNames[m] }

// BareNewlinePolicy is what happens to lines that end in LF without CR. No
// policy ever takes anything but CRLF.CRLF for the end of data.
type BareNewlinePolicy int

const (
	// BareNewlineNormalize takes a bare LF for a line end inside commands and
	// text, and passes it on as CRLF. A line that holds nothing but a dot and
	// has a bare LF at either side of it is dropped: it is neither the end of
	// data nor something the next hop could take for it.
	BareNewlineNormalize BareNewlinePolicy = iota
	// BareNewlineReject refuses the message, or the command and the session.
	BareNewlineReject
)

// PipeliningPolicy is what happens to a client that sends on where it had to
// wait for a reply (RFC 5321 section 4.3.1, RFC 2920 section 3.1).
type PipeliningPolicy int

const (
	// PipeliningByMode enforces in ModeMX and tolerates elsewhere: mail
	// programs of people are sloppy, but they authenticate.
	PipeliningByMode PipeliningPolicy = iota
	// PipeliningEnforce answers 554 and closes.
	PipeliningEnforce
	// PipeliningTolerate takes the input as it comes.
	PipeliningTolerate
)

// Keywords of EHLO that DiscardEHLO may name.
var ehloKeywords = []string{
	"PIPELINING", "SIZE", "STARTTLS", "AUTH", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING", "REQUIRETLS", "MT-PRIORITY", "XPOSTERN", "XCLIENT", "XFORWARD",
}

// ServerConfig tells how to speak, and how much of it. For each number zero
// means the default given with it and a negative value means no limit.
type ServerConfig struct {
	// Name is the listener's name in logs and in mail.Client.
	Name string
	// Mode is the dialect.
	Mode Mode
	// Hostname stands in the greeting and in the reply to EHLO. Required.
	Hostname string
	// Greeting follows the hostname in the greeting; default "ESMTP", in
	// ModeLMTP "LMTP".
	Greeting string

	// TLS enables STARTTLS, or TLS from the first octet with ImplicitTLS.
	// Certificates that change are served through its callbacks or replaced
	// by Reconfigure. Nil: TLS is not offered.
	TLS *tls.Config
	// ImplicitTLS performs the handshake before the greeting (RFC 8314).
	ImplicitTLS bool
	// RequireTLS refuses everything but EHLO, STARTTLS, NOOP and QUIT before
	// TLS is active.
	RequireTLS bool
	// AllowInsecureAuth offers AUTH without TLS. For unix sockets and tests.
	AllowInsecureAuth bool

	// Postern returns the arguments of XPOSTERN, for ModeLMTP: what our gateway
	// should know of this server. It must not block. nil: none.
	Postern func() string

	// Priorities says to whom MT-PRIORITY is offered; what asks for more than
	// MaxPriority gets that.
	Priorities  PriorityPolicy
	MaxPriority int8

	// Origin returns the domain of a local-part that stands alone in MAIL or
	// RCPT of a client, "" when that is a mistake; "postmaster" in RCPT stays
	// as it is. It must not block. Nil: it is a mistake for everybody (RFC 5321
	// section 4.1.2).
	Origin func(*mail.Client) mail.Domain

	// LooseEnvelopes takes addresses in MAIL and RCPT that stand without their
	// angle brackets, or with blanks inside them, as devices write them that never
	// read RFC 5321.
	LooseEnvelopes bool

	// SoftBounce turns every permanent refusal into a transient one, for the time
	// in which a configuration is tried out.
	SoftBounce bool
	// RejectFooter is said after every refusal: lines separated by "\n", in which
	// $client_address, $client_port, $localtime and $server_name are filled in,
	// also written ${name}. One that begins with "\c" continues the refusal's
	// last line.
	RejectFooter string

	// HeloRequired refuses MAIL before HELO or EHLO. LMTP always does.
	HeloRequired bool
	// BareNewline is the policy for LF without CR.
	BareNewline BareNewlinePolicy
	// Pipelining is the policy for input that came too early.
	Pipelining PipeliningPolicy
	// GreetDelay holds the greeting back; a client that talks meanwhile is an
	// early talker. Only under PipeliningEnforce. Zero: no delay.
	GreetDelay time.Duration
	// Teaser sends the first line of the greeting before GreetDelay.
	Teaser bool
	// Pregreet is what becomes of early talkers.
	Pregreet PregreetAction
	// Greeted remembers who waited and need not again. Nil: all wait each time.
	Greeted Greeted
	// XClientHosts are the peers that may say by XCLIENT who their client is.
	// Their own number and speed count as little as those of ExemptClients.
	XClientHosts []netip.Prefix
	// XForwardHosts are the peers that may say by XFORWARD whom they have a
	// message from.
	XForwardHosts []netip.Prefix
	// DiscardEHLO lists EHLO keywords that are not announced, and whose
	// commands and parameters are then not accepted, in any letter case.
	DiscardEHLO []string
	// LookupHostname returns what the DNS says of a client's name;
	// asked before NewSession. It must return when the context ends, after
	// five seconds. Nil: no names.
	LookupHostname func(context.Context, netip.Addr) mail.ClientName

	// PeerIdentity returns who is at the other end of a connection, known
	// without AUTH, such as by the kernel on a unix socket; nil for nobody
	// known. Asked before NewSession; must not block. Nil: nobody is.
	PeerIdentity func(net.Conn) *mail.Identity

	// MaxMessageOctets bounds a message, counted as it is passed on. Default
	// 50 MiB.
	MaxMessageOctets int64
	// MaxRecipients bounds the accepted recipients of a transaction. Default
	// 1000.
	MaxRecipients int
	// MaxLineOctets bounds a command line without its CRLF, at most 12288.
	// Default 2048. Lines of SASL exchanges may have 12288 octets (RFC 4954
	// section 4), lines of a message any number.
	MaxLineOctets int
	// MaxSessions bounds the sessions of the server. Default 1000.
	MaxSessions int
	// MaxSessionsPerClient bounds the sessions of one client, which is an IPv4
	// address or an IPv6 /64 network unless IPv4Bits and IPv6Bits say otherwise.
	// Default 50. Not for unix sockets.
	MaxSessionsPerClient int
	// ExemptClients are networks MaxSessionsPerClient and Rates do not apply to.
	ExemptClients []netip.Prefix
	// SoftErrors is how many errors are answered at once; each one after that
	// is held back by ErrorDelay. Default 10; in ModeLMTP no limit. Errors
	// are counted from the last accepted message.
	SoftErrors int
	// HardErrors is how many errors a session may make; the next one ends it.
	// Default 20; in ModeLMTP no limit.
	HardErrors int
	// ErrorDelay is how long a reply is held back after SoftErrors. Default 1s,
	// negative none.
	ErrorDelay time.Duration
	// MaxJunkCommands is how many commands that bring no message forward
	// (NOOP, VRFY, EXPN, RSET, HELP) are free between two messages; each
	// further one is an error. Default 100; in ModeLMTP no limit.
	MaxJunkCommands int
	// MaxSurplus is how many recipients beyond MaxRecipients are refused without
	// that being errors. Default 1000.
	MaxSurplus int
	// Noop are further commands that are answered like NOOP, in any letter case.
	Noop []string
	// Forbidden are commands of other protocols, whose client is told goodbye;
	// so is one that begins a line with anything but a letter. Nil: CONNECT,
	// GET and POST.
	Forbidden []string
	// Rates bounds how often clients do things. Nil: not.
	Rates RateLimiter
	// Noticed is told, for an audit, of what no handler learns: clients over a
	// limit, once until they were within it again, those that talk before the
	// greeting, and messages that are too big by what their sender says. It must not block and is called concurrently. Nil: nobody is.
	Noticed func(mail.Event)
	// IPv4Bits and IPv6Bits are how long the prefix is that counts as one
	// client. Default 32 and 64.
	IPv4Bits, IPv6Bits int
	// Stress is the percentage of MaxSessions from which on the server hurries
	// its clients until there are fewer by a tenth: replies are waited for no
	// longer than StressTimeout, and the second error or junk command ends a
	// session. Zero: never.
	Stress int
	// StressTimeout bounds waits under stress. Default 10s.
	StressTimeout time.Duration
	// MinDataRate is how fast a message has to come, in octets per second, once
	// BlockTimeout has been waited in all. Zero: any speed.
	MinDataRate int
	// MaxAuthFailures is how many refused authentications end the session.
	// Default 3.
	MaxAuthFailures int

	// CommandTimeout bounds the wait for a whole command line. Default 5m.
	CommandTimeout time.Duration
	// BlockTimeout bounds the wait for the next octets of a message. Default 3m.
	BlockTimeout time.Duration
	// MessageTimeout bounds the time from DATA, or the first BDAT, to the end
	// of data. Default 1h.
	MessageTimeout time.Duration
	// WriteTimeout bounds each write to the client. Default 1m.
	WriteTimeout time.Duration
	// HandshakeTimeout bounds a TLS handshake. Default 1m.
	HandshakeTimeout time.Duration
	// Grace is how long transfers under way may go on after Serve's context
	// ended. Default 30s; negative: none.
	Grace time.Duration
}

// Sizes that are no matter of taste.
const (
	maxSASLLine     = 12288 // RFC 4954 section 4
	maxLineOverrun  = 64 << 10
	drainAllowance  = 16 << 20
	unlimited       = int64(1) << 62
	hostnameTimeout = 5 * time.Second
)

func (c ServerConfig) withDefaults() ServerConfig {
	lmtp := c.Mode == ModeLMTP
	if c.Greeting == "" {
		c.Greeting = "ESMTP"
		if lmtp {
			c.Greeting = "LMTP"
		}
	}
	if c.Pipelining == PipeliningByMode {
		c.Pipelining = PipeliningTolerate
		if c.Mode == ModeMX {
			c.Pipelining = PipeliningEnforce
		}
	}
	c.HeloRequired = c.HeloRequired || lmtp
	budget := func(n *int, def int) {
		if lmtp {
			def = -1 // the peer is a queue of ours or a neighbour's: it speaks for many senders
		}
		limitDefault(n, def)
	}
	budget(&c.SoftErrors, 10)
	budget(&c.HardErrors, 20)
	budget(&c.MaxJunkCommands, 100)
	limitDefault(&c.MaxMessageOctets, 50<<20)
	limitDefault(&c.MaxRecipients, 1000)
	limitDefault(&c.MaxSessions, 1000)
	limitDefault(&c.MaxSessionsPerClient, 50)
	limitDefault(&c.MaxAuthFailures, 3)
	limitDefault(&c.MaxSurplus, 1000)
	limitDefault(&c.StressTimeout, 10*time.Second)
	if c.Forbidden == nil {
		c.Forbidden = []string{"CONNECT", "GET", "POST"}
	}
	if c.IPv4Bits == 0 {
		c.IPv4Bits = 32
	}
	if c.IPv6Bits == 0 {
		c.IPv6Bits = 64
	}
	if c.MaxLineOctets == 0 {
		c.MaxLineOctets = 2048
	}
	if c.ErrorDelay == 0 {
		c.ErrorDelay = time.Second
	}
	limitDefault(&c.CommandTimeout, 5*time.Minute)
	limitDefault(&c.BlockTimeout, 3*time.Minute)
	limitDefault(&c.MessageTimeout, time.Hour)
	limitDefault(&c.WriteTimeout, time.Minute)
	limitDefault(&c.HandshakeTimeout, time.Minute)
	if c.Grace == 0 {
		c.Grace = 30 * time.Second
	}
	return c
}

// limitDefault replaces zero by def and a negative value, which asks for no
// limit, by one nobody reaches.
func limitDefault[N int | int64 | time.Duration](n *N, def N) {
	if *n == 0 {
		*n = def
	}
	if *n < 0 {
		huge := unlimited // not a constant: N may be narrower elsewhere
		*n = N(huge)
	}
}

// validate reports every mistake at once.
func (c ServerConfig) validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Mode < ModeMX || c.Mode > ModeLMTP {
		add("unknown mode %d", c.Mode)
	}
	if c.Hostname == "" || strings.ContainsFunc(c.Hostname, func(r rune) bool { return r <= ' ' || r > '~' }) {
		add("hostname %q is not a host name", c.Hostname)
	}
	if strings.ContainsFunc(c.Greeting, func(r rune) bool { return r < ' ' || r > '~' }) {
		add("greeting %q is not printable ASCII", c.Greeting)
	}
	if c.TLS == nil && (c.ImplicitTLS || c.RequireTLS) {
		add("TLS is asked for, but not configured")
	}
	if c.MaxLineOctets < 0 || c.MaxLineOctets > maxSASLLine || c.MaxLineOctets > 0 && c.MaxLineOctets < 512 {
		add("MaxLineOctets %d is outside 512 to %d", c.MaxLineOctets, maxSASLLine)
	}
	if c.BareNewline < BareNewlineNormalize || c.BareNewline > BareNewlineReject {
		add("unknown bare newline policy %d", c.BareNewline)
	}
	if c.Pipelining < PipeliningByMode || c.Pipelining > PipeliningTolerate {
		add("unknown pipelining policy %d", c.Pipelining)
	}
	for _, keyword := range c.DiscardEHLO {
		if !slices.Contains(ehloKeywords, strings.ToUpper(keyword)) {
			add("EHLO keyword %q is unknown", keyword)
		}
	}
	for _, verb := range slices.Concat(c.Noop, c.Forbidden) {
		if err := CheckVerb(verb); err != nil {
			errs = append(errs, err)
		}
	}
	if c.IPv4Bits < 0 || c.IPv4Bits > 32 || c.IPv6Bits < 0 || c.IPv6Bits > 128 {
		add("prefixes of %d (IPv4) and %d (IPv6) bits are impossible", c.IPv4Bits, c.IPv6Bits)
	}
	if c.Stress < 0 || c.Stress > 100 || c.MinDataRate < 0 {
		add("stress of %d percent or a data rate of %d octets per second are impossible", c.Stress, c.MinDataRate)
	}
	return errors.Join(errs...)
}

// CheckVerb tells why a word cannot be in ServerConfig.Noop or Forbidden.
func CheckVerb(verb string) error {
	if verb == "" || len(verb) > maxVerbOctets || strings.Trim(strings.ToUpper(verb), "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return fmt.Errorf("%q is no command: one has 1 to %d letters", verb, maxVerbOctets)
	}
	return nil
}

// settings is what new sessions start with: one immutable snapshot of
// configuration and handler. Sessions keep theirs to their end.
type settings struct {
	ServerConfig
	handler      Handler
	discarded    map[string]bool // EHLO keywords, upper case
	commands     map[string]*command
	sizeArgument string // of SIZE in the reply to EHLO
}

func newSettings(cfg ServerConfig, h Handler) (*settings, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("listener %q: %w", cfg.Name, err)
	}
	if h == nil {
		return nil, fmt.Errorf("listener %q: no handler", cfg.Name)
	}
	s := &settings{ServerConfig: cfg.withDefaults(), handler: h, discarded: make(map[string]bool)}
	s.DiscardEHLO = slices.Clone(cfg.DiscardEHLO)
	s.Noop, s.Forbidden = slices.Clone(s.Noop), slices.Clone(s.Forbidden)
	s.ExemptClients = slices.Concat(cfg.ExemptClients, cfg.XClientHosts)
	s.XClientHosts, s.XForwardHosts = slices.Clone(cfg.XClientHosts), slices.Clone(cfg.XForwardHosts)
	for _, keyword := range s.DiscardEHLO {
		s.discarded[strings.ToUpper(keyword)] = true
	}
	if s.Mode == ModeLMTP {
		// Who offers DSN reports (RFC 3461 section 5.2.1). Our handlers leave
		// that to the client, which learns of each recipient here.
		s.discarded["DSN"] = true
	}
	if s.MaxMessageOctets < unlimited {
		s.sizeArgument = " " + strconv.FormatInt(s.MaxMessageOctets, 10)
	}
	s.commands = commandsOf(s)
	return s, nil
}

// offers reports whether an extension is part of this listener's service.
func (s *settings) offers(keyword string) bool { return !s.discarded[keyword] }

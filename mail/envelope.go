package mail

import (
	"crypto/tls"
	"net/netip"
	"time"
)

// QueueID names one accepted message for its whole life; it stands in the
// trace header, in logs, in the audit and in every delivery of the message.
type QueueID string

// SessionID names one connection, from accept to close.
type SessionID string

// Body is what MAIL's BODY parameter declared (RFC 6152).
type Body string

// The values of BODY.
const (
	Body7Bit     Body = "7BIT"
	Body8BitMIME Body = "8BITMIME"
)

// DSNReturn is what a report shall carry of the message (RFC 3461 section 4.3).
type DSNReturn string

// The values of RET. The zero value leaves the choice to the reporting MTA.
const (
	ReturnFull    DSNReturn = "FULL"
	ReturnHeaders DSNReturn = "HDRS"
)

// Notify is the set of events a sender wants reports of (RFC 3461 section 4.1).
// The zero value means that NOTIFY was not given: failure and delay.
type Notify uint8

// The members of NOTIFY.
const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// Envelope is what travels beside a message: who answers for it and who gets
// it. Recipients are what is still to be delivered, after aliases and groups.
type Envelope struct {
	ReversePath    Address
	Body           Body
	SMTPUTF8       bool
	DeclaredOctets int64 // SIZE of MAIL, 0 when not given
	Return         DSNReturn
	EnvelopeID     string // ENVID, decoded xtext
	// RequireTLS is MAIL's REQUIRETLS (RFC 8689): the message goes only where
	// its protection is certain, all the way.
	RequireTLS bool
	// TLSOptional is the header field "TLS-Required: No" (RFC 8689 section 5):
	// to get through counts for more than protection. RequireTLS outranks it.
	TLSOptional bool
	// Priority is how urgent the message is (RFC 6710), from LowestPriority to
	// HighestPriority; 0 is what mail usually has.
	Priority int8
	// Submitter is the account that submitted the message; zero where nobody
	// logged in, or no directory knows him.
	Submitter  Submitter
	Recipients []Recipient
}

// Submitter is an account by its name and the directory that has it.
type Submitter struct{ Name, Source string }

// The ends of the scale of priorities.
const (
	LowestPriority  = -9
	HighestPriority = 9
)

// Recipient is one forward-path and what its sender asked for.
type Recipient struct {
	Address  Address // where the message goes next
	Original string  // ORCPT "type;address" with the address decoded, or empty
	Accepted Address // what RCPT named, before aliases and groups
	Notify   Notify
	Route    Route
	Home     Home // of the account, where its mail may go to either node of a pair
}

// Route is where a recipient's mail goes: the name of a transport and what
// that transport needs to know. The zero Route lets delivery decide by domain.
type Route struct {
	Transport string // name of a configured delivery target; "" decides by domain
	NextHop   string // transport's own notation; "" for its default
}

// UnknownHost begins a Route's Transport that is no target's name but a host the
// directory named and the configuration did not know when the mail came.
const UnknownHost = "host "

// Client is the peer of a session as far as it is known.
type Client struct {
	Session  SessionID
	Listener string // name of the listener in the configuration
	Remote   netip.AddrPort
	Local    netip.AddrPort
	// Via is the proxy that the client came through, which told Remote; not
	// valid for one that came itself.
	Via netip.AddrPort
	// ViaTCP tells that Via passes octets on as they are (PROXY protocol): TLS
	// is with the client itself.
	ViaTCP   bool
	Hostname string // verified reverse name, or "" when unknown
	// ReverseName is the name that stands for the address in the DNS, which its
	// owner chose and nobody verified; "" when unknown. Naming says how the
	// look-up of both ended.
	ReverseName string
	Naming      Naming
	Helo        string // argument of HELO, EHLO or LHLO
	Extended    bool   // EHLO or LHLO rather than HELO
	TLS         *TLSInfo
	Identity    *Identity // nil before authentication
	// Hasty reports whether the client sent on after the present command where
	// it had to wait for the reply (RFC 2920 section 3.1); nil where nobody can
	// tell. It belongs to the session and is asked while that waits.
	Hasty func() bool
	// Dialogue tells what the client has said so far; nil where nobody counts. It
	// belongs to the session.
	Dialogue func() Dialogue
	// Forwarded is whom the client has the next message from, as it says, where
	// it may; nil where it does not.
	Forwarded *Forwarded
}

// Dialogue is what the client of a session has said.
type Dialogue struct {
	// Commands are how many commands there were of each kind and in all, those
	// that were done before those that were given where not all were, in
	// Postfix's form: "ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4".
	Commands string
	// Last is the last command's verb, "UNKNOWN" for what was none, "" before
	// the first.
	Last string
}

// Peer says in log lines where the client is: its address and port, or "local"
// for one that came by a unix socket.
func (c *Client) Peer() string {
	if !c.Remote.IsValid() {
		return "local"
	}
	return c.Remote.String()
}

// Protocol is what the client speaks: "SMTP", "ESMTP", or "" before HELO.
func (c *Client) Protocol() string {
	switch {
	case c.Helo == "":
		return ""
	case c.Extended:
		return "ESMTP"
	default:
		return "SMTP"
	}
}

// TLSInfo tells how a session is protected.
type TLSInfo struct {
	Version string // "TLSv1.3"
	Cipher  string // IANA name
	PeerCN  string // verified client certificate subject, or ""
	// Connection is what logins are bound to and proven by: keying material and
	// the client's certificate. It is nil where another server ended TLS, and
	// once nobody can log in any more. It holds secrets of the connection.
	Connection *tls.ConnectionState
}

// Identity is who authenticated, once it is certain.
type Identity struct {
	// Authentication is the authentication identity as the verifier knows it:
	// canonical, never what the client happened to type.
	Authentication string
	// Authorization is whom the session acts as; equal to Authentication
	// unless the mechanism carried another one and that was allowed.
	Authorization string
	Mechanism     string // SASL mechanism name
	Verifier      string // name of the verifier that said yes
	// Source names the directory that Authentication is a name of; "" when
	// none was asked. Names of different directories are different people.
	Source string
	// Master is the login of a master user who acts for Authentication; "" for
	// people who act for themselves.
	Master string
	// App names the password for an application that was shown; "" for the
	// account's own password.
	App string
	// Remembered says that the verifier was not asked: it said yes to the same
	// password before.
	Remembered bool
}

// Transaction is one message between MAIL and the end of data as a policy
// stage sees it. Stages look and never write.
type Transaction struct {
	Client    Client
	QueueID   QueueID // "" before one is given
	Phase     Phase
	Envelope  Envelope   // recipients accepted so far
	Recipient *Recipient // the one being decided; nil outside RCPT, or when several
	Octets    int64      // received message size; 0 before the end of data
	Started   time.Time
	// Message is what was received, for the stages of the content list; nil elsewhere.
	Message Message
	// Findings are those of the stages so far. The chain adds to them.
	Findings []Finding
}

// Phase is a place in the dialogue at which policy is asked.
type Phase int

// The phases, in the order of the dialogue.
const (
	PhaseConnect Phase = iota
	PhaseHelo
	PhaseMail
	PhaseRecipient
	PhaseData
	PhaseEndOfData
)

var phaseNames = [...]string{"connect", "helo", "mail", "recipient", "data", "end-of-data"}

// String returns the phase's name in logs, audit and configuration.
func (p Phase) String() string { return phaseNames[p] }

package smtp

import (
	"context"
	"io"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Handler decides what the wire only carries. Implemented by smtpd and lmtpd.
type Handler interface {
	// NewSession is asked once per connection, before the greeting. A non-nil
	// error replaces the greeting with its reply. Without a session beside it the
	// connection ends; with one the client may say QUIT, and is denied everything
	// else (RFC 5321 section 3.1). The
	// client is the engine's: it fills in Helo, Extended and TLS as they
	// become known and Identity after authentication; handlers only read it,
	// and only inside calls.
	NewSession(ctx context.Context, client *mail.Client) (Session, error)
}

// Session is one connection's decisions. The engine calls its methods one at
// a time. Every error is answered with status.ReplyOf; a 421 or 521 reply
// closes the connection.
type Session interface {
	// Helo is told each HELO, EHLO or LHLO; client.Helo holds the argument.
	Helo(ctx context.Context) error
	// Mechanisms lists the SASL mechanisms on offer, given the TLS state.
	Mechanisms() []string
	// Auth returns the server side of one exchange. When its Next reports
	// done without error, the engine asks the session for the Identity.
	Auth(ctx context.Context, mechanism string) (Authentication, error)
	// Mail begins a transaction. The engine has checked the syntax, SIZE
	// against its limit and the order of commands.
	Mail(ctx context.Context, from MailCommand) (Transaction, error)
	// Verify answers VRFY; usually status.NotVerified.
	Verify(ctx context.Context, argument string) error
	// Close is the last call, with nil after QUIT and else the reason the
	// connection ended.
	Close(cause error)
}

// UnknownSession is a Session that hears of commands that there are none of.
type UnknownSession interface {
	Session
	// Unknown is told a line whose verb no command has, as the client sent it. It
	// is refused in any case; an error has the words for it.
	Unknown(ctx context.Context, line string) error
}

// KeptSession is a Session that answers KEPT, of XPOSTERN.
type KeptSession interface {
	Session
	// Kept tells of each token that it has given how it stands with it. The
	// tokens are the client's words, at most maxKeptTokens.
	Kept(ctx context.Context, tokens []string) ([]Standing, error)
}

// Authentication is one SASL exchange. Identity is valid once Next reported
// done without an error.
type Authentication interface {
	sasl.Server
	Identity() mail.Identity
}

// MailCommand is a MAIL command with its parameters.
type MailCommand struct {
	ReversePath    mail.Address
	DeclaredOctets int64 // SIZE, 0 when not given
	Body           mail.Body
	SMTPUTF8       bool
	Return         mail.DSNReturn
	EnvelopeID     string        // ENVID, decoded
	Auth           *mail.Address // AUTH= (RFC 4954 section 5); nil when not given; null for "<>"
	// DeliveryID is the identity of this delivery across retries, from our own
	// gateway; "" elsewhere. Only LMTP listeners advertise XPOSTERN and
	// accept its DELIVERYID parameter.
	DeliveryID string
	// Keep tells that the client keeps the message until it has learnt by KEPT
	// that the partner in a replication pair has it, where the reply asks for
	// that. It belongs to XPOSTERN, too, and needs a DeliveryID.
	Keep bool
	// RequireTLS is REQUIRETLS (RFC 8689), which is taken under TLS only.
	RequireTLS bool
	// Priority is MT-PRIORITY (RFC 6710), no higher than the listener allows;
	// PriorityGiven tells that it was given. A client sends one that is not 0.
	Priority      int8
	PriorityGiven bool
}

// RcptCommand is a RCPT command with its parameters.
type RcptCommand struct {
	ForwardPath mail.Address
	Original    string // ORCPT as "type;address", the address decoded
	Notify      mail.Notify
}

// Transaction is one message, from MAIL to the end of data. It ends with
// Content or with Abort, never both, and is then dropped.
type Transaction interface {
	// Rcpt decides about one forward-path.
	Rcpt(ctx context.Context, to RcptCommand) error
	// Data is asked at DATA or the first BDAT, before the client is told to
	// go on; at least one recipient was accepted.
	Data(ctx context.Context) error
	// Content receives the message, unstuffed and with normalised line ends.
	// In SMTP it returns one reply; in LMTP one for each accepted recipient,
	// in order. A positive reply means that responsibility was taken. When r
	// fails (connection lost, over the limit, bare newline refused), Content
	// must return that error and keep nothing. The engine drains what Content
	// left unread.
	Content(ctx context.Context, r io.Reader) ([]status.Reply, error)
	// Abort ends the transaction without a message.
	Abort()
}

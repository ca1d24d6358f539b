package mail

import (
	"time"

	"github.com/postern-mail/postern/status"
)

// OutcomeClass is how an attempt for one recipient ended.
type OutcomeClass int

// The classes. Delivered means that the next hop took responsibility.
const (
	Deferred OutcomeClass = iota
	Delivered
	Bounced
)

var outcomeNames = [...]string{"deferred", "delivered", "bounced"}

// String returns the class's name in logs and audit.
func (c OutcomeClass) String() string { return outcomeNames[c] }

// Kept reports whether the next hop has the message, but asks us to keep it for
// its partner in a replication pair until that has it, too: Deferred with a
// positive reply, which holds the token to ask by. At is when that was said.
func (o *Outcome) Kept() bool {
	return o.Class == Deferred && o.FromPeer && o.Reply.Code/100 == 2
}

// Outcome is the result of one delivery attempt for one recipient.
type Outcome struct {
	Recipient Address
	Class     OutcomeClass
	Reply     status.Reply // the next hop's reply verbatim, or ours
	FromPeer  bool         // Reply is the next hop's own
	Remote    string       // "host[address]:port" or socket path; "" before a connection
	RemoteMTA string       // name for the report's Remote-MTA field, or ""
	TLS       string       // "Verified TLSv1.3 TLS_AES_128_GCM_SHA256 by dane"; "" in the clear
	At        time.Time
	// Relayed is true when the next hop does not promise reports itself, so
	// that NOTIFY=SUCCESS asks for a "relayed" report here.
	Relayed bool
	// Final is true when the next hop is the mail's last one, as LMTP is: the
	// report then says "delivered".
	Final bool
	// Uncertain is true when the next hop may have the message although it is
	// Deferred: it was handed over whole, no reply came, and a repeat would
	// make a second copy.
	Uncertain bool
}

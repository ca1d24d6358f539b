package mail

import (
	"io"

	"github.com/postern-mail/postern/status"
)

// Action is what a policy stage wants done, in the terms of Postfix's
// restriction lists.
type Action int

// The actions. Dunno goes on with the next stage; Permit ends the list in
// favour; Reject ends everything. The deferred ones only raise a flag.
const (
	Dunno Action = iota
	Permit
	Reject        // 4xx or 5xx, as the reply's code says
	DeferIfPermit // 4xx at the end of the phase if nothing rejected
	DeferIfReject // turns a later 5xx of the same list into this 4xx
	Hold          // accept and keep in the queue until released
	Discard       // accept and throw away, audited
)

var actionNames = [...]string{"dunno", "permit", "reject", "defer_if_permit", "defer_if_reject", "hold", "discard"}

// String returns the action's name in logs, audit and tables.
func (a Action) String() string { return actionNames[a] }

// Verdict is a stage's answer. The zero Verdict is Dunno.
type Verdict struct {
	Action Action
	Reason status.Reason // why, for Reject and the deferred actions
	Reply  *status.Reply // instead of the reason's own reply, from an access table
	Stage  string        // who said so; filled in by the chain
	Detail string        // for log and audit, never for the client
	Info   bool          // Detail is news rather than a warning
	Edits  []Edit        // applied by the chain when the stage returned no error
	// Findings are kept for the stages that follow, of the same transaction.
	Findings []Finding
}

// Edit is a change a verdict asks for. Exactly one field is set. Those of the
// message but PrependHeader are for stages that were given the Message.
type Edit struct {
	PrependHeader string // one header field, without its line end
	Insert        *InsertField
	Change        *ChangeField
	// Body takes the place of the message's body. It is read to its end once; a
	// line that ends in CR or LF alone gets CRLF.
	Body io.Reader

	ReversePath *Address
	// Add is a recipient more, Remove no recipient any more: of those RCPT named
	// as it is written there.
	Add    *Recipient
	Remove *Address
	// Redirect takes the place of all recipients.
	Redirect *Address
	// Copy is a recipient more of whom the sender never hears.
	Copy *Address
	// Route is where the message goes for all recipients, whatever their
	// domains say; Redirect outranks it.
	Route *Route
	// RequireTLS lets the message go only where its protection is certain (RFC
	// 8689).
	RequireTLS bool
}

// OfEnvelope reports whether the edit concerns the envelope.
func (e *Edit) OfEnvelope() bool {
	return e.ReversePath != nil || e.Add != nil || e.Remove != nil || e.Redirect != nil || e.Copy != nil || e.Route != nil || e.RequireTLS
}

// WireReply returns what the client is told when the verdict refuses.
func (v Verdict) WireReply() status.Reply {
	if v.Reply != nil {
		return *v.Reply
	}
	return v.Reason.Reply()
}

// Decision is what the policy chain made of its stages' verdicts at one phase
// of the dialogue. Hold, Discard, Headers and Envelope are of the whole message, as
// decided so far; nothing of a refused recipient is in them.
type Decision struct {
	// Refused tells that the command is answered with Verdict's reply.
	Refused bool
	Verdict Verdict
	Hold    bool
	Discard bool
	// Headers are header fields to put on top of the message, the first one
	// uppermost, without line ends.
	Headers []string
	// Resolved is who the recipient stands for, when a stage asked the
	// directory; the caller need not ask again.
	Resolved []Recipient
	// PermittedBy names the stage that granted relaying, or "" when the list
	// came to its end.
	PermittedBy string
	// Envelope holds the edits of the envelope, in the order they were asked for.
	Envelope []Edit
}

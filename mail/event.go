package mail

import (
	"net/netip"
	"time"
)

// EventKind names what an audit record is about. The set is closed.
type EventKind string

// The kinds of audit events.
const (
	EventConnect    EventKind = "connection"
	EventDisconnect EventKind = "disconnect"
	EventAuth       EventKind = "authentication"
	EventPolicy     EventKind = "policy"
	EventAccept     EventKind = "accept"
	EventDelivery   EventKind = "delivery"
	EventFinal      EventKind = "final"
	EventQueueAdmin EventKind = "queue-admin"
	EventOperator   EventKind = "operator"
	EventMailbox    EventKind = "mailbox"
	EventExpunge    EventKind = "expunge"
	EventConfig     EventKind = "configuration"
	EventLifecycle  EventKind = "lifecycle"
	EventTLSReport  EventKind = "tls-report"
	EventDMARC      EventKind = "dmarc-report"
	EventMirror     EventKind = "mirror"
	EventReplica    EventKind = "replication"
	EventLockout    EventKind = "lockout"
	EventLimit      EventKind = "limit"
	EventPregreet   EventKind = "pregreet"
)

// Event is one line of the audit: who did what, from where, with which result
// and why, and the ids that tie a message's life together. It never holds a
// password or message content. Zero fields are left out.
type Event struct {
	Time      time.Time      `json:"time"` // set by the audit when zero
	Kind      EventKind      `json:"event"`
	Result    string         `json:"result,omitempty"` // ok, refused, deferred, unknown, ...
	Reason    string         `json:"reason,omitempty"` // a status.Reason's name
	Service   string         `json:"service,omitempty"`
	Session   SessionID      `json:"session,omitempty"`
	Queue     QueueID        `json:"queue,omitempty"`
	Delivery  string         `json:"delivery,omitempty"`
	Remote    netip.AddrPort `json:"remote,omitzero"`
	Login     string         `json:"login,omitempty"`
	Mechanism string         `json:"mechanism,omitempty"`
	Verifier  string         `json:"verifier,omitempty"`
	From      *Address       `json:"from,omitempty"` // pointer: "" is the null reverse-path
	To        []Address      `json:"to,omitempty"`
	Mailbox   string         `json:"mailbox,omitempty"`
	Owner     string         `json:"owner,omitempty"` // whose mailbox it is, where that is not Login
	UIDs      string         `json:"uids,omitempty"`  // an IMAP sequence set
	Stage     string         `json:"stage,omitempty"`
	Phase     string         `json:"phase,omitempty"`
	Reply     string         `json:"reply,omitempty"`
	Peer      string         `json:"peer,omitempty"`
	Octets    int64          `json:"octets,omitempty"`
	MessageID string         `json:"message_id,omitempty"`
	TLS       string         `json:"tls,omitempty"`
	Client    string         `json:"client,omitempty"`   // verified name of an SMTP client
	Helo      string         `json:"helo,omitempty"`     // what it calls itself
	Protocol  string         `json:"protocol,omitempty"` // SMTP or ESMTP
	Command   string         `json:"command,omitempty"`  // the last one of an SMTP session
	Commands  string         `json:"commands,omitempty"` // how many of each: Dialogue.Commands
	Count     int64          `json:"count,omitempty"`
	// Destination of a delivery, as the queue calls it: TARGET/NEXTHOP.
	Destination string        `json:"destination,omitempty"`
	Detail      string        `json:"detail,omitempty"`
	Duration    time.Duration `json:"duration_ns,omitempty"`
	Steps       []PolicyStep  `json:"steps,omitempty"`
}

// PolicyStep is one restriction that was asked about a command or a message.
type PolicyStep struct {
	List      string        `json:"list"`
	Stage     string        `json:"stage"`
	Recipient string        `json:"rcpt,omitempty"` // whom it was asked about, if about one
	Input     string        `json:"input,omitempty"`
	Verdict   string        `json:"verdict"` // an Action's name, or "error"
	Detail    string        `json:"detail,omitempty"`
	Cost      time.Duration `json:"cost_ns"`
}

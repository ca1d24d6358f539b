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
	UIDs      string         `json:"uids,omitempty"` // an IMAP sequence set
	Stage     string         `json:"stage,omitempty"`
	Phase     string         `json:"phase,omitempty"`
	Reply     string         `json:"reply,omitempty"`
	Peer      string         `json:"peer,omitempty"`
	Octets    int64          `json:"octets,omitempty"`
	MessageID string         `json:"message_id,omitempty"`
	TLS       string         `json:"tls,omitempty"`
	Detail    string         `json:"detail,omitempty"`
	Duration  time.Duration  `json:"duration_ns,omitempty"`
}

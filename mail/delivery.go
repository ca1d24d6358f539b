package mail

import (
	"io"
	"time"
)

// Delivery is one attempt at one message for recipients that share a next hop.
type Delivery struct {
	QueueID QueueID
	// ID is the same for every attempt at the same message and recipients, so
	// that a backend that saw it already answers without storing twice.
	ID       string
	Envelope Envelope // Recipients are those of this attempt
	Octets   int64
	Attempt  int // 1 for the first
	// Open returns the message from its first octet, CRLF line ends. The
	// caller closes it; it may be called more than once.
	Open func() (Content, error)
	// Before is the envelope that the route was chosen by, with the same
	// recipients in the same order, where addresses were rewritten since; nil
	// where they were not.
	Before *Envelope
	// Kept has, for each recipient of Envelope, the outcome by which a node of a
	// replication pair has the message already, or the zero Outcome; nil when
	// none has. See Outcome.Kept.
	Kept []Outcome
	// Probe asks the next hop only whether it would take the recipients: there
	// is no message, Open is nil, and Delivered means that it would.
	Probe bool
}

// Routed returns the envelope that the route was chosen by.
func (d *Delivery) Routed() *Envelope {
	if d.Before != nil {
		return d.Before
	}
	return &d.Envelope
}

// Content is a message's octets.
type Content interface {
	io.ReadSeeker
	io.ReaderAt
	io.Closer
}

// ReportKind is what a delivery status notification tells.
type ReportKind int

// The kinds of reports (RFC 3464 section 2.3.3).
const (
	ReportFailed ReportKind = iota
	ReportDelayed
	ReportDelivered
	ReportRelayed
	ReportExpanded
)

// Report is what a delivery status notification is composed from.
type Report struct {
	Kind     ReportKind
	QueueID  QueueID
	Envelope Envelope // of the message reported on
	Arrived  time.Time
	Until    time.Time // when delivery is given up, for delays
	Outcomes []Outcome
	// Received is the session's description of where the message came from,
	// for the Received-From-MTA field; "" when it is ours.
	ReceivedFrom string
	// Open returns the message reported on, to attach it or its header.
	Open func() (Content, error)

	// Brief keeps the report to some kilobytes: there is little room.
	Brief bool

	// Notice makes the report one for the postmaster, who is at Postmaster: a
	// copy of what the sender is told, or news of ours, with no Outcomes, which
	// Detail tells.
	Notice     NoticeClass
	Postmaster Address
	Detail     string
	// LeftOut is how many notices of the class were not sent before this one.
	LeftOut int
}

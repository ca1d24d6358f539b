package mail

import "time"

// ClientEvent is something a client does that may be bounded per time.
type ClientEvent uint8

// The events.
const (
	ClientConnects ClientEvent = iota
	ClientSendsMessage
	ClientNamesRecipient
	ClientStartsTLS
	ClientAuthenticates

	ClientEvents // how many there are
)

var clientEventNames = [ClientEvents]string{"connection", "message", "recipient", "tls", "auth"}

// String returns the event's name in metrics and commands.
func (e ClientEvent) String() string { return clientEventNames[e] }

// Pace is what came of counting one event of a client.
type Pace struct {
	// Over tells that the client was too fast; the event is not counted then.
	Over bool
	// Wait is after which time it may try again, when Over.
	Wait time.Duration
	// Count is how many such events there were in the time unit, this one
	// included, when Over; Unit is that time.
	Count int
	Unit  time.Duration
	// First tells that this is the first one too many after others that were not.
	First bool
}

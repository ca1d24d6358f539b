package imaptest

import (
	"encoding/json"
	"io"
	"slices"
	"sync"
)

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	// Add is a new message: Content, and UID where the server told it.
	Add Kind = "add"
	// Copy and Move take Pairs from Mailbox to Dest.
	Copy Kind = "copy"
	Move Kind = "move"
	// Expunge is about the one message with UID.
	Expunge Kind = "expunge"
	// Delete is about the whole Mailbox.
	Delete Kind = "delete"
	// View is a whole mailbox as a client was shown it: Messages, and UIDNext
	// as it was told at the begin.
	View Kind = "view"
	// Saw is some messages of it.
	Saw Kind = "saw"
	// Poll is what came for UIDs from From on.
	Poll Kind = "poll"
	// Resync compares a cache, Cached, with what was there, Messages.
	Resync Kind = "resync"
)

// Event is one note. Which fields have a meaning depends on the Kind.
type Event struct {
	Kind    Kind   `json:"kind"`
	Client  string `json:"client,omitempty"`
	Node    string `json:"node,omitempty"`
	Account string `json:"account,omitempty"`
	// Begin and End are instants of the history's own clock, which orders all
	// clients: what ends before another begins was before it.
	Begin uint64 `json:"begin"`
	End   uint64 `json:"end"`
	// Acked: the server acknowledged it. Otherwise it may have happened.
	Acked bool `json:"acked,omitempty"`
	// Certain: an expunge took away this message, and not another client before.
	Certain bool `json:"certain,omitempty"`
	// Final: everything has settled.
	Final bool `json:"final,omitempty"`

	Mailbox     string    `json:"mailbox,omitempty"`
	Dest        string    `json:"dest,omitempty"`
	UIDValidity uint32    `json:"uidvalidity,omitempty"`
	UIDNext     uint32    `json:"uidnext,omitempty"`
	From        uint32    `json:"from,omitempty"`
	UID         uint32    `json:"uid,omitempty"`
	Content     string    `json:"content,omitempty"`
	Pairs       []Pair    `json:"pairs,omitempty"`
	Messages    []Message `json:"messages,omitempty"`
	Cached      []Message `json:"cached,omitempty"`
	// Exists is what the server counted.
	Exists int `json:"exists,omitempty"`
}

// Pair is one message of a COPY or MOVE; Dest is 0 where it is not known.
type Pair struct {
	Source  uint32 `json:"source"`
	Dest    uint32 `json:"dest,omitempty"`
	Content string `json:"content"`
}

// History gathers events. It is safe for concurrent use.
type History struct {
	mu     sync.Mutex
	clock  uint64
	events []Event
}

// NewHistory returns an empty history.
func NewHistory() *History { return &History{} }

// Now is the next instant.
func (h *History) Now() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	return h.clock
}

// Note adds an event that began at Begin and ends now.
func (h *History) Note(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	e.End = h.clock
	h.events = append(h.events, e)
}

// Delivery notes a message that was given to an LMTP server: before tells when
// that began (Now), acked that it was answered with 250. Repeats under one
// delivery identity are one delivery: note the last.
func (h *History) Delivery(account, mailbox, content string, before uint64, acked bool) {
	h.Note(Event{Kind: Add, Client: "lmtp", Account: account, Mailbox: mailbox, Content: content, Begin: before, Acked: acked})
}

// Events returns what was noted until now.
func (h *History) Events() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// WriteTo writes the events as JSON, one a line.
func (h *History) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for _, e := range h.Events() {
		b, err := json.Marshal(e)
		if err != nil {
			return n, err
		}
		k, err := w.Write(append(b, '\n'))
		if n += int64(k); err != nil {
			return n, err
		}
	}
	return n, nil
}

package imaptest

import (
	"fmt"
	"maps"
	"slices"
)

// Message is what a client knows of a message.
type Message struct {
	UID     uint32
	ModSeq  uint64
	Flags   []string // sorted
	EmailID string
	Content string // see Content; "" while not known
}

// Cache is what a client keeps of a mailbox from one connection to the next.
type Cache struct {
	Mailbox     string
	UIDValidity uint32 // 0 before the first SELECT
	// ModSeq is HIGHESTMODSEQ: everything up to it was told by the node that
	// gave it.
	ModSeq uint64
	// Next is the lowest UID that was never asked for.
	Next     uint32
	Messages map[uint32]Message

	// What follows lasts for one session.
	uidNext uint32
	exists  int
	// top is the highest mod-sequence seen in the command under way; taken is
	// true when the server said how far the client has got instead.
	top   uint64
	taken bool
}

func newCache(mailbox string) *Cache {
	return &Cache{Mailbox: mailbox, Next: 1, Messages: map[uint32]Message{}}
}

func (c *Cache) clone() *Cache {
	other := *c
	other.Messages = maps.Clone(c.Messages)
	return &other
}

// UIDs lists the messages, ascending.
func (c *Cache) UIDs() []uint32 { return slices.Sorted(maps.Keys(c.Messages)) }

// List lists the messages by UID.
func (c *Cache) List() []Message {
	list := make([]Message, 0, len(c.Messages))
	for _, uid := range c.UIDs() {
		list = append(list, c.Messages[uid])
	}
	return list
}

// begin is the begin of a session with the mailbox.
func (c *Cache) begin() { c.uidNext, c.exists, c.top, c.taken = 0, 0, 0, false }

// apply takes in one untagged response.
func (c *Cache) apply(r response) error {
	switch r.kind {
	case "OK":
		return c.applyCode(r.code)
	case "EXISTS":
		c.exists = int(r.number)
	case "EXPUNGE":
		return fmt.Errorf("EXPUNGE after ENABLE QRESYNC: %w", errProtocol)
	case "VANISHED":
		c.vanish(r)
	case "FETCH":
		return c.fetched(r)
	}
	return nil
}

func (c *Cache) applyCode(code string) error {
	if n, ok := codeNumber(code, "UIDVALIDITY"); ok && uint32(n) != c.UIDValidity {
		next := newCache(c.Mailbox)
		next.UIDValidity, next.exists, next.uidNext = uint32(n), c.exists, c.uidNext
		*c = *next
	}
	if n, ok := codeNumber(code, "UIDNEXT"); ok {
		c.uidNext = uint32(n)
	}
	if n, ok := codeNumber(code, "HIGHESTMODSEQ"); ok {
		c.top, c.taken = n, true
	}
	return nil
}

// vanish takes messages out. Without EARLIER they counted until now.
func (c *Cache) vanish(r response) {
	gone := 0
	for uid := range c.Messages {
		if slices.ContainsFunc(r.uids, func(x Range) bool { return x.First <= uid && uid <= x.Last }) {
			delete(c.Messages, uid)
		}
	}
	for _, x := range r.uids {
		gone += int(x.Last-x.First) + 1
	}
	if !r.earlier {
		c.exists -= gone
	}
}

// fetched takes in what a FETCH tells, of a message known or not.
func (c *Cache) fetched(r response) error {
	m := r.message
	if m.UID == 0 {
		return fmt.Errorf("FETCH without UID after ENABLE QRESYNC: %w", errProtocol)
	}
	known, ok := c.Messages[m.UID]
	if ok {
		if known.EmailID != "" && m.EmailID != "" && known.EmailID != m.EmailID ||
			known.Content != "" && m.Content != "" && known.Content != m.Content {
			return fmt.Errorf("UID %d was %s (%s) and is %s (%s): %w", m.UID, known.Content, known.EmailID, m.Content, m.EmailID, errProtocol)
		}
	} else {
		known.UID = m.UID
	}
	if r.showsFlags {
		known.Flags = m.Flags
	}
	if m.EmailID != "" {
		known.EmailID = m.EmailID
	}
	if m.Content != "" {
		known.Content = m.Content
	}
	if m.ModSeq != 0 {
		known.ModSeq = m.ModSeq
		if !c.taken {
			c.top = max(c.top, m.ModSeq)
		}
	}
	c.Messages[m.UID] = known
	return nil
}

// assume sets or clears a flag as a silent STORE did.
func (c *Cache) assume(uid uint32, set bool, flag string) {
	m, ok := c.Messages[uid]
	if !ok {
		return
	}
	m.Flags = slices.DeleteFunc(slices.Clone(m.Flags), func(f string) bool { return f == flag })
	if set {
		m.Flags = append(m.Flags, flag)
		slices.Sort(m.Flags)
	}
	c.Messages[uid] = m
}

// checkpoint is the end of a command, or a word of the server how far the
// client has got: only then nothing lies below what was told last.
func (c *Cache) checkpoint() {
	if c.taken {
		c.ModSeq = c.top
	} else {
		c.ModSeq = max(c.ModSeq, c.top)
	}
	c.top, c.taken = 0, false
}

// unknown lists the messages whose identity has not been asked for.
func (c *Cache) unknown() []uint32 {
	var uids []uint32
	for uid, m := range c.Messages {
		if m.Content == "" {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return uids
}

package foreign

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"
)

// pair is a message that is on both sides.
type pair struct {
	uid    [2]uint32
	id     [2]string // the servers' ids, "" where they have none
	print  fingerprint
	agreed []string // flags and keywords that both had
}

// pairVersion is the layout of a stored pair. A higher one was written by a
// newer program.
const pairVersion = 1

var errRecord = errors.New("the state holds a record that is damaged or of a newer release")

// encode writes a pair but for its UID on the left, which is in its key.
func (p pair) encode() []byte {
	b := []byte{pairVersion}
	b = binary.AppendUvarint(b, uint64(p.uid[Right]))
	b = append(b, p.print[:]...)
	for _, text := range []string{p.id[Left], p.id[Right], strings.Join(p.agreed, " ")} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	return b
}

func decodePair(left uint32, b []byte) (pair, error) {
	p := pair{uid: [2]uint32{left, 0}}
	if len(b) == 0 || b[0] != pairVersion {
		return p, errRecord
	}
	right, n := binary.Uvarint(b[1:])
	if n <= 0 || right == 0 || right > 1<<32-1 || len(b) < 1+n+len(p.print) {
		return p, errRecord
	}
	p.uid[Right] = uint32(right)
	b = b[1+n:]
	b = b[copy(p.print[:], b):]
	var texts [3]string
	for i := range texts {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return p, errRecord
		}
		texts[i] = string(b[n : n+int(size)])
		b = b[n+int(size):]
	}
	if len(b) > 0 {
		return p, errRecord
	}
	p.id = [2]string{texts[0], texts[1]}
	if texts[2] != "" {
		p.agreed = strings.Split(texts[2], " ")
	}
	return p, nil
}

// mailbox is a mailbox that is on both sides, as the state keeps it.
type mailbox struct {
	ID       uint64    `json:"id"`
	Name     string    `json:"name"` // levels separated by "/"
	Raw      [2]string `json:"raw"`  // as each server writes it
	BoxID    [2]string `json:"box_id"`
	Validity [2]uint32 `json:"uid_validity"`
	Next     [2]uint32 `json:"uid_next"`
	ModSeq   [2]uint64 `json:"mod_seq"`
	// Paired is false until the messages of both sides were compared; the
	// positions mean nothing before.
	Paired     bool      `json:"paired"`
	Subscribed bool      `json:"subscribed"`
	Pairings   int       `json:"pairings"` // how often they were compared as wholes
	InStep     time.Time `json:"in_step"`
	Trouble    string    `json:"trouble,omitempty"`
	Since      time.Time `json:"since,omitzero"` // of the trouble
}

// accountRecord is what the state keeps of an account as a whole.
type accountRecord struct {
	// Confirmed is how many messages one pass may remove beyond the guard.
	Confirmed int       `json:"confirmed,omitempty"`
	Restore   bool      `json:"restore,omitempty"` // instead of being removed, messages come back
	InStep    time.Time `json:"in_step,omitzero"`
}

// intent is an APPEND or COPY that is about to be done.
type intent struct {
	ID      uint64      `json:"id"`
	Mailbox uint64      `json:"mailbox"`
	To      Side        `json:"to"`
	UID     uint32      `json:"uid"` // on the other side
	Copy    bool        `json:"copy,omitempty"`
	Marked  bool        `json:"marked,omitempty"` // the message has pendingKeyword
	BoxID   uint32      `json:"uid_validity"`     // of the mailbox appended to
	First   uint32      `json:"first"`            // the least UID it can get
	Print   fingerprint `json:"fingerprint"`
	SrcID   string      `json:"source_id,omitempty"`
	DstID   string      `json:"copy_id,omitempty"` // a copy has the id of what it copies
	Flags   []string    `json:"flags,omitempty"`
	At      time.Time   `json:"at"`
	Late    bool        `json:"late,omitempty"` // looked for and not found; may still come
}

// waiting is a message that is not on the other side yet.
type waiting struct {
	Reason string    `json:"reason"`
	Tries  int       `json:"tries,omitempty"`
	Next   time.Time `json:"next,omitzero"`
}

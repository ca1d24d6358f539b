package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/postern-mail/postern/store"
)

// history is what an account's journal tells, as far as it is still there and
// can be read: what every message and mailbox was, from which a damaged record
// is made again.
type history struct {
	messages map[place]pastMessage
	places   map[Dot]place
	// unplaced are messages that had no UID yet.
	unplaced map[Dot]pastMessage
	boxes    map[GUID]mailboxRecord

	// damaged is the sequence number behind the last record that cannot be read
	// or does not follow the one before; 0 for none.
	damaged uint64
	any     bool
	last    uint64 // of the last operation
	hlc     uint64
	whole   bool     // the journal begins with the account
	chain   [32]byte // as computed, when whole
}

type pastMessage struct {
	message Message
	trace   []byte
}

// read reads the journal of an account.
func (h *history) read(ctx context.Context, s *Store, id GUID) error {
	h.unplaced = make(map[Dot]pastMessage)
	h.messages, h.places, h.boxes = make(map[place]pastMessage), make(map[Dot]place), make(map[GUID]mailboxRecord)
	prefix := accountKey(id, kindJournal)
	next := uint64(0)
	return store.Scan(ctx, s.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, key, value []byte) error {
		r, err := DecodeJournal(value)
		if err != nil || !bytes.Equal(key[len(prefix):], binary.BigEndian.AppendUint64(nil, r.First)) {
			if len(value) > 1 && value[0] == journalMagic && value[1] > journalVersion {
				return errors.Join(errNewer, err)
			}
			// What it was is not known; what follows may still be.
			h.any, next = true, 0
			if len(key) == len(prefix)+8 {
				h.damaged = binary.BigEndian.Uint64(key[len(prefix):]) + 1
			}
			return nil
		}
		if !h.any {
			h.whole = r.First == 1
		} else if r.First != next {
			h.damaged = r.First
		}
		h.any = true
		next = r.First + uint64(len(r.Ops))
		h.last, h.hlc = next-1, max(h.hlc, r.HLC)
		h.chain = chainJournal(h.chain, value)
		for i := range r.Ops {
			h.apply(&r.Ops[i])
		}
		return nil
	})
}

// apply follows one operation.
func (h *history) apply(op *JournalOp) {
	switch op.Code {
	case OpAdd:
		past := pastMessage{op.Message, bytes.Clone(op.Trace)}
		if op.Message.UID == 0 {
			h.unplaced[op.Message.Dot] = past
			return
		}
		h.place(past, place{op.Mailbox, op.Message.UID})
	case OpUid:
		for i, dot := range op.Dots {
			h.move(dot, place{op.Mailbox, op.UIDs[i]})
		}
	case OpExpunge:
		for _, dot := range op.Dots {
			delete(h.messages, h.places[dot])
			delete(h.places, dot)
			delete(h.unplaced, dot)
		}
	case OpFlags:
		h.flags(op)
	case OpCreate:
		h.boxes[op.Mailbox] = mailboxRecord{name: op.Leaf, parent: op.Parent, leaf: op.Leaf, use: op.SpecialUse, subscribed: op.Subscribed, uidValidity: op.UIDValidity}
	case OpDelete:
		delete(h.boxes, op.Mailbox)
	case OpRename, OpMove:
		if box, known := h.boxes[op.Mailbox]; known {
			box.name, box.parent, box.leaf = op.Leaf, op.Parent, op.Leaf
			h.boxes[op.Mailbox] = box
		}
	case OpSubscribe:
		if box, known := h.boxes[op.Mailbox]; known {
			box.subscribed = op.Subscribed
			h.boxes[op.Mailbox] = box
		}
	}
}

func (h *history) place(past pastMessage, at place) {
	past.message.UID = at.uid
	h.messages[at], h.places[past.message.Dot] = past, at
}

// move gives a message its UID, or a higher one.
func (h *history) move(dot Dot, to place) {
	from, placed := h.places[dot]
	past, waits := h.unplaced[dot]
	switch {
	case waits:
		delete(h.unplaced, dot)
	case placed && from.uid < to.uid:
		past = h.messages[from]
		delete(h.messages, from)
	default:
		return
	}
	h.place(past, to)
}

func (h *history) flags(op *JournalOp) {
	for _, dot := range op.Dots {
		at, known := h.places[dot]
		if !known {
			continue
		}
		past := h.messages[at]
		m := &past.message
		m.Flags = m.Flags&^op.Clear | op.Set
		m.Keywords = unite(without(m.Keywords, op.ClearKeywords), op.SetKeywords)
		h.messages[at] = past
	}
}

// journal removes what stands before a damaged place, and all of it when it
// does not end where the account is. Who reads it, reads from the start then.
func (r *repairer) journal(ctx context.Context) error {
	h := &r.past
	if !h.any {
		return nil
	}
	prefix := accountKey(r.id, kindJournal)
	switch {
	case h.last > r.head.seq:
		r.head.seq = h.last
	case h.last < r.head.seq || h.damaged > h.last:
		r.batch.DeleteRange(prefix, above(prefix))
		r.tell(Finding{Err: errors.New("journal does not end where the account is")}, "removed")
		return r.flush(ctx, flushAt)
	}
	switch {
	case h.damaged > 0:
		r.batch.DeleteRange(prefix, numberKey(prefix, h.damaged))
		r.tell(Finding{Err: errors.New("journal")}, "removed as far as it is damaged")
	case h.whole && r.head.chain != h.chain:
		r.head.chain = h.chain
	}
	return r.flush(ctx, flushAt)
}

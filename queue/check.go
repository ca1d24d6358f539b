package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// FindingKind says what is wrong.
type FindingKind string

// What Check finds.
const (
	// FoundDamaged: a message cannot be read; it is never delivered.
	FoundDamaged FindingKind = "message is damaged"
	// FoundNoBody: a message's content is gone, or shorter than it was.
	FoundNoBody FindingKind = "body cannot be opened"
	// FoundNoDue: nothing has a message tried that is not on hold.
	FoundNoDue FindingKind = "due entry is missing"
	// FoundDone: every recipient is done with, but the message is still there.
	FoundDone FindingKind = "message is done and still there"
	// FoundOrphan: a record of no message. It does no harm.
	FoundOrphan FindingKind = "record without a message"
	// FoundStale: a due entry that is not its message's. It does no harm.
	FoundStale FindingKind = "due entry at a wrong time"
	// FoundCount: there are more or fewer messages than are counted.
	FoundCount FindingKind = "count is wrong"
	// FoundUnknown: a key that the queue does not write.
	FoundUnknown FindingKind = "unknown key"
)

// Finding is one thing that is wrong, and where.
type Finding struct {
	Kind  FindingKind
	Queue mail.QueueID // "" where the key does not tell
	Err   error        // the details; may be nil

	key   []byte // what Repair writes or removes; nil for nothing
	value []byte // what it writes there
}

func (f Finding) String() string {
	text := string(f.Kind)
	if f.Queue != "" {
		text = "message " + string(f.Queue) + ": " + text
	}
	if f.Err != nil {
		text += ": " + f.Err.Error()
	}
	return text
}

// Check reads every record of the queue in kv and tells report what is wrong:
// every message is readable, has its body, and waits for its time or is on
// hold; every other record belongs to a message. It changes nothing and expects
// that no Queue runs meanwhile. messages grows by each message that was looked
// at. The error is one that keeps it from going on.
func Check(ctx context.Context, kv store.Store, blobs store.Blobs, report func(Finding), messages *atomic.Int64) error {
	c := checker{kv: kv, blobs: blobs, report: report}
	err := kv.View(ctx, func(v store.Snapshot) (err error) {
		c.shards, c.counted, err = readLayout(v)
		return err
	})
	if err != nil {
		return err
	}
	var found []error
	for _, pass := range []struct {
		kind byte
		look func(ctx context.Context, v store.Snapshot, key, value []byte) error
	}{
		{'m', func(ctx context.Context, v store.Snapshot, key, _ []byte) error {
			messages.Add(1)
			return c.message(ctx, v, mail.QueueID(key[2:]))
		}},
		{'p', c.numbered("part")},
		{'r', c.numbered("state")},
		{'h', func(_ context.Context, v store.Snapshot, key, _ []byte) error {
			return c.owned(v, key, mail.QueueID(key[2:]), "hold")
		}},
		{'d', c.due},
	} {
		lo, hi := kindRange(pass.kind)
		found = append(found, c.each(ctx, lo, hi, pass.look))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return errors.Join(append(found, c.unknown(ctx), c.counts(ctx))...)
}

// References calls each for every reference that a message holds to its body.
// It returns how many messages are too damaged to tell theirs. No Queue may run
// meanwhile.
func References(ctx context.Context, kv store.Store, each func(store.Ref)) (unreadable int64, err error) {
	c := checker{kv: kv}
	lo, hi := kindRange('m')
	err = c.each(ctx, lo, hi, func(_ context.Context, _ store.Snapshot, _, value []byte) error {
		ref, err := decodeRef(value)
		if err != nil {
			unreadable++
			return nil
		}
		each(ref)
		return nil
	})
	return unreadable, err
}

type checker struct {
	kv      store.Store
	blobs   store.Blobs
	report  func(Finding)
	shards  shards
	counted bool
}

// checkAtOnce is how many records are read in one view.
const checkAtOnce = 250

// each calls look for every record in a range, in the view that read it.
func (c *checker) each(ctx context.Context, lo, hi []byte, look func(ctx context.Context, v store.Snapshot, key, value []byte) error) error {
	return store.Scan(ctx, c.kv, lo, hi, checkAtOnce, func(v store.Snapshot, key, value []byte) error {
		return look(ctx, v, key, value)
	})
}

// message looks at one message with everything that belongs to it.
func (c *checker) message(ctx context.Context, v store.Snapshot, id mail.QueueID) error {
	if !validID(id) {
		c.report(Finding{Kind: FoundUnknown, Err: fmt.Errorf("message key %q", id)})
		return nil
	}
	m, err := c.shards.readMessage(v, id)
	if errors.Is(err, errRecord) {
		c.report(Finding{Kind: FoundDamaged, Queue: id, Err: err})
		return nil
	} else if err != nil {
		return err
	}
	if body, err := c.blobs.Open(ctx, m.ref); err != nil {
		c.report(Finding{Kind: FoundNoBody, Queue: id, Err: err})
	} else if err := body.Close(); err != nil {
		c.report(Finding{Kind: FoundNoBody, Queue: id, Err: err})
	}
	if m.finished() {
		c.report(Finding{Kind: FoundDone, Queue: id})
	}
	for _, key := range m.dueKeys() {
		if _, err := v.Get(key); errors.Is(err, store.ErrNotFound) {
			e, _ := parseDueKey(key)
			c.report(Finding{Kind: FoundNoDue, Queue: id, Err: fmt.Errorf("%s of %s", groupText(e.group), e.due.UTC().Format(time.RFC3339)), key: key})
		} else if err != nil {
			return err
		}
	}
	return c.furtherParts(v, m)
}

// dueKeys are the due entries that m must have.
func (m *message) dueKeys() (keys [][]byte) {
	if m.untriedEntry {
		keys = append(keys, m.untriedKey())
	}
	for g := range m.work {
		if !m.work[g].entry.IsZero() {
			keys = append(keys, m.entryKey(g))
		}
	}
	return keys
}

func groupText(group int) string {
	if group == firstAttempt {
		return "first attempt"
	}
	return fmt.Sprintf("group %d", group)
}

// furtherParts looks for parts beyond those that the message has.
func (c *checker) furtherParts(v store.Snapshot, m *message) error {
	_, end := partRange(m.id)
	for pair, err := range v.Range(partKey(m.id, m.parts), end, 0, false) {
		if err != nil {
			return err
		}
		n, _ := stateGroup(pair.Key)
		c.report(Finding{Kind: FoundOrphan, Queue: m.id, Err: fmt.Errorf("part %d", n), key: bytes.Clone(pair.Key)})
	}
	return nil
}

// numbered looks at records with the id, a zero and a number in their keys.
func (c *checker) numbered(what string) func(context.Context, store.Snapshot, []byte, []byte) error {
	return func(_ context.Context, v store.Snapshot, key, _ []byte) error {
		if len(key) < 2+1+5 || key[len(key)-5] != 0 {
			c.report(Finding{Kind: FoundUnknown, Err: fmt.Errorf("%s key %x", what, key)})
			return nil
		}
		number := binary.BigEndian.Uint32(key[len(key)-4:])
		return c.owned(v, key, mail.QueueID(key[2:len(key)-5]), fmt.Sprintf("%s %d", what, number))
	}
}

// owned reports a record whose message does not exist.
func (c *checker) owned(v store.Snapshot, key []byte, id mail.QueueID, what string) error {
	_, err := v.Get(messageKey(id))
	if errors.Is(err, store.ErrNotFound) {
		c.report(Finding{Kind: FoundOrphan, Queue: id, Err: errors.New(what), key: bytes.Clone(key)})
		return nil
	}
	return err
}

// due looks at one due entry. Those of damaged messages cannot be judged.
func (c *checker) due(_ context.Context, v store.Snapshot, key, _ []byte) error {
	e, ok := parseDueKey(key)
	if !ok {
		c.report(Finding{Kind: FoundUnknown, Err: fmt.Errorf("due key %x", key)})
		return nil
	}
	m, err := c.shards.readMessage(v, e.id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.report(Finding{Kind: FoundOrphan, Queue: e.id, Err: errors.New("due entry"), key: bytes.Clone(key)})
		return nil
	case errors.Is(err, errRecord):
		return nil
	case err != nil:
		return err
	}
	for _, own := range m.dueKeys() {
		if bytes.Equal(own, key) {
			return nil
		}
	}
	c.report(Finding{Kind: FoundStale, Queue: e.id, Err: fmt.Errorf("%s, %s", groupText(e.group), e.due.UTC().Format(time.RFC3339)), key: bytes.Clone(key)})
	return nil
}

// counts holds what is there against what is counted. The first release kept no
// counts.
func (c *checker) counts(ctx context.Context) error {
	if !c.counted {
		return nil
	}
	there, err := countMessages(ctx, c.kv, c.shards)
	if err != nil {
		return err
	}
	return c.kv.View(ctx, func(v store.Snapshot) error {
		for s := range there {
			counted, err := readCounts(v, uint16(s))
			if err != nil {
				return err
			}
			c.compare(uint16(s), "messages", countedMessages, there[s].messages, counted.messages)
			c.compare(uint16(s), "messages on hold", countedHeld, there[s].held, counted.held)
		}
		return nil
	})
}

func (c *checker) compare(shard uint16, what string, kind byte, there, counted int64) {
	if there != counted {
		c.report(Finding{
			Kind: FoundCount, Err: fmt.Errorf("%d %s in shard %d, %d are counted", there, what, shard, counted),
			key: countKey(shard, kind), value: store.EncodeCounter(there),
		})
	}
}

// unknown looks for keys under the queue's tag of no kind that it writes.
func (c *checker) unknown(ctx context.Context) error {
	const kinds = "cdhimprsvw" // in order
	from := []byte{tag}
	for i := 0; i <= len(kinds); i++ {
		end := []byte{tag + 1}
		if i < len(kinds) {
			end = []byte{tag, kinds[i]}
		}
		err := c.each(ctx, from, end, func(_ context.Context, _ store.Snapshot, key, _ []byte) error {
			c.report(Finding{Kind: FoundUnknown, Err: fmt.Errorf("key %x", key)})
			return nil
		})
		if err != nil {
			return err
		}
		if i < len(kinds) {
			from = []byte{tag, kinds[i] + 1}
		}
	}
	return nil
}

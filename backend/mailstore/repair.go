package mailstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/fulltext"
	"github.com/postern-mail/postern/store"
)

// Repair mends in every account what Verify finds, as far as that loses no
// mail: counts, sizes and numbers that must not be too low, structures, which
// are made again from bodies, records of messages and mailboxes, which are made
// again from the journal. A message whose mailbox is gone gets one. Where the
// journal itself is damaged, what stands before that goes, as it does with time.
// repaired is told of each repair once it is durable. Nobody may use the store
// meanwhile, nor may have opened an account. The error joins what kept it from
// a repair, or from going on to further accounts.
func (s *Store) Repair(ctx context.Context, repaired func(f Finding, how string)) error {
	var failed []error
	err := s.eachAccount(ctx, func(id GUID, name string, damage error) error {
		r := repairer{store: s, id: id, name: name, repaired: repaired}
		if name == "" {
			r.name = id.String()
		}
		if whole, err := r.isWhole(ctx); whole || err != nil {
			return err
		}
		if err := r.account(ctx); err != nil {
			failed = append(failed, fmt.Errorf("account %q: %w", r.name, err))
		}
		return ctx.Err()
	})
	return errors.Join(append(failed, err, s.repairShared(ctx, repaired))...)
}

// repairer mends one account: it reads all records, and makes of them what
// they should be.
type repairer struct {
	store    *Store
	id       GUID
	name     string
	repaired func(f Finding, how string)

	past  history
	head  head
	boxes map[GUID]*repairedBox
	// deleted are mailboxes that are kept for what hangs below them, or for the
	// partner.
	deleted map[GUID]mailboxRecord
	told    []mending
	batch   *store.Batch // what is to be written next
}

// mending is a repair that is not durable yet.
type mending struct {
	finding Finding
	how     string
}

// repairedBox is a mailbox, with what its messages say of it.
type repairedBox struct {
	stored  mailboxRecord
	record  mailboxRecord // as it should be
	missing bool          // the record is not there, or cannot be read
	counted view
}

// account reads and mends one account.
func (r *repairer) account(ctx context.Context) error {
	if err := r.index(ctx); err != nil {
		return err
	}
	r.boxes, r.deleted, r.batch = make(map[GUID]*repairedBox), make(map[GUID]mailboxRecord), store.NewBatch()
	r.batch.UseReserve = true
	if err := r.past.read(ctx, r.store, r.id); err != nil {
		return err
	}
	headRecord, err := r.readHead(ctx)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{r.mailboxes, r.pending, r.messages, r.structures, r.sortKeys, r.readers, r.virtual, r.tree, r.shared} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := r.journal(ctx); err != nil {
		return err
	}
	r.head.hlc = max(r.head.hlc, r.past.hlc)
	if record := r.head.encode(); !bytes.Equal(record, headRecord) {
		r.batch.Put(accountKey(r.id, kindHead), record)
		r.tell(Finding{Err: errors.New("counters of the account")}, "head written anew")
	}
	return r.flush(ctx, 0)
}

// index removes a search index that cannot be read: the server builds it anew.
func (r *repairer) index(ctx context.Context) error {
	x := r.store.indexOf(r.id)
	damage := x.Verify(ctx)
	if damage == nil || !fulltext.IsDamaged(damage) {
		return damage
	}
	if err := x.Drop(ctx); err != nil {
		return err
	}
	r.repaired(Finding{Account: r.name, Err: fmt.Errorf("search index: %w", damage)}, "removed, to be built anew")
	return nil
}

// isWhole reports whether there is nothing to repair.
func (r *repairer) isWhole(ctx context.Context) (bool, error) {
	whole := true
	c := checker{store: r.store, id: r.id, seen: new(atomic.Int64), report: func(Finding) { whole = false }}
	err := c.account(ctx)
	return whole && err == nil, ctx.Err()
}

// tell notes a repair whose writes are in the batch.
func (r *repairer) tell(f Finding, how string) {
	f.Account = r.name
	r.told = append(r.told, mending{f, how})
}

// flush commits the batch once it has more than so many operations.
func (r *repairer) flush(ctx context.Context, above int) error {
	octets := 0
	for _, op := range r.batch.Ops {
		octets += len(op.Value)
	}
	if len(r.batch.Ops) <= above && octets <= above*1000 {
		return nil
	}
	if _, err := r.store.kv.Commit(ctx, r.batch); err != nil {
		return err
	}
	for _, t := range r.told {
		r.repaired(t.finding, t.how)
	}
	r.told, r.batch = nil, store.NewBatch()
	r.batch.UseReserve = true
	return nil
}

// flushAt is how many operations are collected: a structure has up to 64 KiB.
const flushAt = 200

// readHead reads the head, or begins a new one.
func (r *repairer) readHead(ctx context.Context) (record []byte, err error) {
	err = r.store.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(accountKey(r.id, kindHead))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		record = bytes.Clone(value)
		return err
	})
	if err != nil {
		return nil, err
	}
	if newer(record, headVersion) {
		return nil, errNewer
	}
	if r.head, err = decodeHead(record); err != nil {
		r.head = head{
			seq: r.past.last, hlc: r.past.hlc, chain: r.past.chain, origin: r.store.origin, streamFrom: r.past.last + 1,
		}
		err = r.others(ctx)
	}
	return record, err
}

// others reads from their journals how far other origins are known. What is
// not known of their chains the partner finds out and sends its state.
func (r *repairer) others(ctx context.Context) error {
	return r.each(ctx, kindForeign, func(_ store.Snapshot, _, value []byte) error {
		if record, err := DecodeJournal(value); err == nil {
			known := r.head.others.Of(record.Origin)
			known.Seq = max(known.Seq, record.Last())
			known.Chain = chainJournal(known.Chain, value)
			r.head.learn(known)
		}
		return nil
	})
}

var errNewer = errors.New("written by a newer program")

// newer reports whether a record's format is one that this program, which knows
// versions up to newest, does not know: it is not damaged.
func newer(record []byte, newest byte) bool {
	return len(record) > 0 && record[0] > newest && record[0] < 0x20
}

// each is store.Scan over a kind of the account's records.
func (r *repairer) each(ctx context.Context, kind byte, look func(snap store.Snapshot, key, value []byte) error) error {
	prefix := accountKey(r.id, kind)
	return store.Scan(ctx, r.store.kv, prefix, above(prefix), checkAtOnce, look)
}

// mailboxes reads the records of mailboxes, and makes those again that cannot
// be read.
func (r *repairer) mailboxes(ctx context.Context) error {
	return r.each(ctx, kindMailbox, func(_ store.Snapshot, key, value []byte) error {
		if len(key) != accountPrefixOctets+1+16 {
			return nil // nobody's
		}
		id := GUID(key[accountPrefixOctets+1:])
		record, err := decodeMailbox(value)
		switch {
		case err == nil && record.removed:
			r.deleted[id] = record
		case err == nil:
			r.boxes[id] = &repairedBox{stored: record, record: record}
		case newer(value, mailboxVersion):
			return errNewer
		default:
			r.lostBox(id)
		}
		return nil
	})
}

// lostBox makes the record of a mailbox again, from the journal, or because
// its GUID follows from its name. Without either it gets a new name.
func (r *repairer) lostBox(id GUID) *repairedBox {
	b := &repairedBox{missing: true}
	b.record = mailboxRecord{leaf: "Recovered " + id.String()[:8], subscribed: true, uidNext: 1, modseq: 1}
	for _, configured := range append([]ConfiguredMailbox{{Name: inbox}}, r.store.cfg.Mailboxes...) {
		if configuredGUID(r.id, configured.Name) == id {
			b.record.leaf, b.record.use = configured.Name, configured.SpecialUse
			b.record.uidValidity = configuredUIDValidity(r.id, configured.Name)
		}
	}
	if known, ok := r.past.boxes[id]; ok {
		known.uidNext, known.modseq = 1, 1
		b.record = known
	}
	r.boxes[id] = b
	return b
}

// messages reads every message, makes those again that cannot be read, and
// counts.
func (r *repairer) messages(ctx context.Context) error {
	garbage := make(map[GUID]bool)
	err := r.each(ctx, kindGarbage, func(_ store.Snapshot, key, _ []byte) error {
		if len(key) == accountPrefixOctets+1+16 {
			garbage[GUID(key[accountPrefixOctets+1:])] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	blocks := flagBlocks{account: r.id}
	err = r.each(ctx, kindMessage, func(snap store.Snapshot, key, value []byte) error {
		if len(key) != messageKeyOctets {
			return nil // nobody's
		}
		mailbox, uid := GUID(key[accountPrefixOctets+1:][:16]), uidOf(key)
		b := r.boxes[mailbox]
		if _, deleted := r.deleted[mailbox]; b == nil && (garbage[mailbox] || deleted) {
			return nil
		}
		if b == nil {
			b = r.lostBox(mailbox)
		}
		var m Message
		known, ok := r.past.messages[place{mailbox, uid}]
		delete(r.past.messages, place{mailbox, uid})
		if err := decodeMessage(&m, uid, value); err != nil {
			if newer(value, messageVersion) || !ok {
				return nil // nothing tells what it was
			}
			m = known.message
			r.tell(Finding{Mailbox: b.record.name, UID: uid, Err: err}, "made again from the journal")
		}
		if covers(b.record.erased, m.Dot) {
			return nil
		}
		if err := r.flagsOf(snap, &blocks, mailbox, b, &m); err != nil {
			return err
		}
		return r.message(ctx, snap, mailbox, b, &m, known.trace)
	})
	if err != nil {
		return err
	}
	return r.vanished(ctx)
}

// flagsOf gives a message the flags of its block. A block that cannot be read is
// removed: the flags are those of the records then.
func (r *repairer) flagsOf(snap store.Snapshot, blocks *flagBlocks, mailbox GUID, b *repairedBox, m *Message) error {
	found, err := blocks.apply(snap, mailbox, m)
	if found {
		b.record.blocks = true
	}
	if err == nil {
		return nil
	}
	key := flagBlockKey(r.id, mailbox, blocks.start)
	value, missing := snap.Get(key)
	if missing != nil || newer(value, flagBlockVersion) {
		return err
	}
	r.tell(Finding{Mailbox: b.record.name, UID: m.UID, Err: err}, "removed: these messages have the flags of an earlier time")
	r.batch.Delete(key)
	blocks.err = nil // told once
	return nil
}

// message counts a message, and mends what belongs to it.
func (r *repairer) message(ctx context.Context, snap store.Snapshot, mailbox GUID, b *repairedBox, m *Message, trace []byte) error {
	if m.ModSeq == 0 { // as the journal has it, which does not tell
		r.head.modseqs++
		m.ModSeq = r.head.modseqs<<1 | r.store.class()
		r.batch.Put(messageKey(r.id, kindMessage, mailbox, m.UID), m.encode())
	}
	b.counted.count(m, 1)
	if m.isMisplaced() {
		b.counted.misplaced++
	}
	b.record.uidNext = max(b.record.uidNext, m.UID+1)
	b.record.modseq = max(b.record.modseq, m.ModSeq)
	if m.Dot.Origin == r.store.origin {
		r.head.seq = max(r.head.seq, m.Dot.Seq)
	}
	if err := r.structure(ctx, snap, mailbox, b, m, trace); err != nil {
		return err
	}
	return r.flush(ctx, flushAt)
}

// vanished makes messages again of which only the journal tells. Only when it
// is whole to its end: what was expunged must not come back. Nor does what has
// no body any more. Where a partner may have expunged them, it has them or not.
func (r *repairer) vanished(ctx context.Context) error {
	if r.past.damaged > 0 || r.past.last != r.head.seq || len(r.head.others) > 0 {
		return nil
	}
	for at, past := range r.past.messages {
		b := r.boxes[at.mailbox]
		if b == nil {
			continue // it was deleted with its messages
		}
		body, err := r.store.blobs.Open(ctx, past.message.Body)
		if err != nil {
			continue
		}
		if err := body.Close(); err != nil {
			return err
		}
		m := past.message
		r.tell(Finding{Mailbox: b.record.name, UID: m.UID, Err: errors.New("message is not there")}, "made again from the journal")
		err = r.store.kv.View(ctx, func(snap store.Snapshot) error {
			return r.message(ctx, snap, at.mailbox, b, &m, past.trace)
		})
		if err != nil {
			return err
		}
	}
	return r.flush(ctx, 0) // what follows reads what is stored
}

// pending counts messages that wait for a UID, and mends their structures.
func (r *repairer) pending(ctx context.Context) error {
	return r.each(ctx, kindPending, func(snap store.Snapshot, key, value []byte) error {
		var m Message
		if len(key) != dotKeyOctets || decodeInstance(&m, 0, value) != nil {
			return nil // nothing tells what it was
		}
		mailbox := GUID(key[accountPrefixOctets+1:][:16])
		b := r.boxes[mailbox]
		if b == nil {
			_, deleted := r.deleted[mailbox]
			if _, err := snap.Get(mailboxKey(r.id, kindGarbage, mailbox)); err == nil || deleted {
				return nil
			}
			b = r.lostBox(mailbox)
		}
		if covers(b.record.erased, m.Dot) {
			return nil
		}
		b.counted.pending++
		b.counted.pendingOctets += m.Octets
		if err := r.structureAt(ctx, snap, dotKey(r.id, kindPendingMeta, mailbox, m.Dot), b, &m, nil); err != nil {
			return err
		}
		return r.flush(ctx, flushAt)
	})
}

// structure looks at a message's Meta and makes it again when it is not right.
func (r *repairer) structure(ctx context.Context, snap store.Snapshot, mailbox GUID, b *repairedBox, m *Message, traceBefore []byte) error {
	return r.structureAt(ctx, snap, messageKey(r.id, kindMeta, mailbox, m.UID), b, m, traceBefore)
}

func (r *repairer) structureAt(ctx context.Context, snap store.Snapshot, key []byte, b *repairedBox, m *Message, traceBefore []byte) error {
	value, err := snap.Get(key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	trace, _, err := decodeMeta(value)
	if err == nil && int64(len(trace)) == m.Trace() || newer(value, metaVersion) {
		return nil
	}
	found, err := scanBody(ctx, m.Body, r.store.blobs.Open)
	if err != nil {
		return nil // the message has lost its body, too
	}
	how := "made again from the body"
	trace = nil
	if m.Trace() > 0 {
		trace = traceBefore
		if int64(len(trace)) != m.Trace() {
			if trace = lostTrace(int(m.Trace())); trace == nil {
				return nil
			}
			how = "made again from the body; its trace fields are lost"
		}
	}
	r.batch.Put(key, encodeMeta(trace, found))
	r.tell(Finding{Mailbox: b.record.name, UID: m.UID, Err: errors.New("structure")}, how)
	return nil
}

// lostTrace is a field of so many octets in the place of trace fields that are
// lost: what is behind it stays where it was, and so does the message's size.
func lostTrace(octets int) []byte {
	const field, end = "X-Trace-Lost:", "\r\n"
	if octets < len(field)+len(end) {
		return nil // no trace field is so short
	}
	return []byte(field + strings.Repeat(" ", octets-len(field)-len(end)) + end)
}

// structures removes Metas without a message.
func (r *repairer) structures(ctx context.Context) error {
	return r.each(ctx, kindMeta, func(snap store.Snapshot, key, _ []byte) error {
		if len(key) != messageKeyOctets {
			return nil // nobody's
		}
		mailbox, uid := GUID(key[accountPrefixOctets+1:][:16]), uidOf(key)
		_, err := snap.Get(messageKey(r.id, kindMessage, mailbox, uid))
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		r.batch.Delete(bytes.Clone(key))
		r.tell(Finding{Mailbox: r.mailboxName(mailbox), UID: uid, Err: errors.New("structure without a message")}, "removed")
		return r.flush(ctx, flushAt)
	})
}

func (r *repairer) mailboxName(id GUID) string {
	if b := r.boxes[id]; b != nil {
		return b.record.name
	}
	return id.String()
}

// tree gives every mailbox a name of its own, sees to INBOX, and writes the
// records that change.
func (r *repairer) tree(ctx context.Context) error {
	if inboxID := configuredGUID(r.id, inbox); r.boxes[inboxID] == nil {
		r.lostBox(inboxID)
	}
	r.nameBoxes()
	octets, unsettled := int64(0), int64(0)
	for _, id := range r.inOrder() {
		b := r.boxes[id]
		if b.record.uidValidity == 0 {
			r.head.lastUIDValidity = nextUIDValidity(r.head.lastUIDValidity, r.store.cfg.Now(), r.store.class())
			b.record.uidValidity = r.head.lastUIDValidity
		}
		b.record.uidNext, b.record.modseq = max(b.record.uidNext, 1), max(b.record.modseq, 1)
		c := &b.counted.mailboxRecord
		b.record.messages, b.record.unseen, b.record.deleted, b.record.octets = c.messages, c.unseen, c.deleted, c.octets
		b.record.pending, b.record.pendingOctets, b.record.misplaced = c.pending, c.pendingOctets, c.misplaced
		octets += c.octets + c.pendingOctets
		unsettled += c.pending + c.misplaced
		r.head.modseqs = max(r.head.modseqs, b.record.modseq>>1)
		if !b.missing && bytes.Equal(b.record.encode(), b.stored.encode()) {
			continue
		}
		// With a partner the digest stays what it was: it tells that messages
		// are missing here, and not removed, until a state merge brought them.
		if len(r.head.others) == 0 {
			b.record.digest, b.record.summed, b.record.quick = [16]byte{}, false, false
		}
		r.batch.Put(mailboxKey(r.id, kindMailbox, id), b.record.encode())
		how := "counted anew"
		if b.missing {
			how = "made again"
		}
		r.tell(Finding{Mailbox: b.record.name, Err: errors.New("mailbox")}, how)
	}
	r.head.octets, r.head.unsettled = octets, uint64(unsettled)
	return r.flush(ctx, flushAt)
}

// nameBoxes gives every mailbox the name that the registers make, and those
// that clients could not name another register.
func (r *repairer) nameBoxes() {
	for again := true; again; {
		again = false
		records := maps.Clone(r.deleted)
		for id, b := range r.boxes {
			records[id] = b.record
		}
		nameAll(r.id, records)
		for id, b := range r.boxes {
			b.record.name = records[id].name
			b.stored.name = b.record.name // it only follows
			normal, err := r.store.cfg.normalize(b.record.name)
			if own := "Recovered " + id.String()[:8]; (err != nil || normal != b.record.name) && b.record.leaf != own {
				b.record.parent, b.record.leaf = GUID{}, own
				again = true
			}
		}
	}
}

// inOrder returns the mailboxes, those first that the journal knows and those
// with more messages: of two with one name the first keeps it.
func (r *repairer) inOrder() []GUID {
	unknown := func(id GUID) int {
		if _, known := r.past.boxes[id]; known {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(maps.Keys(r.boxes), func(x, y GUID) int {
		return cmp.Or(cmp.Compare(unknown(x), unknown(y)),
			cmp.Compare(r.boxes[y].counted.messages, r.boxes[x].counted.messages), bytes.Compare(x[:], y[:]))
	})
}

// place is where a message is.
type place struct {
	mailbox GUID
	uid     imap.UID
}

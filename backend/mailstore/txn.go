package mailstore

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

var errTooLarge = errors.New("change is too large for one commit")

// Bounds of a commit, with room left for what commit itself adds.
const (
	maxTxnOps    = store.MaxBatchOps - 100
	maxTxnOctets = store.MaxBatchOctets - 128<<10
)

// txn is a commit under construction. It belongs to the account's leader.
type txn struct {
	account *account
	ctx     context.Context
	now     time.Time
	batch   *store.Batch
	head    head
	drafts  map[*box]*view
	order   []*box // of drafts
	// touched are the drafts changed since the last save; undo brings back
	// what was before, last first.
	touched map[*box]bool
	undo    []func()

	journal []byte // operations not yet in a record
	ops     int    // how many those are
	first   uint64 // dot of the first of them
	octets  int    // of the batch's keys and values, as far as counted
	counted int    // operations counted in octets
	modseq  uint64 // of this commit; 0 until something needs it
	ids     map[deliveryMark]bool
	adds    bool     // stores something new: must not use the reserve
	after   []func() // run when published
}

func (a *account) begin(ctx context.Context) *txn {
	return &txn{
		account: a, ctx: ctx, now: time.Now(), batch: store.NewBatch(), head: a.head,
		drafts: make(map[*box]*view), touched: make(map[*box]bool), first: a.head.seq + 1,
	}
}

// savepoint is the state to which a failed request is undone.
type savepoint struct {
	ops, before, undo, journalOps, order, after int
	octets, counted                             int
	journal                                     []byte
	first, modseq                               uint64
	head                                        head
	adds                                        bool
}

func (t *txn) save() savepoint {
	clear(t.touched)
	return savepoint{
		ops: len(t.batch.Ops), before: len(t.batch.Before), undo: len(t.undo), journal: t.journal, journalOps: t.ops,
		order: len(t.order), after: len(t.after), octets: t.octets, counted: t.counted,
		first: t.first, modseq: t.modseq, head: t.head, adds: t.adds,
	}
}

func (t *txn) restore(s savepoint) {
	for i := len(t.undo) - 1; i >= s.undo; i-- {
		t.undo[i]()
	}
	t.undo, t.order, t.after = t.undo[:s.undo], t.order[:s.order], t.after[:s.after]
	t.batch.Ops, t.batch.Before = t.batch.Ops[:s.ops], t.batch.Before[:s.before]
	t.journal, t.ops, t.octets, t.counted = s.journal, s.journalOps, s.octets, s.counted
	t.first, t.modseq, t.head, t.adds = s.first, s.modseq, s.head, s.adds
	clear(t.touched)
}

// isFull reports whether the batch is over what a commit may hold.
func (t *txn) isFull() bool {
	for _, op := range t.batch.Ops[t.counted:] {
		t.octets += len(op.Key) + len(op.Value)
	}
	t.counted = len(t.batch.Ops)
	return len(t.batch.Ops) > maxTxnOps || t.octets+len(t.journal) > maxTxnOctets
}

// peek returns the mailbox's state in this commit, for reading.
func (t *txn) peek(b *box) *view {
	if v := t.drafts[b]; v != nil {
		return v
	}
	return b.current()
}

// draft returns the mailbox's state in this commit, to be changed.
func (t *txn) draft(b *box) *view {
	v := t.drafts[b]
	if v != nil && t.touched[b] {
		return v
	}
	before := v
	var copied view
	if before == nil {
		copied = *b.current()
		t.order = append(t.order, b)
	} else {
		copied = *before
		copied.expunged = slices.Clip(copied.expunged)
	}
	t.drafts[b], t.touched[b] = &copied, true
	t.undo = append(t.undo, func() {
		if before == nil {
			delete(t.drafts, b)
		} else {
			t.drafts[b] = before
		}
	})
	return &copied
}

// nextModSeq is the MODSEQ of everything this commit changes.
func (t *txn) nextModSeq() uint64 {
	if t.modseq == 0 {
		t.head.modseqs++
		t.modseq = t.head.modseqs<<1 | t.account.store.class()
	}
	return t.modseq
}

// nextDot is the dot of the operation that log is called with next.
func (t *txn) nextDot() Dot { return Dot{t.account.store.origin, t.head.seq + 1} }

// log puts an operation into the journal.
func (t *txn) log(op *JournalOp) {
	t.journal = appendJournalOp(t.journal, op)
	t.ops++
	t.head.seq++
	if len(t.journal) > maxJournalOctets {
		t.flushJournal()
	}
}

// flushJournal makes a record of the operations so far.
func (t *txn) flushJournal() {
	if t.ops == 0 {
		return
	}
	t.head.hlc = nextHLC(t.head.hlc, t.now)
	r := JournalRecord{Origin: t.account.store.origin, First: t.first, HLC: t.head.hlc, Ops: make([]JournalOp, t.ops)}
	record := appendJournalHeader(make([]byte, 0, len(t.journal)+40), &r)
	record = sealJournal(append(record, t.journal...))
	t.head.chain = chainJournal(t.head.chain, record)
	t.batch.Put(numberKey(accountKey(t.account.id, kindJournal), t.first), record)
	t.journal, t.ops, t.first = nil, 0, t.head.seq+1
}

// commit writes everything in one batch. ErrConflict, and every outcome that
// is not certain, leaves the account to be read again.
func (t *txn) commit() error {
	a := t.account
	if t.ops == 0 && len(t.batch.Ops) == 0 && !t.isDirty() {
		return nil
	}
	t.flushJournal()
	for _, b := range t.order {
		t.storeMailbox(b, t.drafts[b])
	}
	key := accountKey(a.id, kindHead)
	if a.headRecord == nil {
		t.batch.IfAbsent(key)
	} else {
		t.batch.IfEquals(key, a.headRecord)
	}
	record := t.head.encode()
	t.batch.Put(key, record)
	t.batch.UseReserve = !t.adds
	err := a.commitBatch(t.ctx, t.batch)
	if err == nil {
		a.mu.Lock()
		a.head, a.headRecord = t.head, record
		a.mu.Unlock()
		a.delivered.note(t.ids)
		return nil
	}
	if !errors.Is(err, store.ErrFull) && !errors.Is(err, store.ErrTooLarge) {
		a.stale = true
	}
	return err
}

func (t *txn) isDirty() bool {
	return slices.ContainsFunc(t.order, func(b *box) bool { return t.drafts[b].dirty })
}

// storeMailbox puts the mailbox's record and what was expunged from it.
func (t *txn) storeMailbox(b *box, v *view) {
	if !v.dirty || v.gone {
		return
	}
	if len(v.expunged) > 0 {
		slices.Sort(v.expunged)
		t.batch.Put(numberKey(mailboxKey(t.account.id, kindExpunged, b.guid), t.nextModSeq()), encodeExpunged(t.now, v.expunged))
	}
	t.batch.Put(mailboxKey(t.account.id, kindMailbox, b.guid), v.mailboxRecord.encode())
}

// publish shows the commit's result.
func (t *txn) publish() {
	for _, b := range t.order {
		v := t.drafts[b]
		changed := v.dirty
		v.expunged, v.dirty = nil, false
		if changed {
			b.publish(v)
		}
	}
	for _, fn := range t.after {
		fn()
	}
}

// addition is one message to be added to a mailbox.
type addition struct {
	message  Message // without what add fills in: UID, ModSeq, Dot
	trace    []byte
	meta     []byte // encoded
	link     func(*store.Batch)
	source   Dot
	delivery deliveryMark
}

// add puts a message at the end of b.
func (t *txn) add(b *box, n addition) (imap.UID, error) {
	v := t.draft(b)
	if v.gone {
		return 0, ErrNoMailbox
	}
	if v.uidNext == math.MaxUint32 {
		return 0, ErrTooMany
	}
	m := n.message
	m.UID, m.ModSeq, m.Dot = v.uidNext, t.nextModSeq(), t.nextDot()
	m.SaveDate = t.now
	if m.EmailID == (GUID{}) {
		m.EmailID = emailID(t.account.id, m.Dot)
	}
	m.Keywords = v.spell(m.Keywords)
	if err := t.useKeywords(v, addKeywords(nil, m.Keywords, 1)); err != nil {
		return 0, err
	}
	if n.link != nil {
		n.link(t.batch)
		t.adds = true
	}
	t.batch.Put(messageKey(t.account.id, kindMessage, b.guid, m.UID), m.encode())
	t.batch.Put(messageKey(t.account.id, kindMeta, b.guid, m.UID), n.meta)
	t.log(&JournalOp{Code: OpAdd, Mailbox: b.guid, Message: m, Trace: n.trace, Source: n.source, Delivery: n.delivery.identity()})
	v.uidNext++
	v.modseq, v.dirty = m.ModSeq, true
	v.count(&m, 1)
	t.head.octets += m.Octets
	if v.loaded {
		v.list.append(&m)
	}
	return m.UID, nil
}

// useKeywords counts keywords in and out of v, within its bound.
func (t *txn) useKeywords(v *view, delta map[string]keyword) error {
	if !v.loaded || len(delta) == 0 {
		return nil
	}
	after := countKeywords(v.keywords, delta)
	if len(after) > t.account.store.cfg.MaxKeywords && len(after) > len(v.keywords) {
		return ErrTooMany
	}
	v.keywords = after
	return nil
}

// remove takes messages, which are in b and in UID order, out of it. keepBody
// leaves their references to whoever took them over.
func (t *txn) remove(b *box, gone []*Message, keepBody bool) {
	v := t.draft(b)
	var delta map[string]keyword
	uids := make([]imap.UID, len(gone))
	dots := make([]Dot, len(gone))
	for i, m := range gone {
		uids[i], dots[i] = m.UID, m.Dot
		t.batch.Delete(messageKey(t.account.id, kindMessage, b.guid, m.UID))
		t.batch.Delete(messageKey(t.account.id, kindMeta, b.guid, m.UID))
		if !keepBody {
			t.account.store.blobs.Unlink(t.batch, m.Body)
		}
		v.count(m, -1)
		t.head.octets -= m.Octets
		delta = addKeywords(delta, m.Keywords, -1)
	}
	_ = t.useKeywords(v, delta) // only fewer
	v.list.remove(uids)
	v.expunged = append(v.expunged, uids...)
	v.modseq, v.dirty = t.nextModSeq(), true
	t.log(&JournalOp{Code: OpExpunge, Mailbox: b.guid, Dots: dots})
}

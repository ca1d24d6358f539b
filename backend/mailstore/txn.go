package mailstore

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/seenset"
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
	begun   uint64 // first, as it was when the commit began
	octets  int    // of the batch's keys and values, as far as counted
	counted int    // operations counted in octets
	modseq  uint64 // of this commit; 0 until something needs it
	hlc     uint64 // of this commit; 0 until something needs it
	ids     map[deliveryMark]twin
	// record is how many of the batch's operations the operations in journal
	// stand for, and logged how many were there when the last one was logged.
	record, recordOctets, logged int
	// bodies are the octets of bodies that come with the batch.
	bodies int64
	// changed: the head is to be stored although nothing else may be.
	changed   bool
	conflicts []Conflict
	// made are the mailboxes this commit makes; retree: their names are to be
	// made anew. subscriptions and entries are those it changes.
	made          map[GUID]*box
	retree        bool
	dropped       map[GUID]bool // deleted mailboxes that are forgotten
	subscriptions map[string]subscription
	entries       map[string]entry
	peerMark      *mark
	metas         map[Dot][]byte        // see keepMeta
	expungeLogs   map[GUID]map[Dot]bool // see wasRemoved
	adds          bool                  // stores something new: must not use the reserve
	overfull      bool                  // a block of flags is over its bound
	appended      bool                  // shows messages, perhaps
	after         []func()              // run when published
	// actor is who made all of it, nil for several or nobody who said so;
	// unsubscribed are the names that changesLocked leaves to be looked at.
	actor        any
	unsubscribed []string
	// readers are the marks of readers that this commit changes, marked the
	// MODSEQs of these.
	readers []readerUpdate
	marked  map[string]*seenset.ModSeqs
}

func (a *account) begin(ctx context.Context) *txn {
	h := a.head
	if h.origin == 0 {
		h.origin = a.store.origin
	}
	if h.streamFrom == 0 {
		h.streamFrom = h.seq + 1
	}
	if a.link != nil {
		h.acked = max(h.acked, a.link.acked.Load())
	}
	return &txn{
		account: a, ctx: ctx, now: a.store.cfg.Now(), batch: store.NewBatch(), head: h,
		drafts: make(map[*box]*view), touched: make(map[*box]bool), first: h.seq + 1, begun: h.seq + 1,
	}
}

// savepoint is the state to which a failed request is undone.
type savepoint struct {
	ops, before, undo, journalOps, order, after int
	octets, counted, record, logged             int
	recordOctets                                int
	bodies                                      int64
	journal                                     []byte
	first, modseq, hlc                          uint64
	head                                        head
	adds, changed, overfull                     bool
	conflicts                                   int
	peerMark                                    *mark
}

func (t *txn) save() savepoint {
	clear(t.touched)
	return savepoint{
		ops: len(t.batch.Ops), before: len(t.batch.Before), undo: len(t.undo), journal: t.journal, journalOps: t.ops,
		order: len(t.order), after: len(t.after), octets: t.octets, counted: t.counted,
		first: t.first, modseq: t.modseq, head: t.head, adds: t.adds, hlc: t.hlc, record: t.record, logged: t.logged,
		recordOctets: t.recordOctets, bodies: t.bodies,
		changed: t.changed, conflicts: len(t.conflicts), peerMark: t.peerMark, overfull: t.overfull,
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
	t.hlc, t.record, t.logged = s.hlc, s.record, s.logged
	t.recordOctets, t.bodies = s.recordOctets, s.bodies
	t.changed, t.conflicts, t.peerMark = s.changed, t.conflicts[:s.conflicts], s.peerMark
	t.overfull = s.overfull
	clear(t.touched)
}

// isFull reports whether the batch is over what a commit may hold.
func (t *txn) isFull() bool {
	for _, op := range t.batch.Ops[t.counted:] {
		t.octets += len(op.Key) + len(op.Value)
	}
	t.counted = len(t.batch.Ops)
	ops, octets := t.toStore()
	return t.overfull || len(t.batch.Ops)+ops > maxTxnOps || t.octets+octets+len(t.journal) > maxTxnOctets
}

// toStore is how many operations, and octets, commit adds for mailboxes.
func (t *txn) toStore() (ops, octets int) {
	for _, b := range t.order {
		v := t.drafts[b]
		if !v.dirty {
			continue
		}
		ops++
		octets += mailboxOctets + len(v.name) + len(v.leaf) + 20*(len(v.erased)+len(v.used))
		for _, w := range v.flagBlocks {
			ops, octets = ops+1, octets+w.octets
		}
		if n := len(v.expunged) + len(v.expungedDots); n > 0 {
			ops++
			octets += 20 * n
		}
	}
	return ops, octets
}

// mailboxOctets is more than a mailbox's record and key have beside lists.
const mailboxOctets = 300

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
		copied.expunged, copied.expungedDots, copied.places = slices.Clip(copied.expunged), slices.Clip(copied.expungedDots), slices.Clip(copied.places)
		copied.unhidden, copied.given, copied.wanted = slices.Clip(copied.unhidden), slices.Clip(copied.given), slices.Clip(copied.wanted)
		copied.flagBlocks = slices.Clone(copied.flagBlocks)
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

// clock is the hybrid clock's reading of this commit, above those of all that
// was applied.
func (t *txn) clock() uint64 {
	if t.hlc == 0 {
		t.head.hlc = nextHLC(t.head.hlc, t.now)
		t.hlc = t.head.hlc
	}
	return t.hlc
}

// stamp is that of the operation that log is called with next.
func (t *txn) stamp() stamp { return stamp{t.clock(), t.nextDot()} }

// observed are the highest dots of all origins whose operations this commit
// comes after.
func (t *txn) observed() []Dot {
	dots := t.head.known()
	if t.head.seq > 0 {
		dots = append(dots, Dot{t.account.store.origin, t.head.seq})
	}
	return dots
}

// maxRecordOps bounds what one journal record stands for, so that a partner,
// for whom it may be somewhat more, can apply it in one commit. A single
// operation stands for less.
const (
	maxRecordOps    = 500
	maxRecordOctets = store.MaxBatchOctets / 2
)

// log puts an operation into the journal. What it stands for is in the batch.
func (t *txn) log(op *JournalOp) {
	ops, octets := len(t.batch.Ops)-t.logged, 0
	for i := t.logged; i < len(t.batch.Ops); i++ {
		octets += len(t.batch.Ops[i].Key) + len(t.batch.Ops[i].Value)
	}
	if op.Code == OpFlags { // a block stands for many messages here, not there
		ops = max(ops, len(op.Dots))
	}
	if t.record+ops > maxRecordOps || t.recordOctets+octets > maxRecordOctets || len(t.journal) > maxJournalOctets {
		t.flushJournal(0)
	}
	t.record, t.recordOctets, t.logged = t.record+ops, t.recordOctets+octets, len(t.batch.Ops)
	t.journal = appendJournalOp(t.journal, op)
	t.ops++
	t.head.seq++
}

// flushJournal makes a record of the operations so far. The commit's last one
// carries its MODSEQ, if a client that was told it knows all there is.
func (t *txn) flushJournal(modseq uint64) {
	if t.ops == 0 {
		return
	}
	r := JournalRecord{
		Origin: t.account.store.origin, First: t.first, HLC: t.clock(), Known: t.head.known(), ModSeq: modseq,
		Ops: make([]JournalOp, t.ops),
	}
	record := appendJournalHeader(make([]byte, 0, len(t.journal)+64+20*len(r.Known)), &r)
	record = sealJournal(append(record, t.journal...))
	t.head.chain = chainJournal(t.head.chain, record)
	t.batch.Put(numberKey(accountKey(t.account.id, kindJournal), t.first), record)
	t.journal, t.ops, t.first, t.record, t.logged = nil, 0, t.head.seq+1, 0, len(t.batch.Ops)
	t.recordOctets = 0
}

// commit writes everything in one batch. ErrConflict, and every outcome that
// is not certain, leaves the account to be read again.
func (t *txn) commit() error {
	a := t.account
	if t.ops == 0 && len(t.batch.Ops) == 0 && !t.changed && !t.isDirty() {
		return nil
	}
	if err := t.checkVectors(); err != nil {
		return err
	}
	t.nameMailboxes()
	t.logUIDs()
	for _, b := range t.order {
		t.storeMailbox(b, t.drafts[b])
	}
	t.flushJournal(t.tellsAll())
	t.storeMarks()
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
		if a.link != nil {
			a.link.mark = nil
		}
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
	if !v.dirty || v.gone && !v.removed {
		return
	}
	if len(v.expunged)+len(v.expungedDots) > 0 {
		slices.Sort(v.expunged)
		t.batch.Put(numberKey(mailboxKey(t.account.id, kindExpunged, b.guid), t.nextModSeq()), encodeExpunged(t.now, v.expunged, v.expungedDots))
	}
	t.storeFlagBlocks(b, v)
	t.batch.Put(mailboxKey(t.account.id, kindMailbox, b.guid), v.mailboxRecord.encode())
}

// tellsAll returns the commit's MODSEQ if a client that was told it knows all
// the operations that were applied, 0 otherwise: one that is not shown, or not
// where it belongs, is not known to clients.
func (t *txn) tellsAll() uint64 {
	if t.account.link == nil || t.head.unsettled > 0 || t.head.merging {
		return 0
	}
	return t.modseq
}

// tellPartner tells of a commit's own operations.
func (t *txn) tellPartner() {
	a := t.account
	if p := a.store.peer(); p != nil && t.first > t.begun {
		p.Committed(a.id, a.name, t.head.seq)
	}
}

// publish shows the commit's result.
func (t *txn) publish() {
	l, feed := t.account.link, &t.account.feed
	feed.mu.Lock()
	defer feed.mu.Unlock()
	changes := t.changesLocked()
	var shown []*box // with the marks of their readers
	for _, b := range t.order {
		v := t.drafts[b]
		changed := v.dirty || v.renamed
		v.expunged, v.expungedDots, v.dirty, v.renamed = nil, nil, false, false
		v.flagBlocks = nil
		if l != nil {
			b.notePlaces(v.places)
			l.boxes[b.guid] = v.uids
			v.unhidden, v.given, v.wanted, v.places = nil, nil, nil, nil
		}
		switch {
		case !changed:
			b.set(v)
		case len(t.readers) > 0:
			b.publishAll(v, t.readers)
			shown = append(shown, b)
		default:
			b.publish(v)
		}
	}
	t.publishMarks(shown)
	if len(t.order) > 0 {
		t.account.wakeVirtual(false)
	}
	for _, fn := range t.after {
		fn()
	}
	if changes != nil {
		t.changedSubscriptions(changes)
		feed.tellLocked(changes, t.actor)
	}
	if t.appended {
		a := t.account
		a.store.index.want(a.id, wantSoon)
	}
}

// addition is one message to be added to a mailbox.
type addition struct {
	message Message // without what add fills in: UID, ModSeq, Dot
	trace   []byte
	meta    []byte // encoded
	link    func(*store.Batch)
	source  Dot
	// sourceMailbox is where source was.
	sourceMailbox GUID
	delivery      deliveryMark
	// saved is the SAVEDATE of a message that a backup brings back, else zero.
	saved time.Time
}

// add puts a message at the end of b, or, where another node gives out UIDs,
// among those that wait for one.
func (t *txn) add(b *box, n addition) (added, error) {
	v := t.draft(b)
	if v.gone {
		return added{}, ErrNoMailbox
	}
	u, err := t.nextUID(v)
	if err != nil {
		return added{}, err
	}
	m, instance := n.message, *n.message.Instance // the request may be applied again
	m.Instance = &instance
	m.UID, m.Dot = u, t.nextDot()
	if m.SaveDate = n.saved; m.SaveDate.IsZero() {
		m.SaveDate = t.now
	}
	if m.EmailID == (GUID{}) {
		m.EmailID = emailID(t.account.id, m.Dot)
	}
	m.Keywords = v.spell(m.Keywords)
	if n.link != nil {
		n.link(t.batch)
		t.adds = true
	}
	out := added{dot: m.Dot, uid: u}
	if t.account.link != nil {
		v.noteUse(m.Dot)
	}
	t.head.octets += m.Octets
	if u == 0 {
		t.hide(b, &m, n.meta)
		t.await(&out)
	} else {
		if err := t.useKeywords(v, addKeywords(nil, m.Keywords, 1)); err != nil {
			return added{}, err
		}
		m.ModSeq = t.nextModSeq()
		t.append(b, v, &m, n.meta)
	}
	t.log(&JournalOp{
		Code: OpAdd, Mailbox: b.guid, Message: m, Trace: n.trace, Source: n.source, SourceMailbox: n.sourceMailbox, mark: n.delivery,
	})
	return out, nil
}

// append stores a message at its UID, which the allocator knows to be shown.
// Its keywords are counted.
func (t *txn) append(b *box, v *view, m *Message, meta []byte) {
	t.putMessage(b, m)
	t.batch.Put(messageKey(t.account.id, kindMeta, b.guid, m.UID), meta)
	t.keepMeta(m.Dot, meta)
	t.appended = true
	v.count(m, 1)
	if v.loaded {
		v.list.append(m)
	}
	if t.account.link != nil {
		v.place(m.Dot, m.UID)
	}
	v.modseq, v.dirty = m.ModSeq, true
}

// useKeywords counts keywords in and out of v, within its bound.
func (t *txn) useKeywords(v *view, delta map[string]keyword) error {
	if err := t.mayUseKeywords(v, delta); err != nil {
		return err
	}
	v.countKeywords(delta)
	return nil
}

// mayUseKeywords returns ErrTooMany when delta leads over the bound of v.
func (t *txn) mayUseKeywords(v *view, delta map[string]keyword) error {
	if !v.loaded || len(delta) == 0 {
		return nil
	}
	after := countKeywords(v.keywords, delta)
	if len(after) > t.account.store.cfg.MaxKeywords && len(after) > len(v.keywords) {
		return ErrTooMany
	}
	return nil
}

// remove takes messages, which are in b and in UID order, out of it. keepBody
// leaves their references to whoever took them over.
func (t *txn) remove(b *box, gone []*Message, keepBody bool) {
	t.takeOut(b, gone, keepBody)
	t.logExpunge(b, gone)
}

func (t *txn) logExpunge(b *box, gone []*Message) {
	dots := make([]Dot, len(gone))
	for i, m := range gone {
		dots[i] = m.Dot
	}
	t.log(&JournalOp{Code: OpExpunge, Mailbox: b.guid, Dots: dots})
}

// takeOut is remove without a word to the journal.
func (t *txn) takeOut(b *box, gone []*Message, keepBody bool) {
	v := t.draft(b)
	var delta map[string]keyword
	uids := make([]imap.UID, len(gone))
	for i, m := range gone {
		uids[i] = m.UID
		t.batch.Delete(messageKey(t.account.id, kindMessage, b.guid, m.UID))
		t.batch.Delete(messageKey(t.account.id, kindMeta, b.guid, m.UID))
		if !keepBody {
			t.account.store.blobs.Unlink(t.batch, m.Body)
		}
		v.count(m, -1)
		t.head.octets -= m.Octets
		delta = addKeywords(delta, m.Keywords, -1)
		if m.isMisplaced() {
			v.misplaced--
			t.head.unsettled--
		}
		if t.account.link != nil {
			v.place(m.Dot, 0)
			v.expungedDots = append(v.expungedDots, m.Dot)
		}
	}
	v.countKeywords(delta)
	v.list.remove(uids)
	t.dropFlagBlocks(b, v, uids)
	t.dropSortKeys(b.guid, uids)
	v.expunged = append(v.expunged, uids...)
	v.modseq, v.dirty = t.nextModSeq(), true
}

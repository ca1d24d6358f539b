package mailstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/store"
)

// Restoration makes an account again that a Photograph was taken of: with the
// identities, UIDs and flags that it had. Nobody else can use the account from
// BeginRestoration until Finish or GiveUp, also not after a crash. All of it may be
// repeated after an interruption: what is there already is passed over.
// It is not safe for concurrent use.
//
// Clients may know what happened after the photograph: so UIDs go on well above
// those that were given out then, and all messages get MODSEQs above all that
// were ever told. A client that comes back is told every flag, and what is not
// there any more, and fetches no message again.
type Restoration struct {
	account *account
	photo   Photo
}

var (
	// ErrRestoring means that an account is being restored from a backup, or
	// was begun to be.
	ErrRestoring = errors.New("the account is being restored")
	// ErrNotRestorable: an account cannot be made again as it was; the text
	// says why.
	ErrNotRestorable = errors.New("the account cannot be restored as it was")
)

// How far a restored account leaves what may have been used after the
// photograph.
const (
	restoredUIDs    = 1 << 20
	restoredModSeqs = 1 << 32
	// lastRestoredUID keeps so many UIDs for what comes then.
	lastRestoredUID = math.MaxUint32 - 1<<24
)

// RestoredMessage is a message that is put back where it was.
type RestoredMessage struct {
	// Content is the shared body, as in Append.
	Content     store.Staged
	TraceHeader []byte
	// UID is above those put into the mailbox before.
	UID          imap.UID
	EmailID      GUID
	Flags        Flags
	Keywords     []string
	InternalDate time.Time
	SaveDate     time.Time
	Delivery     *PhotoDelivery
}

// restorer marks the context of who may write to an account that is restored.
type restorer struct{}

func restoring(ctx context.Context) context.Context {
	return context.WithValue(ctx, restorer{}, true)
}

// admits refuses everybody but who restores the account.
func (a *account) admits(ctx context.Context) error {
	if a.restoring.Load() == nil || ctx.Value(restorer{}) != nil {
		return nil
	}
	return unavailable(fmt.Sprintf("account %s is being restored from a backup", a.id))
}

func restoringKey(account GUID) []byte { return accountKey(account, kindRestoring) }

// readRestoring returns what an account is being restored from, "" for nothing.
func readRestoring(snap store.Snapshot, account GUID) (string, error) {
	value, err := snap.Get(restoringKey(account))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	d := decoder{b: value}
	d.version()
	from := d.string()
	return from, d.end("restoration")
}

// Restoring returns what an account is being restored from, "" for nothing.
func (s *Store) Restoring(ctx context.Context, name string) (from string, err error) {
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		from, err = readRestoring(snap, accountGUID(name))
		return err
	})
	return from, s.failure("read account", err)
}

// BeginRestoration begins, or goes on, to restore the account of photo, which
// is empty or not there; from names the backup. ErrNotRestorable: where there
// is mail, where another backup was begun with, and in a pair, where the
// partner's state counts.
func (s *Store) BeginRestoration(ctx context.Context, photo Photo, from string) (*Restoration, error) {
	if s.Paired() {
		return nil, fmt.Errorf("%w: this server is one of a pair. Does the partner have the mailboxes, this one gets them from it: "+
			"postern replica rejoin. Are both lost, restore before the pair is made: see docs/backup.md", ErrNotRestorable)
	}
	if photo.Name == "" || len(photo.Name) > maxAccountOctets || !utf8.ValidString(photo.Name) || from == "" || accountGUID(photo.Name) != photo.Account {
		return nil, fmt.Errorf("%w: the backup's account %q has another identity", ErrNotRestorable, photo.Name)
	}
	a := s.hold(photo.Account, photo.Name)
	r := &Restoration{account: a, photo: photo}
	err := a.open(ctx)
	if err == nil {
		err = a.changeAlone(restoring(ctx), func(t *txn) error { return t.beginRestoration(r, from) })
	}
	if err != nil {
		s.release(a)
		if errors.Is(err, ErrNotRestorable) {
			return nil, err
		}
		return nil, s.failure("begin to restore", err)
	}
	return r, nil
}

func (t *txn) beginRestoration(r *Restoration, from string) error {
	a := t.account
	if begun := a.restoring.Load(); begun != nil {
		if *begun == from {
			return nil
		}
		return fmt.Errorf("%w: it was begun to be restored from run %s; go on with that (--at), or give it up (--give-up)", ErrNotRestorable, *begun)
	}
	for name, b := range a.names {
		if v := t.peek(b); v.messages > 0 || v.pending > 0 || v.uidNext > 1 {
			return fmt.Errorf("%w: mailbox %q holds messages, or did; restore into another mailbox", ErrNotRestorable, name)
		}
	}
	if a.names[inbox] == nil { // not made yet
		t.batch.Put(accountKey(a.id, kindInfo), appendBlock([]byte{recordVersion}, a.name))
	}
	t.adds, t.changed = true, true
	t.head.modseqs = max(t.head.modseqs, min(r.photo.ModSeq>>1, 1<<61)+restoredModSeqs)
	t.head.lastUIDValidity = max(t.head.lastUIDValidity, r.photo.LastUIDValidity)
	t.batch.Put(restoringKey(a.id), appendBlock([]byte{recordVersion}, from))
	t.after = append(t.after, func() { a.restoring.Store(&from) })
	return nil
}

// Close gives the account back, which stays as it is: restored, or to be gone on
// with.
func (r *Restoration) Close() { r.account.store.release(r.account) }

// Tree makes the mailboxes, and removes those that are not among them. Buried
// ones are known to have been there. It is called once, before Add, with all.
func (r *Restoration) Tree(ctx context.Context, list []PhotoMailbox) error {
	list = slices.Clone(list)
	slices.SortFunc(list, func(x, y PhotoMailbox) int { return strings.Compare(x.Name, y.Name) }) // what is above comes first
	wanted := make(map[GUID]PhotoMailbox, len(list))
	for _, m := range list {
		wanted[m.GUID] = m
	}
	if m, ok := wanted[configuredGUID(r.account.id, inbox)]; !ok || m.Name != inbox {
		return fmt.Errorf("%w: the backup has no INBOX", ErrNotRestorable)
	}
	ctx = restoring(ctx)
	if err := r.account.changeAlone(ctx, func(t *txn) error { return t.clearTree(wanted) }); err != nil {
		return err
	}
	for _, buried := range []bool{true, false} {
		for _, m := range list {
			if m.Buried != buried {
				continue
			}
			if err := r.account.changeAlone(ctx, func(t *txn) error { return t.restoreMailbox(m) }); err != nil {
				return fmt.Errorf("mailbox %q: %w", m.Name, err)
			}
		}
	}
	return nil
}

// clearTree removes mailboxes, which are empty, that are not wanted, and has the
// others stand where they are wanted.
func (t *txn) clearTree(wanted map[GUID]PhotoMailbox) error {
	a := t.account
	moves := make(map[*box]string)
	for name, b := range maps.Clone(a.names) {
		m, ok := wanted[b.guid]
		switch {
		case (!ok || m.Buried) && name != inbox:
			if t.peek(b).subscribed {
				t.subscribeBox(b, false)
			}
			t.buryEmpty(b)
		case ok && m.Name != name:
			moves[b] = m.Name
		}
	}
	parents := t.parents(moves)
	for b, name := range moves {
		parent, leaf := placeFor(name, parents)
		t.move(b, parent, leaf)
	}
	return nil
}

func (t *txn) restoreMailbox(m PhotoMailbox) error {
	a := t.account
	if name, err := a.store.cfg.normalize(m.Name); err != nil || name != m.Name {
		return fmt.Errorf("%w: the name is not allowed here", ErrNotRestorable)
	}
	if m.UIDValidity == 0 || len(m.SpecialUse) > 0 && !isSpecialUse(m.SpecialUse) {
		return fmt.Errorf("%w: no UIDVALIDITY, or a special use that is not known", ErrNotRestorable)
	}
	t.adds = true
	if b := a.boxes[m.GUID]; b != nil {
		v := t.peek(b)
		if v.removed && m.Buried {
			return nil
		}
		if v.removed {
			return fmt.Errorf("%w: it was deleted here; begin with an empty data_dir", ErrNotRestorable)
		}
		if v.uidValidity == m.UIDValidity && v.subscribed == m.Subscribed && v.use == m.SpecialUse {
			return nil
		}
		v = t.draft(b)
		v.uidValidity, v.use, v.dirty = m.UIDValidity, m.SpecialUse, true
		if v.subscribed != m.Subscribed {
			t.subscribeBox(b, m.Subscribed)
		}
		t.registersChanged()
		return nil
	}
	record := mailboxRecord{name: m.Name, use: m.SpecialUse, subscribed: m.Subscribed, uidValidity: m.UIDValidity}
	record.parent, record.leaf = placeFor(m.Name, t.parents(nil))
	t.createMailbox(m.GUID, record)
	if m.Buried {
		t.buryEmpty(t.box(m.GUID))
	}
	return nil
}

// Reached returns up to which UID a mailbox was filled.
func (r *Restoration) Reached(mailbox GUID) imap.UID {
	r.account.mu.RLock()
	b := r.account.boxes[mailbox]
	r.account.mu.RUnlock()
	if b == nil {
		return 0
	}
	return imap.UID(b.current().report())
}

// Add puts messages into a mailbox in the order of their UIDs; those at or
// below Reached are passed over. Their contents are the caller's to discard. What
// was added is on stable storage. Quotas do not hold for it.
func (r *Restoration) Add(ctx context.Context, mailbox GUID, list []RestoredMessage) error {
	for some := range slices.Chunk(list, maxDeliveries) {
		if err := r.add(restoring(ctx), mailbox, some); err != nil {
			return r.account.store.failure("restore messages", err)
		}
	}
	return nil
}

func (r *Restoration) add(ctx context.Context, mailbox GUID, list []RestoredMessage) error {
	a := r.account
	ready := make([]prepared, len(list))
	for i, m := range list {
		var err error
		if ready[i], err = a.store.prepareRestored(&m); err != nil {
			return fmt.Errorf("UID %d: %w", m.UID, err)
		}
	}
	err := a.change(ctx, func(t *txn) error {
		b := a.boxes[mailbox]
		if b == nil || t.peek(b).gone {
			return ErrNoMailbox
		}
		for i := range ready {
			if t.peek(b).report() >= uint32(list[i].UID) {
				continue
			}
			t.skipTo(b, list[i].UID)
			made, err := t.add(b, ready[i].addition)
			if err != nil {
				return err
			}
			if d := list[i].Delivery; d != nil && len(d.Mark) == len(deliveryMark{}) {
				t.noteDelivery(deliveryMark(d.Mark), twin{b.guid, made.dot}, d.Expires.Add(-a.store.cfg.DeliveryMemory))
			}
		}
		return nil
	})
	if errors.Is(err, errTooLarge) && len(list) > 1 {
		half := len(list) / 2
		if err := r.add(ctx, mailbox, list[:half]); err != nil {
			return err
		}
		return r.add(ctx, mailbox, list[half:])
	}
	return err
}

// prepareRestored is prepare with what a message keeps.
func (s *Store) prepareRestored(m *RestoredMessage) (prepared, error) {
	p, err := s.prepare(m.Content, m.TraceHeader, m.Flags, m.Keywords, m.InternalDate)
	if err != nil {
		return p, err
	}
	p.message.EmailID, p.saved = m.EmailID, m.SaveDate
	return p, nil
}

// Finish puts back what is not messages, and opens the account to everybody.
func (r *Restoration) Finish(ctx context.Context, list []PhotoMailbox, subscriptions []string, entries []Entry, deliveries []PhotoDelivery) error {
	ctx = restoring(ctx)
	a := r.account
	for _, name := range subscriptions {
		if err := a.change(ctx, func(t *txn) error {
			if !a.subscriptions[name].on {
				t.adds = true
				t.subscribeName(name, true)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(entries, 8) {
		if err := a.change(ctx, func(t *txn) error {
			for i := range some {
				if len(some[i].Key) > MaxEntryKeyOctets || len(some[i].Value) > MaxEntryValueOctets || some[i].Value == nil {
					return ErrEntry
				}
				if _, err := t.setEntry(&some[i]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(deliveries, 200) {
		if err := a.change(ctx, func(t *txn) error {
			for _, d := range some {
				if len(d.Mark) == len(deliveryMark{}) {
					t.noteDelivery(deliveryMark(d.Mark), twin{}, d.Expires.Add(-a.store.cfg.DeliveryMemory))
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(list, 200) {
		if err := a.change(ctx, func(t *txn) error { return t.leaveRoom(some) }); err != nil {
			return err
		}
	}
	return a.store.failure("end restoring", r.end(ctx, false))
}

// leaveRoom has mailboxes go on above what clients may have seen.
func (t *txn) leaveRoom(list []PhotoMailbox) error {
	for _, m := range list {
		if m.Buried {
			continue
		}
		b := t.account.boxes[m.GUID]
		if b == nil || t.peek(b).gone {
			return ErrNoMailbox
		}
		v := t.draft(b)
		last := max(uint32(m.UIDNext), 1) - 1
		last = max(last, min(uint32(min(uint64(last)+restoredUIDs, math.MaxUint32-1)), lastRestoredUID))
		v.allocate(func(u *uid.Mailbox) {
			u.Allocated = max(u.Allocated, last)
			u.Expose(u.Allocated)
		})
		v.modseq = t.nextModSeq()
		v.expungeFloor, v.dirty = v.modseq, true
	}
	return nil
}

// GiveUp opens an account to everybody as far as it was restored. Clients may
// know messages that did not come back, by UIDs that are given out again: so
// mailboxes get another UIDVALIDITY, and clients fetch them anew.
func (r *Restoration) GiveUp(ctx context.Context) error {
	return r.account.store.failure("give up restoring", r.end(ctx, true))
}

// end opens the account.
func (r *Restoration) end(ctx context.Context, halfway bool) error {
	a := r.account
	return a.changeAlone(restoring(ctx), func(t *txn) error {
		if a.names[inbox] == nil { // nothing of the tree is there
			if err := a.create(t); err != nil {
				return err
			}
		}
		if halfway {
			t.renewUIDValidities()
		}
		t.changed = true
		t.batch.Delete(restoringKey(a.id))
		t.after = append(t.after, func() { a.restoring.Store(nil) })
		return nil
	})
}

// renewUIDValidities has clients forget what they know of mailboxes.
func (t *txn) renewUIDValidities() {
	for _, b := range t.account.names {
		t.head.lastUIDValidity = nextUIDValidity(t.head.lastUIDValidity, t.account.store.cfg.Now(), t.account.store.class())
		v := t.draft(b)
		v.uidValidity, v.dirty = t.head.lastUIDValidity, true
	}
	t.registersChanged()
}

// GiveUpRestoration is GiveUp for an account by its name, which was begun to be
// restored. ErrNoAccount when it was not.
func (s *Store) GiveUpRestoration(ctx context.Context, name string) error {
	a := s.hold(accountGUID(name), name)
	defer s.release(a)
	if err := a.open(ctx); err != nil {
		return s.failure("open account", err)
	}
	if a.restoring.Load() == nil {
		return ErrNoAccount
	}
	return (&Restoration{account: a}).GiveUp(ctx)
}

// PutBack adds messages of a backup to a mailbox, whatever their UIDs were, as
// new ones that keep their email ids. Otherwise as TakeIn: each or not, within the
// quota.
func (m *Mailbox) PutBack(ctx context.Context, list []RestoredMessage) ([]TakenIn, error) {
	results := make([]TakenIn, len(list))
	for start := 0; start < len(list); start += maxDeliveries {
		end := min(start+maxDeliveries, len(list))
		ready := make([]prepared, end-start)
		for i, n := range list[start:end] {
			n.SaveDate = time.Time{} // it is saved now
			p, err := m.box.account.store.prepareRestored(&n)
			p.err = err
			ready[i] = p
		}
		if err := m.takeInPrepared(ctx, ready, make([]imap.UID, len(ready)), results[start:end]); err != nil {
			return results, m.box.account.store.failure("put messages back", err)
		}
	}
	return results, nil
}

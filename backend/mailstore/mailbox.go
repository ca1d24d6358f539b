package mailstore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// box is one mailbox of an account in memory.
type box struct {
	account *account
	guid    GUID
	handles int // guarded by account.queueMu
	// dots finds messages; nil until somebody asks. The leader's.
	dots map[Dot]imap.UID

	mu      sync.Mutex
	view    *view
	changed chan struct{}
	readers map[GUID]*reader // nil unless somebody has a \Seen of their own
}

func newBox(a *account, guid GUID) *box {
	return &box{account: a, guid: guid, view: &view{guid: guid}, changed: make(chan struct{})}
}

func (b *box) current() *view {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view
}

// publish replaces the view and wakes who waits for that.
func (b *box) publish(v *view) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.view = v
	close(b.changed)
	b.changed = make(chan struct{})
	b.updateReadersLocked(nil, true)
}

// publishAll is publish with marks of the mailbox's readers, which only those
// see. Without a view the mailbox is as before.
func (b *box) publishAll(v *view, marks []readerUpdate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v != nil {
		b.view = v
		close(b.changed)
		b.changed = make(chan struct{})
	}
	b.updateReadersLocked(marks, v != nil)
}

// set replaces the view without waking anybody: clients see no difference.
func (b *box) set(v *view) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.view = v
}

// Mailbox is a handle on one mailbox, whose index it keeps in memory. It is
// safe for concurrent use until Close.
type Mailbox struct {
	box    *box
	closed atomic.Bool
	// dropped, and with dropKeywords all keywords, do not come with what is
	// copied or moved here from another mailbox.
	dropped      Flags
	dropKeywords bool
	// reader is whose \Seen it shows, nil for the stored one.
	reader *GUID
}

// DropFlags makes copies of messages that are put into the mailbox by this
// handle come without these flags, and without any keywords. It is called
// before others use the handle.
func (m *Mailbox) DropFlags(flags Flags, keywords bool) { m.dropped, m.dropKeywords = flags, keywords }

// Mailbox opens the mailbox with its index. The caller closes it before the
// account. ErrNoMailbox.
func (a *Account) Mailbox(ctx context.Context, name string) (*Mailbox, error) {
	name, err := a.account.store.cfg.normalize(name)
	if err != nil {
		return nil, ErrNoMailbox
	}
	b, ok := a.account.box(name)
	if !ok {
		return nil, ErrNoMailbox
	}
	b.hold()
	m := &Mailbox{box: b}
	if b.current().loaded {
		return m, nil
	}
	if err := a.account.changeAlone(ctx, func(t *txn) error { return t.loadBox(b) }); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// loadBox brings the mailbox's index into memory.
func (t *txn) loadBox(b *box) error {
	v := *b.current()
	if v.gone {
		return ErrNoMailbox
	}
	if v.loaded {
		return nil
	}
	if err := t.account.loadMessages(t.ctx, &v); err != nil {
		return err
	}
	b.dots = nil
	b.publish(&v)
	return nil
}

func (b *box) hold() {
	b.account.queueMu.Lock()
	defer b.account.queueMu.Unlock()
	b.handles++
}

// maxIdleLoaded is how many messages of mailboxes nobody has open an account
// in use keeps in memory.
const maxIdleLoaded = 100_000

// Close gives the handle back. A second call does nothing.
func (m *Mailbox) Close() {
	if m.closed.CompareAndSwap(false, true) {
		if m.reader != nil {
			m.box.dropReader(*m.reader)
		}
		m.box.drop()
	}
}

// drop ends one use. When the account then holds too much that nobody looks
// at, and no commit is under way that might be changing it, this goes.
func (b *box) drop() {
	a := b.account
	a.queueMu.Lock()
	defer a.queueMu.Unlock()
	if b.handles--; b.handles > 0 || a.leading {
		return
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	unused := 0
	for _, other := range a.boxes {
		if other.handles == 0 {
			unused += other.current().list.len()
		}
	}
	if unused > maxIdleLoaded {
		b.unload()
	}
}

func (b *box) unload() {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := *b.view
	v.loaded, v.list, v.keywords = false, messages{}, nil
	b.view, b.dots, b.readers = &v, nil, nil
}

// Info describes the mailbox as it is now.
func (m *Mailbox) Info() MailboxInfo { return m.box.current().info() }

// View returns the mailbox as it is now.
func (m *Mailbox) View() View {
	if m.reader != nil {
		return m.box.readerView(*m.reader)
	}
	return m.box.current()
}

// Changed returns a channel that is closed at the next change after the View
// then current. To miss nothing, take the channel before the View.
func (m *Mailbox) Changed() <-chan struct{} {
	m.box.mu.Lock()
	defer m.box.mu.Unlock()
	if m.reader != nil {
		return m.box.readers[*m.reader].changed
	}
	return m.box.changed
}

// ExpungedSince returns the UIDs expunged after modseq, in ascending order, for
// VANISHED (RFC 7162 section 3.2.10). They may go beyond the caller's View: it
// leaves out those that the View still holds. complete is false when some were
// forgotten or could not be read; then every UID below UIDNEXT that the View
// does not hold may have been expunged.
func (m *Mailbox) ExpungedSince(modseq uint64) (uids []imap.UID, complete bool) {
	a := m.box.account
	ctx, cancel := context.WithTimeout(context.Background(), a.store.cfg.CommitTimeout)
	defer cancel()
	prefix := mailboxKey(a.id, kindExpunged, m.box.guid)
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		for pair, err := range snap.Range(numberKey(prefix, modseq+1), above(prefix), 0, false) {
			if err != nil {
				return err
			}
			_, some, err := decodeExpunged(pair.Value)
			if err != nil {
				return err
			}
			uids = append(uids, some...)
		}
		return nil
	})
	if err != nil {
		a.store.log.Warn("expunge log unreadable", "mailbox", m.box.guid, "err", err)
		return nil, false
	}
	slices.Sort(uids)
	return uids, modseq >= m.box.current().expungeFloor
}

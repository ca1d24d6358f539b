package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/seenset"
	"github.com/postern-mail/postern/store"
)

// Reader is somebody who has a \Seen of their own in a mailbox, beside the one
// that is stored with its messages.
type Reader struct {
	// Account is whose, by its canonical login.
	Account string
	// Inherit makes the stored \Seen hold for messages that the reader never
	// changed it of; otherwise these are unseen.
	Inherit bool
}

// What a reader has read is kept in the account of the mailbox: one entry for
// each block of UIDs (package seenset), joined mark by mark where the two nodes
// of a pair both changed it. Beside it stand, on each node for itself, the
// MODSEQs of the marks, from the counter that the messages have theirs from: so
// one HIGHESTMODSEQ covers both. A message that gets another UID when a pair
// that was apart comes together is unread again.

// seenName is the name of an entry: whose, and which block.
func seenName(mailbox, reader GUID, block uint32) []byte {
	return binary.BigEndian.AppendUint32(append(entryName(SpaceSeen, mailbox, ""), reader[:]...), block)
}

// ofSeen takes such a name apart.
func ofSeen(name []byte) (mailbox, reader GUID, block uint32, ok bool) {
	if len(name) != entryNameOctets+16+4 || name[0] != SpaceSeen {
		return mailbox, reader, 0, false
	}
	rest := name[entryNameOctets:]
	block = binary.BigEndian.Uint32(rest[16:])
	return GUID(name[1:entryNameOctets]), GUID(rest[:16]), block, block <= math.MaxUint32/seenset.Size
}

// seenAtKey is where the MODSEQs of such an entry's marks are.
func seenAtKey(account GUID, name []byte) []byte {
	return append(accountKey(account, kindSeenAt), name[1:]...)
}

func blockOf(uid imap.UID) (block uint32, place int) {
	return uint32(uid) / seenset.Size, int(uint32(uid) % seenset.Size)
}

// readerMark is what a reader's marks say of a run of messages.
type readerMark struct {
	first, last imap.UID
	seen        bool
	modseq      uint64
}

// readerBlock is a block in memory. It never changes.
type readerBlock struct {
	number uint32
	marks  []readerMark // in UID order
}

func newReaderBlock(number uint32, b *seenset.Block, at *seenset.ModSeqs) *readerBlock {
	out := &readerBlock{number: number}
	for i := range b {
		if !b[i].IsSet() {
			continue
		}
		uid := imap.UID(number*seenset.Size) + imap.UID(i)
		if n := len(out.marks); n > 0 {
			if last := &out.marks[n-1]; last.last+1 == uid && last.seen == b[i].Seen && last.modseq == at[i] {
				last.last = uid
				continue
			}
		}
		out.marks = append(out.marks, readerMark{uid, uid, b[i].Seen, at[i]})
	}
	out.marks = slices.Clip(out.marks)
	return out
}

// readerState is all that a reader has read in a mailbox. It never changes.
type readerState struct {
	blocks []*readerBlock // by number
	modseq uint64         // the highest
}

// with returns the state with another block in the place of the old one.
func (s *readerState) with(b *readerBlock) *readerState {
	at, found := slices.BinarySearchFunc(s.blocks, b.number, func(b *readerBlock, n uint32) int { return int(int64(b.number) - int64(n)) })
	out := &readerState{blocks: slices.Clone(s.blocks), modseq: s.modseq}
	switch {
	case len(b.marks) == 0 && found:
		out.blocks = slices.Delete(out.blocks, at, at+1)
	case found:
		out.blocks[at] = b
	case len(b.marks) > 0:
		out.blocks = slices.Insert(out.blocks, at, b)
	}
	for _, m := range b.marks {
		out.modseq = max(out.modseq, m.modseq)
	}
	return out
}

// of returns what is said of a message.
func (s *readerState) of(uid imap.UID) (m readerMark, ok bool) {
	number, _ := blockOf(uid)
	at, found := slices.BinarySearchFunc(s.blocks, number, func(b *readerBlock, n uint32) int { return int(int64(b.number) - int64(n)) })
	if !found {
		return m, false
	}
	marks := s.blocks[at].marks
	at, found = slices.BinarySearchFunc(marks, uid, func(m readerMark, uid imap.UID) int { return int(int64(m.last) - int64(uid)) })
	if !found && at == len(marks) || marks[at].first > uid {
		return m, false
	}
	return marks[at], true
}

// show returns a message as the reader sees it.
func (s *readerState) show(m *Message, inherit bool) *Message {
	mark, ok := s.of(m.UID)
	seen := m.Flags&FlagSeen != 0
	if !ok {
		mark = readerMark{seen: seen && inherit}
	}
	if mark.seen == seen && mark.modseq <= m.ModSeq {
		return m
	}
	shown := *m
	shown.ModSeq = max(m.ModSeq, mark.modseq)
	if shown.Flags &^= FlagSeen; mark.seen {
		shown.Flags |= FlagSeen
	}
	return &shown
}

// readerView is a mailbox as a reader sees it.
type readerView struct {
	*view
	state   *readerState
	inherit bool
	once    sync.Once
	unseen  int
}

func (v *readerView) At(i int) *Message     { return v.state.show(v.view.At(i), v.inherit) }
func (v *readerView) HighestModSeq() uint64 { return max(v.view.HighestModSeq(), v.state.modseq) }

// UIDAt is v.At(i).UID. Of a message that a Reader has marked nothing is made for
// it.
func UIDAt(v View, i int) imap.UID {
	if r, ok := v.(*readerView); ok {
		return r.view.At(i).UID
	}
	return v.At(i).UID
}

// SameAt reports whether two Views of a mailbox show the same message in the
// same state, one at i and the other at j. It may say no of messages that were
// not stored as one.
func SameAt(v View, i int, o View, j int) bool {
	r, ok := v.(*readerView)
	s, too := o.(*readerView)
	if !ok || !too {
		return v.At(i) == o.At(j)
	}
	m := r.view.At(i)
	if m != s.view.At(j) || r.inherit != s.inherit {
		return false
	}
	if r.state == s.state {
		return true
	}
	before, known := r.state.of(m.UID)
	after, now := s.state.of(m.UID)
	return known == now && before.seen == after.seen && before.modseq == after.modseq
}

// Unseen is counted once for a View.
func (v *readerView) Unseen() int {
	v.once.Do(func() {
		for i := range v.Len() {
			m := v.view.At(i)
			mark, ok := v.state.of(m.UID)
			if ok && !mark.seen || !ok && (m.Flags&FlagSeen == 0 || !v.inherit) {
				v.unseen++
			}
		}
	})
	return v.unseen
}

// reader is a Reader of a box; guarded by box.mu.
type reader struct {
	handles int
	inherit bool
	state   *readerState // nil until it was read
	view    *readerView  // the last that was made
	changed chan struct{}
}

func (r *reader) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// readerUpdate is a block that a commit changes, to be published.
type readerUpdate struct {
	box    *box
	reader GUID
	block  *readerBlock
}

// updateReaders puts blocks in and wakes whom they concern, and with all every
// reader of the mailbox.
func (b *box) updateReadersLocked(updates []readerUpdate, all bool) {
	for _, u := range updates {
		if r := b.readers[u.reader]; u.box == b && r != nil && r.state != nil {
			r.state = r.state.with(u.block)
			if !all {
				r.wake()
			}
		}
	}
	if all {
		for _, r := range b.readers {
			r.wake()
		}
	}
}

// readerView returns the mailbox as a reader sees it now: both the messages and
// the marks as of the same commit.
func (b *box) readerView(id GUID) *readerView {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.readers[id]
	if r.view == nil || r.view.view != b.view || r.view.state != r.state {
		r.view = &readerView{view: b.view, state: r.state, inherit: r.inherit}
	}
	return r.view
}

// maxIdleReaders is how many readers a mailbox remembers that have it not open.
const maxIdleReaders = 50

// dropReader ends a reader's use of the mailbox.
func (b *box) dropReader(id GUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers[id].handles--
	idle := 0
	for other, r := range b.readers {
		if r.handles > 0 {
			continue
		}
		if idle++; idle > maxIdleReaders {
			delete(b.readers, other)
		}
	}
}

// MailboxFor is Mailbox for somebody with a \Seen of their own: everything that
// the handle shows and changes of \Seen is theirs alone. A nil reader has none.
func (a *Account) MailboxFor(ctx context.Context, name string, who *Reader) (*Mailbox, error) {
	m, err := a.Mailbox(ctx, name)
	if err != nil || who == nil {
		return m, err
	}
	id, b := accountGUID(who.Account), m.box
	b.mu.Lock()
	if b.readers == nil {
		b.readers = make(map[GUID]*reader)
	}
	r := b.readers[id]
	if r == nil {
		r = &reader{inherit: who.Inherit, changed: make(chan struct{})}
		b.readers[id] = r
	}
	r.handles++
	known := r.state != nil
	m.reader = &id
	b.mu.Unlock()
	if known {
		return m, nil
	}
	err = a.account.changeAlone(ctx, func(t *txn) error {
		state, err := a.account.readReader(ctx, b.guid, id)
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			r.state = state
		}
		return err
	})
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// readReader reads what a reader has read. What is damaged is unread; marks whose
// MODSEQs are lost count as changed at the last of the account.
func (a *account) readReader(ctx context.Context, mailbox, id GUID) (*readerState, error) {
	state := &readerState{}
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		prefix := entryKey(a.id, append(entryName(SpaceSeen, mailbox, ""), id[:]...))
		for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
			if err != nil {
				return err
			}
			name := pair.Key[accountPrefixOctets+1:]
			_, _, number, ok := ofSeen(name)
			if !ok {
				continue
			}
			_, block, err := decodeSeen(pair.Value)
			if isDamagedSeen(err) {
				a.noteDamagedSeen(name, err)
				state.blocks = append(state.blocks, a.unreadBlock(number))
				state.modseq = max(state.modseq, a.lastModSeq())
				continue
			}
			if err != nil {
				return err
			}
			at, err := a.readSeenAt(snap, bytes.Clone(name))
			if err != nil {
				return err
			}
			for i := range block {
				if block[i].IsSet() && at[i] == 0 {
					at[i] = a.lastModSeq()
				}
			}
			one := newReaderBlock(number, &block, &at)
			for _, m := range one.marks {
				state.modseq = max(state.modseq, m.modseq)
			}
			state.blocks = append(state.blocks, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read messages of mailbox %s: %w", mailbox, err)
	}
	return state, nil
}

// readSeenAt reads the MODSEQs of a block's marks, none where they are damaged.
func (a *account) readSeenAt(snap store.Snapshot, name []byte) (at seenset.ModSeqs, err error) {
	value, err := snap.Get(seenAtKey(a.id, name))
	if errors.Is(err, store.ErrNotFound) {
		return at, nil
	} else if err != nil {
		return at, err
	}
	if at, err = decodeSeenAt(value); isDamagedSeen(err) {
		a.noteDamagedSeen(name, err)
		return seenset.ModSeqs{}, nil
	}
	return at, err
}

// reloadReaders reads again what is in memory of a mailbox's readers.
func (a *account) reloadReaders(ctx context.Context, b *box) error {
	b.mu.Lock()
	ids := make([]GUID, 0, len(b.readers))
	for id, r := range b.readers {
		if r.state != nil {
			ids = append(ids, id)
		}
	}
	b.mu.Unlock()
	for _, id := range ids {
		state, err := a.readReader(ctx, b.guid, id)
		if err != nil {
			return err
		}
		b.mu.Lock()
		if r := b.readers[id]; r != nil {
			r.state = state
		}
		b.mu.Unlock()
	}
	return nil
}

// hasRead reports whether a reader ever changed \Seen in a mailbox.
func (a *account) hasRead(ctx context.Context, mailbox, id GUID) (found bool, err error) {
	err = a.store.kv.View(ctx, func(snap store.Snapshot) error {
		prefix := entryKey(a.id, append(entryName(SpaceSeen, mailbox, ""), id[:]...))
		for _, err := range snap.Range(prefix, above(prefix), 1, false) {
			if err != nil {
				return err
			}
			found = true
		}
		return nil
	})
	return found, a.store.failure("read who has read", err)
}

// StatusFor is Status for a Reader, which may be nil.
func (a *Account) StatusFor(ctx context.Context, name string, who *Reader) (Status, error) {
	st, err := a.Status(ctx, name)
	if err != nil || who == nil {
		return st, err
	}
	has, err := a.account.hasRead(ctx, st.GUID, accountGUID(who.Account))
	if err != nil {
		return st, err
	}
	if !has {
		if !who.Inherit {
			st.Unseen = st.Messages
		}
		return st, nil
	}
	m, err := a.MailboxFor(ctx, name, who)
	if err != nil {
		return st, err
	}
	defer m.Close()
	v := m.box.readerView(*m.reader)
	st = v.status()
	st.Unseen, st.HighestModSeq = v.Unseen(), v.HighestModSeq()
	return st, nil
}

package mailstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// A flag block holds the flags of all messages in a stretch of UIDs as they are
// at the end of a commit that changed many of them: it takes the place of a
// record for each. A message's flags, keywords and MODSEQ are those of its
// record or of its block, whichever has the higher MODSEQ; where both have the
// same, they say the same. What changes later for one message is written to its
// record alone, and the block stays as it is.
const (
	// flagBlockUIDs is how many UIDs a block is for. The first is a multiple.
	flagBlockUIDs = 8192
	// flagBlockWorth is how many messages of a block a change has at least for
	// a block to be less work than their records.
	flagBlockWorth = 64
	// maxFlagBlockOctets bounds a block. Flags without any order, with many
	// keywords, are over it, and are written to the records.
	maxFlagBlockOctets = store.MaxValueOctets

	flagBlockVersion = 1
)

// flagRun are messages, next to each other, with the same flags.
type flagRun struct {
	first, last imap.UID
	modseq      uint64
	flags       Flags
	keywords    []string
}

func flagBlockOf(uid imap.UID) imap.UID { return uid - uid%flagBlockUIDs }

func flagBlockKey(account, mailbox GUID, start imap.UID) []byte {
	return messageKey(account, kindFlagBlock, mailbox, start)
}

// encodeFlagBlock is the record of the block that begins at start; nil when no
// message is left in it.
func (v *view) encodeFlagBlock(start imap.UID) []byte {
	from, _ := v.list.find(start)
	var run *Message
	var b []byte
	next, last := start, imap.UID(0) // next: where the last run that was written ends
	end := func() {
		b = binary.AppendUvarint(b, uint64(run.UID-next))
		b = binary.AppendUvarint(b, uint64(last-run.UID))
		b = binary.AppendUvarint(b, run.ModSeq)
		b = append(b, byte(run.Flags))
		b = appendStrings(b, run.Keywords)
		next = last
	}
	for some := range v.list.from(from) {
		for _, m := range some {
			if m.UID-start >= flagBlockUIDs {
				break
			}
			switch {
			case run == nil:
				b = append(make([]byte, 0, 256), flagBlockVersion)
				run = m
			case m.ModSeq != run.ModSeq || m.Flags != run.Flags || !slices.Equal(m.Keywords, run.Keywords):
				end()
				run = m
			}
			last = m.UID
		}
		if some[len(some)-1].UID-start >= flagBlockUIDs {
			break
		}
	}
	if run != nil {
		end()
	}
	return b
}

func decodeFlagBlock(start imap.UID, b []byte) ([]flagRun, error) {
	d := decoder{b: b}
	if d.versions(flagBlockVersion); start%flagBlockUIDs != 0 {
		d.bad = true
	}
	var runs []flagRun
	for next := uint64(start); len(d.b) > 0 && !d.bad; {
		first := next + d.uvarint()
		last := first + d.uvarint()
		r := flagRun{first: imap.UID(first), last: imap.UID(last), modseq: d.uvarint(), flags: Flags(d.byte()), keywords: d.strings()}
		isFirst := len(runs) == 0
		if first < next || last < first || last-uint64(start) >= flagBlockUIDs || !isFirst && first == next || r.flags&^allFlags != 0 {
			d.bad = true
		}
		runs, next = append(runs, r), last
	}
	return runs, d.end("flags")
}

// flagBlocks reads the blocks of mailboxes, one at a time.
type flagBlocks struct {
	account GUID

	snap    store.Snapshot
	mailbox GUID
	start   imap.UID
	read    bool // the fields above say which block
	runs    []flagRun
	at      int // the run that was used last
	err     error
}

// apply gives m, as its record has it, the flags of its block where those are
// newer. found tells whether there is one.
func (f *flagBlocks) apply(snap store.Snapshot, mailbox GUID, m *Message) (found bool, err error) {
	start := flagBlockOf(m.UID)
	if !f.read || f.snap != snap || f.mailbox != mailbox || f.start != start {
		f.load(snap, mailbox, start)
	}
	if f.err != nil {
		return true, f.err
	}
	if r := f.run(m.UID); r != nil && r.modseq >= m.ModSeq {
		m.ModSeq, m.Flags, m.Keywords = r.modseq, r.flags, r.keywords
	}
	return len(f.runs) > 0, nil
}

func (f *flagBlocks) load(snap store.Snapshot, mailbox GUID, start imap.UID) {
	f.snap, f.mailbox, f.start, f.read = snap, mailbox, start, true
	f.runs, f.at, f.err = nil, 0, nil
	value, err := snap.Get(flagBlockKey(f.account, mailbox, start))
	if errors.Is(err, store.ErrNotFound) {
		return
	}
	if err == nil {
		f.runs, err = decodeFlagBlock(start, value)
	}
	if err != nil {
		f.err = fmt.Errorf("flags of the messages from UID %d on: %w", start, err)
	}
}

// run finds the run of a message, nil for none. Messages mostly come in order.
func (f *flagBlocks) run(uid imap.UID) *flagRun {
	if f.at < len(f.runs) && f.runs[f.at].last < uid {
		f.at++
	}
	if f.at >= len(f.runs) || uid < f.runs[f.at].first || f.runs[f.at].last < uid {
		f.at = sort.Search(len(f.runs), func(i int) bool { return f.runs[i].last >= uid })
	}
	if f.at < len(f.runs) && f.runs[f.at].first <= uid {
		return &f.runs[f.at]
	}
	return nil
}

// writtenBlock is a block that a commit writes, and at most how many octets that
// takes.
type writtenBlock struct {
	start  imap.UID
	octets int
}

// putFlagged stores messages, in UID order, whose flags changed and which are in
// the draft already: as a block where they are many of one, else as records.
func (t *txn) putFlagged(b *box, list []flagged) {
	for len(list) > 0 {
		start := flagBlockOf(list[0].after.UID)
		n := sort.Search(len(list), func(i int) bool { return list[i].after.UID-start >= flagBlockUIDs })
		asBlock := t.takesBlock(b, start, list[:n])
		for _, c := range list[:n] {
			if !asBlock || c.after.more != nil {
				t.putMessage(b, c.after)
			}
		}
		list = list[n:]
	}
}

// takesBlock reports whether the block at start stands for a change of its
// messages list. It is written at the end of the commit.
func (t *txn) takesBlock(b *box, start imap.UID, list []flagged) bool {
	v := t.draft(b)
	i := slices.IndexFunc(v.flagBlocks, func(w writtenBlock) bool { return w.start == start })
	if i < 0 {
		// A partner's changes belong into records, with what it may not know.
		if len(list) < t.account.store.cfg.flagBlockWorth || !v.loaded || t.account.link != nil {
			return false
		}
		octets := len(v.encodeFlagBlock(start))
		if octets > maxFlagBlockOctets {
			return false
		}
		v.flagBlocks, v.blocks = append(v.flagBlocks, writtenBlock{start, octets}), true
		return true
	}
	w := &v.flagBlocks[i]
	for _, c := range list { // it may become a run of its own, and part another
		w.octets += 2*flagRunOctets + keywordOctets(c.before) + keywordOctets(c.after)
	}
	if w.octets > maxFlagBlockOctets {
		w.octets = len(v.encodeFlagBlock(start))
	}
	// What makes it too large has a commit of its own then, and finds no block.
	t.overfull = t.overfull || w.octets > maxFlagBlockOctets
	return true
}

// flagRunOctets is the most that a run takes beside its keywords.
const flagRunOctets = 24

func keywordOctets(m *Message) (n int) {
	for _, k := range m.Keywords {
		n += 2 + len(k)
	}
	return n
}

// storeFlagBlocks puts the blocks that the commit wrote to.
func (t *txn) storeFlagBlocks(b *box, v *view) {
	for _, w := range v.flagBlocks {
		key := flagBlockKey(t.account.id, b.guid, w.start)
		if value := v.encodeFlagBlock(w.start); value != nil {
			t.batch.Put(key, value)
		} else {
			t.batch.Delete(key)
		}
	}
}

// dropFlagBlocks removes the blocks that the messages with the given UIDs were
// the last of.
func (t *txn) dropFlagBlocks(b *box, v *view, uids []imap.UID) {
	if !v.blocks || !v.loaded {
		return
	}
	for i, uid := range uids {
		start := flagBlockOf(uid)
		if i > 0 && flagBlockOf(uids[i-1]) == start {
			continue
		}
		if k, _ := v.list.find(start); k == v.list.len() || v.list.at(k).UID-start >= flagBlockUIDs {
			t.batch.Delete(flagBlockKey(t.account.id, b.guid, start))
		}
	}
}

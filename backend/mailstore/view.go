package mailstore

import (
	"cmp"
	"iter"
	"slices"
	"sort"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/uid"
)

// view implements View. Once published it never changes; the writer changes a
// copy, which shares the chunks that did not change.
type view struct {
	mailboxRecord
	guid   GUID
	loaded bool // list and keywords are known
	gone   bool
	list   messages
	// keywords in use by their lower-case form; replaced, never changed.
	keywords map[string]keyword
	// uids is the allocator, without its marks; see allocator.
	uids uid.Mailbox
	// hiddenList are hidden messages: all of them when they are as many as
	// pending says.
	hiddenList []*Message

	// expunged by the commit under way; nil in a published view.
	expunged []imap.UID
	// expungedDots are those of messages that are gone, not shown elsewhere.
	expungedDots []Dot
	// unhidden are those the commit takes out of the hidden ones, given the
	// messages it gives UIDs, wanted those it asks UIDs for, and places those
	// it shows or takes away: nil in a published view, too.
	unhidden []Dot
	given    []dotUID
	wanted   []Dot
	places   []dotUID
	dirty    bool // differs from what is stored
	// flagBlocks are those that the commit writes; nil in a published view.
	flagBlocks []writtenBlock
	// renamed: its name differs from what was published.
	renamed bool
}

type keyword struct {
	name  string // as first spelled
	count int
}

var _ View = (*view)(nil)

func (v *view) Len() int                      { return v.list.len() }
func (v *view) At(i int) *Message             { return v.list.at(i) }
func (v *view) Find(uid imap.UID) (int, bool) { return v.list.find(uid) }
func (v *view) UIDNext() imap.UID             { return v.uidNext }
func (v *view) UIDValidity() uint32           { return v.uidValidity }
func (v *view) HighestModSeq() uint64         { return v.modseq }
func (v *view) Unseen() int                   { return int(v.unseen) }
func (v *view) Octets() int64                 { return v.octets }
func (v *view) Deleted() bool                 { return v.gone }

func (v *view) Keywords() []string {
	names := make([]string, 0, len(v.keywords))
	for _, k := range v.keywords {
		names = append(names, k.name)
	}
	slices.Sort(names)
	return names
}

// uidList returns the UIDs of all messages.
func (v *view) uidList() []imap.UID {
	uids := make([]imap.UID, v.list.len())
	for i := range uids {
		uids[i] = v.list.at(i).UID
	}
	return uids
}

func (v *view) info() MailboxInfo {
	return MailboxInfo{Name: v.name, GUID: v.guid, SpecialUse: v.use, Subscribed: v.subscribed, Exists: !v.gone}
}

func (v *view) status() Status {
	return Status{
		GUID: v.guid, Messages: int(v.messages), Unseen: int(v.unseen), Deleted: int(v.deleted), Octets: v.octets,
		UIDNext: v.uidNext, UIDValidity: v.uidValidity, HighestModSeq: v.modseq,
	}
}

// count adds m to the kept counts, or takes it away for sign -1.
func (v *view) count(m *Message, sign int64) {
	v.messages += sign
	v.octets += sign * m.Octets
	v.countFlags(m, sign)
	v.sum(m, sign)
}

func (v *view) countFlags(m *Message, sign int64) {
	if m.Flags&FlagSeen == 0 {
		v.unseen += sign
	}
	if m.Flags&FlagDeleted != 0 {
		v.deleted += sign
	}
}

// countKeywords counts keywords in and out, beyond any bound.
func (v *view) countKeywords(delta map[string]keyword) {
	if v.loaded {
		v.keywords = countKeywords(v.keywords, delta)
	}
}

// countKeywords returns keywords after every change of delta.
func countKeywords(keywords map[string]keyword, delta map[string]keyword) map[string]keyword {
	if len(delta) == 0 {
		return keywords
	}
	out := make(map[string]keyword, len(keywords)+len(delta))
	for fold, k := range keywords {
		out[fold] = k
	}
	for fold, change := range delta {
		k, known := out[fold]
		if !known {
			k.name = change.name
		}
		if k.count += change.count; k.count > 0 {
			out[fold] = k
		} else {
			delete(out, fold)
		}
	}
	return out
}

func addKeywords(delta map[string]keyword, names []string, sign int) map[string]keyword {
	for _, name := range names {
		if delta == nil {
			delta = make(map[string]keyword)
		}
		fold := strings.ToLower(name)
		k := delta[fold]
		if k.name == "" || sign > 0 && k.count <= 0 {
			k.name = name
		}
		k.count += sign
		delta[fold] = k
	}
	return delta
}

// spell returns names as the mailbox spells them, sorted, each once.
func (v *view) spell(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	out := make([]string, 0, len(names))
	for _, name := range names {
		if k, known := v.keywords[strings.ToLower(name)]; known {
			name = k.name
		}
		if !slices.ContainsFunc(out, func(have string) bool { return strings.EqualFold(have, name) }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// chunkMessages is how many messages a change of one copies at most.
const chunkMessages = 512

// messages is a persistent list in UID order: chunks, and a tail that grows.
// An append writes only behind what an older copy can see, so that copies of
// one line of descent may share arrays; only the newest is ever appended to.
type messages struct {
	chunks    [][]*Message
	starts    []int // index of each chunk's first
	tail      []*Message
	tailStart int
}

func (l *messages) len() int { return l.tailStart + len(l.tail) }

func (l *messages) at(i int) *Message {
	if i >= l.tailStart {
		return l.tail[i-l.tailStart]
	}
	k := l.chunkOf(i)
	return l.chunks[k][i-l.starts[k]]
}

// chunkOf finds the chunk that holds index i, which is below tailStart.
func (l *messages) chunkOf(i int) int {
	if k := i / chunkMessages; k < len(l.starts) && l.starts[k] <= i && i-l.starts[k] < len(l.chunks[k]) {
		return k // no message was expunged before it
	}
	return sort.SearchInts(l.starts, i+1) - 1
}

func (l *messages) find(uid imap.UID) (int, bool) {
	chunk, start := l.tail, l.tailStart
	if len(l.tail) == 0 || uid < l.tail[0].UID {
		k := sort.Search(len(l.chunks), func(k int) bool {
			chunk := l.chunks[k]
			return chunk[len(chunk)-1].UID >= uid
		})
		if k < len(l.chunks) {
			chunk, start = l.chunks[k], l.starts[k]
		}
	}
	i, found := slices.BinarySearchFunc(chunk, uid, func(m *Message, uid imap.UID) int { return cmp.Compare(m.UID, uid) })
	return start + i, found
}

func (l *messages) append(m *Message) {
	if len(l.tail) == chunkMessages {
		l.chunks = append(l.chunks, l.tail)
		l.starts = append(l.starts, l.tailStart)
		l.tailStart += len(l.tail)
		l.tail = nil
	}
	l.tail = append(l.tail, m)
}

// from yields the messages from index i on, some at a time.
func (l *messages) from(i int) iter.Seq[[]*Message] {
	return func(yield func([]*Message) bool) {
		if i < l.tailStart {
			for k := l.chunkOf(i); k < len(l.chunks); k++ {
				if !yield(l.chunks[k][max(i-l.starts[k], 0):]) {
					return
				}
			}
		}
		if rest := max(i-l.tailStart, 0); rest < len(l.tail) {
			yield(l.tail[rest:])
		}
	}
}

// cursor looks up messages whose UIDs ascend: those next to each other cost a
// comparison.
type cursor struct {
	list  *messages
	k     int        // the chunk it is in; len(list.chunks) is the tail
	chunk []*Message // that chunk
	at    int        // where in it it looks next
}

func (l *messages) cursor() cursor { return cursor{list: l, k: -1} }

// find moves to the message with uid, or to the first above it and false.
func (c *cursor) find(uid imap.UID) bool {
	if c.k < 0 || len(c.chunk) == 0 || c.chunk[len(c.chunk)-1].UID < uid {
		chunks := c.list.chunks
		next := c.k + 1
		if next < len(chunks) && chunks[next][len(chunks[next])-1].UID < uid {
			next += sort.Search(len(chunks)-next, func(i int) bool {
				chunk := chunks[next+i]
				return chunk[len(chunk)-1].UID >= uid
			})
		}
		c.k, c.at = min(next, len(chunks)), 0
		if c.chunk = c.list.tail; c.k < len(chunks) {
			c.chunk = chunks[c.k]
		}
	}
	if c.at < len(c.chunk) && c.chunk[c.at].UID < uid {
		c.at++
	}
	if c.at < len(c.chunk) && c.chunk[c.at].UID < uid {
		n, _ := slices.BinarySearchFunc(c.chunk[c.at:], uid, func(m *Message, uid imap.UID) int { return cmp.Compare(m.UID, uid) })
		c.at += n
	}
	return c.at < len(c.chunk) && c.chunk[c.at].UID == uid
}

// message is the one that find moved to.
func (c *cursor) message() *Message { return c.chunk[c.at] }

// replace puts in the messages after those of changed, which are in UID order
// and in the list.
func (l *messages) replace(changed []flagged) {
	at := l.cursor()
	copied := -1 // the chunk that was copied last
	for _, c := range changed {
		at.find(c.after.UID)
		if at.k != copied {
			if copied < 0 {
				l.chunks = slices.Clone(l.chunks)
			}
			at.chunk, copied = slices.Clone(at.chunk), at.k
			if at.k == len(l.chunks) {
				l.tail = at.chunk
			} else {
				l.chunks[at.k] = at.chunk
			}
		}
		at.chunk[at.at] = c.after
	}
}

// remove takes out the messages with the given UIDs, in ascending order.
func (l *messages) remove(uids []imap.UID) {
	if len(uids) == 0 {
		return
	}
	var out messages
	before := l.len()
	keep := func(chunk []*Message) []*Message {
		lo, _ := slices.BinarySearch(uids, chunk[0].UID)
		hi, in := slices.BinarySearch(uids, chunk[len(chunk)-1].UID)
		if lo == hi && !in {
			return chunk
		}
		kept := make([]*Message, 0, len(chunk))
		for _, m := range chunk {
			if _, found := slices.BinarySearch(uids, m.UID); !found {
				kept = append(kept, m)
			}
		}
		return kept
	}
	for _, chunk := range l.chunks {
		if kept := keep(chunk); len(kept) > 0 {
			out.starts = append(out.starts, out.tailStart)
			out.chunks = append(out.chunks, kept)
			out.tailStart += len(kept)
		}
	}
	if len(l.tail) > 0 {
		out.tail = keep(l.tail)
	}
	if len(out.chunks) > 2*before/chunkMessages+8 {
		out = out.compact()
	}
	*l = out
}

// compact returns the list in full chunks.
func (l *messages) compact() messages {
	var out messages
	for i := range l.len() {
		out.append(l.at(i))
	}
	return out
}

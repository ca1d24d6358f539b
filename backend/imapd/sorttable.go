package imapd

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
	"github.com/postern-mail/postern/backend/mailstore"
)

// keyTable holds the sort keys of messages of one mailbox, by ascending UID. Its
// rows never change once others can see it.
type keyTable struct {
	rows   []keyRow
	octets int64

	mu     sync.Mutex
	ranked [sortkey.Fields][]uint32 // nil until somebody sorts by that
}

type keyRow struct {
	uid imap.UID
	// message is the beginning of the EMAILID: a mailbox that was deleted and
	// made again, or comes from the partner, may have another message there.
	message uint64
	key     sortkey.Key
}

// keyRowOctets is what a row takes beside its key's strings, ranks included.
const keyRowOctets = 16 + 4*sortkey.Fields

func checkOf(m *mailstore.Message) uint64 { return binary.BigEndian.Uint64(m.EmailID[:]) }

func (r *keyRow) is(m *mailstore.Message) bool { return r.uid == m.UID && r.message == checkOf(m) }

func (t *keyTable) add(row keyRow) {
	t.rows = append(t.rows, row)
	t.octets += keyRowOctets + row.key.Octets()
}

// ranks returns for each row how many different strings of that field in the
// table are less than its own; the empty one counts as one of them, whether it
// is there or not.
func (t *keyTable) ranks(f sortkey.Field) []uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ranked[f] == nil {
		t.ranked[f] = t.rankLocked(f)
	}
	return t.ranked[f]
}

// rankLocked compares the first octets of the strings as numbers, and only where
// those are equal the strings.
func (t *keyTable) rankLocked(f sortkey.Field) []uint32 {
	type place struct {
		start uint64
		row   uint32
	}
	places := make([]place, len(t.rows))
	for i := range t.rows {
		var start [8]byte
		copy(start[:], t.rows[i].key.Text(f))
		places[i] = place{binary.BigEndian.Uint64(start[:]), uint32(i)}
	}
	text := func(p place) string { return t.rows[p.row].key.Text(f) }
	slices.SortFunc(places, func(x, y place) int {
		if x.start != y.start {
			return cmp.Compare(x.start, y.start)
		}
		return strings.Compare(text(x), text(y))
	})
	ranks := make([]uint32, len(t.rows))
	rank, last := uint32(0), ""
	for _, p := range places {
		if s := text(p); s != last {
			rank, last = rank+1, s
		}
		ranks[p.row] = rank
	}
	return ranks
}

// find returns for each message by ascending index its row, -1 where the table
// has none, and how many those are.
func (t *keyTable) find(g *ground, found []int) (rows []int32, missing int) {
	rows = make([]int32, len(found))
	at := 0
	for k, i := range found {
		m := g.told.At(i)
		for at < len(t.rows) && t.rows[at].uid < m.UID {
			at++
		}
		if at < len(t.rows) && t.rows[at].is(m) {
			rows[k] = int32(at)
		} else {
			rows[k] = -1
			missing++
		}
	}
	return rows, missing
}

// merged returns a table with the rows of both, fresh ones first, without those
// of messages that are gone from the mailbox when there are many.
func (t *keyTable) merged(fresh *keyTable, v mailstore.View) *keyTable {
	old := t.rows
	if len(old) == 0 {
		return fresh
	}
	if len(fresh.rows) == 0 {
		return t
	}
	out := &keyTable{rows: make([]keyRow, 0, len(old)+len(fresh.rows))}
	crowded := len(old)+len(fresh.rows) > v.Len()+v.Len()/8
	for _, row := range fresh.rows {
		old = out.take(old, row.uid, v, crowded)
		if len(old) > 0 && old[0].uid == row.uid {
			old = old[1:]
		}
		out.add(row)
	}
	out.take(old, 1<<32-1, v, crowded)
	return out
}

// take adds the rows below uid and returns the others.
func (t *keyTable) take(rows []keyRow, uid imap.UID, v mailstore.View, crowded bool) (rest []keyRow) {
	for len(rows) > 0 && rows[0].uid < uid {
		if _, there := v.Find(rows[0].uid); there || !crowded {
			t.add(rows[0])
		}
		rows = rows[1:]
	}
	return rows
}

package imapd

import (
	"container/list"
	"context"
	"sync"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
	"github.com/postern-mail/postern/backend/mailstore"
)

const (
	// maxKeptKeys is how much memory the sort keys of all mailboxes may take
	// together for the next SORT or THREAD.
	maxKeptKeys = 128 << 20
	// maxSorting is how much memory all SORT and THREAD commands that are under
	// way may take together, beside the keys that are kept.
	maxSorting = 256 << 20
)

// mailboxID names a mailbox and its UIDs for ever.
type mailboxID struct {
	guid        mailstore.GUID
	uidValidity uint32
}

// keyCache keeps the tables of the mailboxes sorted last.
type keyCache struct {
	limit int64

	mu     sync.Mutex
	tables map[mailboxID]*list.Element // of *keptTable
	order  list.List                   // the one used last in front
	octets int64
}

type keptTable struct {
	id mailboxID
	*keyTable
}

func newKeyCache(limit int64) *keyCache {
	return &keyCache{limit: limit, tables: make(map[mailboxID]*list.Element)}
}

// get returns a mailbox's table, an empty one when none is kept.
func (c *keyCache) get(id mailboxID) *keyTable {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.tables[id]
	if e == nil {
		return &keyTable{}
	}
	c.order.MoveToFront(e)
	return e.Value.(*keptTable).keyTable
}

// put keeps a table, and drops those that were not used for the longest time. One
// that is over the limit by itself is not kept, and drops none but its own.
func (c *keyCache) put(id mailboxID, t *keyTable) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.tables[id]; e != nil {
		c.dropLocked(e)
	}
	if t.octets > c.limit {
		return
	}
	c.tables[id] = c.order.PushFront(&keptTable{id, t})
	c.octets += t.octets
	for c.octets > c.limit {
		c.dropLocked(c.order.Back())
	}
}

func (c *keyCache) dropLocked(e *list.Element) {
	kept := c.order.Remove(e).(*keptTable)
	delete(c.tables, kept.id)
	c.octets -= kept.octets
}

// sortKeys are the keys of messages by ascending index.
type sortKeys struct {
	table *keyTable
	rows  []int32 // of the table; -1 for messages without a key
}

var noKey sortkey.Key

// of is the key of the k-th message; that of a message that is gone is empty.
func (s *sortKeys) of(k int) *sortkey.Key {
	if s.rows[k] < 0 {
		return &noKey
	}
	return &s.table.rows[s.rows[k]].key
}

// sent is when the k-th message, m, was sent, or else when it arrived (RFC 5256
// section 2.2).
func (s *sortKeys) sent(k int, m *mailstore.Message) int64 {
	if key := s.of(k); key.Dated {
		return key.Sent
	}
	return m.InternalDate.Unix()
}

// sortKeys returns the keys of messages by ascending index. Those that are not
// in memory are read, and those that are not kept with the mailbox worked out
// from the header index.
func (s *session) sortKeys(ctx context.Context, g *ground, found []int, held *sortingShare) (*sortKeys, error) {
	id := mailboxID{g.mailbox.Info().GUID, g.told.UIDValidity()}
	table := s.server.keys.get(id)
	rows, missing := table.find(g, found)
	if missing == 0 {
		return &sortKeys{table, rows}, nil
	}
	if missing > fewMissing {
		stored, err := readStored(ctx, g, found, rows, held)
		if err != nil {
			return nil, err
		}
		table = table.merged(stored, g.told)
		rows, missing = table.find(g, found)
	}
	if missing > 0 {
		fresh, err := s.readKeys(ctx, g, found, rows, missing, held)
		if err != nil {
			return nil, err
		}
		table = table.merged(fresh, g.told)
		rows, _ = table.find(g, found)
		s.keepLater(g, table, fresh, held)
	}
	s.server.keys.put(id, table)
	return &sortKeys{table, rows}, nil
}

// fewMissing are messages whose keys are worked out without a look at those that
// are stored.
const fewMissing = 16

// readKeys works out the keys of the messages that have no row.
func (s *session) readKeys(ctx context.Context, g *ground, found []int, rows []int32, missing int, held *sortingShare) (*keyTable, error) {
	t := &keyTable{rows: make([]keyRow, 0, missing)}
	var batch []*mailstore.Message
	var octets int64
	for k, i := range found {
		if rows[k] < 0 {
			m := g.message(i)
			batch = append(batch, m)
			octets += metaOctets(m)
		}
		if len(batch) == 0 || len(batch) < metaBatch && octets < metaBatchOctets && k < len(found)-1 {
			continue
		}
		if err := s.goOn(ctx); err != nil {
			return nil, err
		}
		metas, unread, err := someOfMetas(ctx, g.mailbox, batch, mailstore.MetaEnvelope|mailstore.MetaHeader)
		if err != nil {
			return nil, err
		}
		if unread != nil { // they are sorted as if they had no header
			s.log.Warn("some messages cannot be sorted by their header", "sid", s.client.Session, "login", s.login(), "error", unread)
		}
		before := t.octets
		for k, meta := range metas {
			if meta != nil {
				t.add(keyRow{batch[k].UID, checkOf(batch[k]), sortkey.Of(meta.Envelope, meta.Header)})
			}
		}
		if err := held.more(t.octets - before); err != nil {
			return nil, err
		}
		batch, octets = batch[:0], 0
	}
	return t, nil
}

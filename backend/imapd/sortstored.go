package imapd

import (
	"context"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
	"github.com/postern-mail/postern/backend/mailstore"
)

// storedWorth is how many keys are new, of those that are stored together, for
// storing them to be worth it. Fewer are worked out again after a restart.
const storedWorth = 32

// readStored reads the stored keys of messages, which are some of found that have
// no row, and of others near them. One that makes no sense is left out.
func readStored(ctx context.Context, g *ground, found []int, rows []int32, held *sortingShare) (*keyTable, error) {
	t := &keyTable{}
	first, last := -1, -1
	for k := range rows {
		if rows[k] < 0 {
			if first < 0 {
				first = k
			}
			last = k
		}
	}
	if first < 0 {
		return t, nil
	}
	counted := int64(0)
	err := g.mailbox.SortKeys(ctx, sortkey.Made, g.told.At(found[first]).UID, g.told.At(found[last]).UID, func(k mailstore.SortKey) error {
		key, err := sortkey.Parse(k.Key)
		if err != nil {
			return nil
		}
		t.add(keyRow{k.UID, k.Message, key})
		if t.octets-counted < sortingStep {
			return nil
		}
		err = held.more(t.octets - counted)
		counted = t.octets
		return err
	})
	return t, err
}

// sortingStep is how much memory is taken of that for sorting at once.
const sortingStep = 1 << 20

// keepLater has the keys in a table stored with the mailbox, those that stand
// together with many fresh ones, once the client has its answer. Until then they
// take of the memory for sorting: held is the session's from now on.
func (s *session) keepLater(g *ground, t, fresh *keyTable, held *sortingShare) {
	news := make(map[uint32]int)
	for i := range fresh.rows {
		news[mailstore.SortKeyBlock(fresh.rows[i].uid)]++
	}
	var keep []*keyRow
	for i := range t.rows {
		if row := &t.rows[i]; news[mailstore.SortKeyBlock(row.uid)] >= storedWorth {
			keep = append(keep, row)
		}
	}
	if len(keep) == 0 {
		return
	}
	mailbox := g.mailbox
	s.laterShare.end()
	s.laterShare = held.handOver()
	s.later = func(ctx context.Context) error {
		for len(keep) > 0 {
			if err := s.goOn(ctx); err != nil {
				return err
			}
			n := min(len(keep), storedAtOnce)
			for n < len(keep) && mailstore.SortKeyBlock(keep[n].uid) == mailstore.SortKeyBlock(keep[n-1].uid) {
				n++
			}
			keys := make([]mailstore.SortKey, n)
			for i, row := range keep[:n] {
				keys[i] = mailstore.SortKey{UID: row.uid, Message: row.message, Key: string(row.key.Append(nil))}
			}
			if err := mailbox.KeepSortKeys(ctx, sortkey.Made, keys); err != nil {
				s.log.Debug("cannot keep keys for sorting", "sid", s.client.Session, "login", s.login(), "error", err)
				return nil
			}
			keep = keep[n:]
		}
		return nil
	}
}

// storedAtOnce is how many keys are made ready to be stored at once.
const storedAtOnce = 2000

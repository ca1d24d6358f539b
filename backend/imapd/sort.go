package imapd

import (
	"cmp"
	"context"
	"slices"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
	"github.com/postern-mail/postern/backend/imapd/thread"
)

// sort is SORT and UID SORT (RFC 5256), with RETURN as ESORT has it (RFC 5267
// section 3).
func (s *session) sort(ctx context.Context, a sortArgs) (result, error) {
	if err := s.mayUpdate(&a.searchArgs); err != nil {
		return result{}, err
	}
	found, err := s.sorted(ctx, &a)
	if err != nil {
		s.failedSave(&a.searchArgs, err)
		return result{}, err
	}
	if a.returns.given {
		s.writeESearch(&a.searchArgs, found)
	} else {
		s.w.str("* SORT")
		s.writeNumbers(&a.searchArgs, found)
		s.w.line("")
	}
	s.update(&a.searchArgs, a.criteria, found)
	return s.save(&a.searchArgs, found), nil
}

// sorted returns the indexes of the messages found, in order.
func (s *session) sorted(ctx context.Context, a *sortArgs) ([]int, error) {
	found, err := s.searchAll(ctx, &a.searchArgs)
	if err != nil || len(found) == 0 {
		return found, err
	}
	return found, s.order(ctx, &s.box.ground, a.criteria, found)
}

// order puts indexes of messages, which ascend, into the order of the criteria.
// Messages that are equal in every criterion stay in the order of the mailbox,
// also under REVERSE.
func (s *session) order(ctx context.Context, g *ground, criteria []sortCriterion, found []int) error {
	held, err := s.server.sorting.take(int64(len(found)) * int64(sortRowOctets+8*len(criteria)))
	if err != nil {
		return err
	}
	defer held.end()
	var keys *sortKeys
	if needsKeys(criteria) {
		if keys, err = s.sortKeys(ctx, g, found, &held); err != nil {
			return err
		}
	}
	columns := make([]column, 0, len(criteria))
	for _, c := range criteria {
		columns = append(columns, c.column(g, found, keys))
	}
	arrange(found, columns)
	return nil
}

// sortRowOctets is about what it takes to sort a message, and to tell of it,
// beside its key and the criteria.
const sortRowOctets = 32

// column is what messages are compared by in one criterion, the smaller first.
type column []int64

// column works out a criterion for the messages found.
func (c sortCriterion) column(g *ground, found []int, keys *sortKeys) column {
	values := make(column, len(found))
	switch c.by {
	case sortRelevancy: // all have the same
		return values
	case sortArrival:
		for k, i := range found {
			values[k] = g.message(i).InternalDate.Unix()
		}
	case sortSize:
		for k, i := range found {
			values[k] = g.message(i).Octets
		}
	case sortDate:
		for k, i := range found {
			values[k] = keys.sent(k, g.message(i))
		}
	default:
		ranks := keys.table.ranks(sortFields[c.by])
		for k, row := range keys.rows {
			if row >= 0 {
				values[k] = int64(ranks[row])
			}
		}
	}
	if c.reverse {
		for k := range values {
			values[k] = ^values[k]
		}
	}
	return values
}

// needsKeys reports whether a criterion is about the header.
func needsKeys(criteria []sortCriterion) bool {
	return slices.ContainsFunc(criteria, func(c sortCriterion) bool { return c.by != sortArrival && c.by != sortSize && c.by != sortRelevancy })
}

// arrange puts found into the order of the columns: by the first, where that is
// equal by the second, and so on; what is equal in all stays as it is.
func arrange(found []int, columns []column) {
	if len(columns) == 0 || len(found) == 0 {
		return
	}
	places := make([]int32, len(found))
	for k := range places {
		places[k] = int32(k)
	}
	arrangeBy(places, columns, make([]uint64, len(found)))
	before := slices.Clone(found)
	for k, place := range places {
		found[k] = before[place]
	}
}

// arrangeBy sorts places, which ascend.
func arrangeBy(places []int32, columns []column, room []uint64) {
	values := columns[0]
	sortPlaces(places, values, room)
	if len(columns) == 1 {
		return
	}
	for from := 0; from < len(places); {
		to := from + 1
		for to < len(places) && values[places[to]] == values[places[from]] {
			to++
		}
		if to-from > 1 {
			arrangeBy(places[from:to], columns[1:], room)
		}
		from = to
	}
}

// sortPlaces sorts places, which ascend, by their values. As a rule value and
// place fit into one number, which is the fastest to sort.
func sortPlaces(places []int32, values column, room []uint64) {
	least, most := values[places[0]], values[places[0]]
	for _, p := range places {
		least, most = min(least, values[p]), max(most, values[p])
	}
	if spread := uint64(most) - uint64(least); spread >= 1<<32 {
		slices.SortFunc(places, func(x, y int32) int { return cmp.Or(cmp.Compare(values[x], values[y]), cmp.Compare(x, y)) })
		return
	}
	room = room[:len(places)]
	for k, p := range places {
		room[k] = (uint64(values[p])-uint64(least))<<32 | uint64(p)
	}
	slices.Sort(room)
	for k, both := range room {
		places[k] = int32(both & (1<<31 - 1))
	}
}

// thread is THREAD and UID THREAD (RFC 5256 section 3).
func (s *session) thread(ctx context.Context, a threadArgs) (result, error) {
	found, err := s.searchAll(ctx, &a.searchArgs)
	if err != nil {
		return result{}, err
	}
	forest, err := s.threads(ctx, &a, found)
	if err != nil {
		return result{}, err
	}
	s.w.str("* THREAD")
	if forest.Threads() > 0 {
		s.w.char(' ')
	}
	var line []byte
	number := func(k int) uint32 { return s.box.number(found[k], a.uid) }
	for i := range forest.Threads() {
		line = forest.AppendThread(line[:0], i, number)
		s.w.raw(line)
	}
	s.w.line("")
	return result{}, nil
}

func (s *session) threads(ctx context.Context, a *threadArgs, found []int) (*thread.Forest, error) {
	held, err := s.server.sorting.take(int64(len(found)) * threadRowOctets)
	if err != nil {
		return nil, err
	}
	defer held.end()
	keys, err := s.sortKeys(ctx, &s.box.ground, found, &held)
	if err != nil {
		return nil, err
	}
	messages := make([]thread.Message, len(found))
	for k, i := range found {
		key := keys.of(k)
		messages[k] = thread.Message{
			ID: key.ID, References: key.References, Subject: key.Text(sortkey.Subject), Reply: key.Reply, Sent: keys.sent(k, s.box.message(i)),
		}
	}
	if a.references {
		return thread.References(messages), nil
	}
	return thread.OrderedSubject(messages), nil
}

// threadRowOctets is about what it takes to thread a message, beside its key.
const threadRowOctets = 300

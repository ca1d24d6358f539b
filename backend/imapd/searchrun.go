package imapd

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/store"
)

// ground is a mailbox as it is searched.
type ground struct {
	mailbox mailbox
	// told is what the client knows: its sequence numbers are the indexes of
	// told plus one.
	told mailstore.View
	// now is the View that was last compared with told. It is another one only
	// while messages are gone that the client may not be told of yet.
	now mailstore.View
	// ahead holds messages that the client was told of in a later state than
	// told has them in, by UID; told itself could not move because that would
	// shift numbers.
	ahead map[imap.UID]*mailstore.Message
	// saved is what "$" stands for: UIDs, of which those count that are there.
	saved []uidRange
}

// message returns the message with sequence number i+1 as it is now, or as the
// client knows it when it is gone.
func (g *ground) message(i int) *mailstore.Message {
	m := g.told.At(i)
	if g.now == g.told {
		return m
	}
	if k, ok := g.now.Find(m.UID); ok {
		return g.now.At(k)
	}
	return g.known(m)
}

// known returns the message that is m in told as the client was told of it
// last.
func (g *ground) known(m *mailstore.Message) *mailstore.Message {
	if later := g.ahead[m.UID]; later != nil {
		return later
	}
	return m
}

// spans turns UIDs into runs of messages by index.
func (g *ground) spans(runs []uidRange) []span {
	spans := make([]span, 0, len(runs))
	for _, r := range runs {
		lo, _ := g.told.Find(imap.UID(r.first))
		hi, found := g.told.Find(imap.UID(r.last))
		if found {
			hi++
		}
		if lo < hi {
			spans = append(spans, span{lo, hi})
		}
	}
	return spans
}

// runs is the reverse of spans: every message in the spans, and none of the
// others. That stays true for ever, for later messages have higher UIDs.
func (g *ground) runs(spans []span) []uidRange {
	runs := make([]uidRange, 0, len(spans))
	for _, sp := range spans {
		runs = append(runs, uidRange{uint32(g.told.At(sp.lo).UID), uint32(g.told.At(sp.hi - 1).UID)})
	}
	return runs
}

// runsOf is runs for messages by ascending index.
func (g *ground) runsOf(found []int) []uidRange {
	var spans []span
	for _, i := range found {
		if n := len(spans); n > 0 && spans[n-1].hi == i {
			spans[n-1].hi++
		} else {
			spans = append(spans, span{i, i + 1})
		}
	}
	return g.runs(spans)
}

// prepare resolves the sets, mod-sequences and ages against the mailbox that is
// searched, and puts cheap keys before dear ones. It may be called again for
// another.
func (k *searchKey) prepare(g *ground, now time.Time) {
	switch {
	case k.set.isSaved():
		k.runs = g.saved
	case k.op == searchSequence:
		k.runs = g.runs(k.set.present(g.told.Len()))
	case k.op == searchUID:
		k.runs = g.runs(k.set.uids(g.told))
	case k.op == searchModSeq:
		k.above = searchedAbove(g.mailbox, k.number)
	case k.op == searchMailbox:
		info := g.mailbox.Info()
		k.here = k.isMailbox(&info)
	case k.op == searchOlder, k.op == searchYounger, k.op == searchSavedOlder, k.op == searchSavedYounger:
		k.instant = now.Unix() - k.seconds
	}
	for i := range k.kids {
		k.kids[i].prepare(g, now)
	}
	if k.op == searchAnd || k.op == searchOr {
		slices.SortStableFunc(k.kids, func(a, b searchKey) int { return cmp.Compare(a.cost, b.cost) })
	}
}

// reach says which of the messages that match are wanted. The zero value wants
// all of them.
type reach struct {
	limit    int  // 0 for all
	backward bool // the last ones, not the first
}

// searchGround returns the indexes of messages that match a prepared program, in
// ascending order. What the index can tell is asked of every message first;
// Metas are then read in batches.
func (s *session) searchGround(ctx context.Context, g *ground, key *searchKey, want reach) ([]int, error) {
	return searchFor(ctx, &sessionSearch{session: s}, g, key, want)
}

// searchFor is searchGround for anybody.
func searchFor(ctx context.Context, who searcher, g *ground, key *searchKey, want reach) ([]int, error) {
	r := &searchRun{who: who, ground: g, want: want}
	r.cheap, r.dear = key.split()
	defer r.close()
	err := r.over(ctx, r.scope())
	if want.backward {
		slices.Reverse(r.found)
	}
	return r.found, err
}

// searcher is who a search works for.
type searcher interface {
	// goOn ends a search that nobody waits for; helpOn does so for helpers, who
	// run beside it.
	goOn(ctx context.Context) error
	helpOn(ctx context.Context) error
	processors() scanners
	textOptions() text.Options
}

// sessionSearch is a search for a client.
type sessionSearch struct {
	*session
	spoken bool // a client that sends no more was told that the search goes on
}

func (s *sessionSearch) goOn(ctx context.Context) error {
	if err := s.session.goOn(ctx); err != nil {
		return err
	}
	return s.attend()
}

// helpOn writes nothing.
func (s *sessionSearch) helpOn(ctx context.Context) error {
	if peerOf(s.socket) == peerGone {
		return errHungUp
	}
	return ctx.Err()
}

func (s *sessionSearch) processors() scanners      { return s.server.scanners }
func (s *sessionSearch) textOptions() text.Options { return s.server.deps.Store.TextOptions() }

// searchRun is one search over one mailbox.
type searchRun struct {
	who         searcher
	ground      *ground
	want        reach
	cheap, dear searchKey // what the index answers, and the rest

	hints    textIndex // nil until the index was asked
	dearSeen int       // messages that the cheap keys left over

	probe  candidate // the message that the cheap keys are asked of
	batch  []int     // messages to ask the dear keys of
	octets int64
	found  []int // in the order of the search
}

// split parts an AND into what the index answers and the rest.
func (k *searchKey) split() (cheap, dear searchKey) {
	at, _ := slices.BinarySearchFunc(k.kids, costMeta, func(kid searchKey, c cost) int { return cmp.Compare(kid.cost, c) })
	return searchKey{op: searchAnd, kids: k.kids[:at]}, searchKey{op: searchAnd, cost: k.cost, kids: k.kids[at:]}
}

// scope is what there is to look at: the messages of a set, if the program
// names one that all must be in.
func (r *searchRun) scope() []span {
	spans, n := []span{{0, r.ground.told.Len()}}, r.ground.told.Len()
	for i := range r.cheap.kids {
		if k := &r.cheap.kids[i]; k.op == searchSequence || k.op == searchUID {
			if some := r.ground.spans(k.runs); count(some) < n {
				spans, n = some, count(some)
			}
		}
	}
	return spans
}

// searchStep is after how many messages a search looks whether to go on.
const searchStep = 5000

func (r *searchRun) over(ctx context.Context, spans []span) error {
	seen := 0
	for k := range spans {
		sp := spans[k]
		if r.want.backward {
			sp = spans[len(spans)-1-k]
		}
		for k := range sp.hi - sp.lo {
			i := sp.lo + k
			if r.want.backward {
				i = sp.hi - 1 - k
			}
			if err := r.look(ctx, i); err != nil || r.enough() {
				return err
			}
			if seen++; seen%searchStep == 0 {
				if err := r.who.goOn(ctx); err != nil {
					return err
				}
			}
		}
	}
	return r.askDear(ctx)
}

func (r *searchRun) enough() bool { return r.want.limit > 0 && len(r.found) >= r.want.limit }

// look takes one message into the search.
func (r *searchRun) look(ctx context.Context, i int) error {
	r.probe.message = r.ground.message(i)
	if ok, err := r.probe.matches(&r.cheap); err != nil || !ok {
		return err
	}
	if len(r.dear.kids) == 0 {
		r.found = append(r.found, i)
		return nil
	}
	if known, err := r.known(ctx, i, r.probe.message); known || err != nil {
		return err
	}
	r.batch = append(r.batch, i)
	if r.octets += metaOctets(r.probe.message); len(r.batch) < metaBatch && r.octets < metaBatchOctets {
		return nil
	}
	return r.askDear(ctx)
}

// askDear asks the dear keys of a batch of messages. Messages that are gone
// match nothing.
func (r *searchRun) askDear(ctx context.Context) error {
	batch := r.batch
	r.batch, r.octets = r.batch[:0], 0
	if len(batch) == 0 {
		return nil
	}
	if err := r.who.goOn(ctx); err != nil {
		return err
	}
	messages := make([]*mailstore.Message, len(batch))
	for k, i := range batch {
		messages[k] = r.ground.message(i)
	}
	metas, unread, err := someOfMetas(ctx, r.ground.mailbox, messages, mailstore.MetaAll)
	if err = cmp.Or(err, unread); err != nil {
		return err
	}
	return r.scan(ctx, batch, messages, metas)
}

// asks decides the dear keys for one message. A message that is gone matches
// nothing; one whose body is lost is an outage, and not a message without the
// text.
func (r *searchRun) asks(ctx context.Context, m *mailstore.Message, meta *mailstore.Meta, watch watch) (bool, error) {
	c := candidate{
		message: m, meta: meta, hints: r.hints, watch: watch, options: r.who.textOptions(),
		open: func() (store.Body, error) { return r.ground.mailbox.BodyOf(ctx, m, meta) },
	}
	defer c.close()
	ok, err := c.matches(&r.dear)
	if errors.Is(err, mailstore.ErrNoMessage) {
		return false, nil
	}
	return ok, err
}

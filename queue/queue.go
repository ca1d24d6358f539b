package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/lease"
)

// Transport brings messages to their next hop. Implemented by delivery.
type Transport interface {
	// Destination names where mail of a sender goes to a recipient: those of one
	// message with the same destination share a delivery, and concurrency is
	// counted by it. It must not block.
	Destination(from mail.Address, to mail.Recipient) string
	// Deliver makes one attempt and returns one outcome for each recipient of
	// d.Envelope, in order. The recipients had the same destination when the
	// message was accepted.
	Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome
}

// Limiter is a Transport that knows how many deliveries at once its
// destinations take. A limit of 0 leaves it to the queue's configuration.
type Limiter interface {
	Concurrency(destination string) (initial, limit int)
}

// Reports composes delivery status notifications. Implemented by delivery/dsn.
type Reports interface {
	// Compose writes the report to w and returns its envelope.
	Compose(w io.Writer, r mail.Report, now time.Time, id string) (mail.Envelope, error)
}

// Recipients answers who an address stands for, for the reports' way back to
// senders of ours. Implemented by directory.
type Recipients interface {
	// Resolve returns nobody for an address that is not ours.
	Resolve(ctx context.Context, a mail.Address) ([]mail.Recipient, error)
}

// Auditor keeps the record of decisions.
type Auditor interface{ Record(mail.Event) }

// Deps are what the queue works with. Recipients may be nil: reports then go
// to the reverse-path as it is. Submitters may be nil: then everybody's mail
// goes out. Notices may be nil: then the postmaster is told
// nothing. Audit may be nil.
type Deps struct {
	Store      store.Store
	Blobs      store.Blobs
	Transport  Transport
	Reports    Reports
	Recipients Recipients
	Submitters Submitters
	Notices    Notices
	Audit      Auditor
	Log        hclog.Logger
}

// Submission is a message to be queued.
type Submission struct {
	ID       mail.QueueID // from NewID; it stands in the message's trace header
	Envelope mail.Envelope
	Content  store.Staged // from Stage; Accept takes it over
	// ReceivedFrom describes the client, for the Received-From-MTA field of
	// reports; "" when the message is ours.
	ReceivedFrom string
	Session      mail.SessionID // for the audit
	// Hold keeps the message from being tried until it is released.
	Hold bool
	// Expanded are aliases and groups that stand for several recipients and
	// whose sender asked to be told of success. He is told that they were
	// reached; the recipients themselves ask for no report of success.
	Expanded []mail.Recipient
}

// Queue is the queue. It is safe for concurrent use.
type Queue struct {
	cfg  Config
	deps Deps
	log  hclog.Logger
	shards

	changes chan *change  // to the keeper
	kick    chan struct{} // a token: the keeper should look at the schedule
	stopped chan struct{} // closed when the keeper has ended
	started atomic.Bool

	counts  counts
	notices notices
	intake  intake

	mu       sync.Mutex
	running  bool
	active   map[mail.QueueID]*message // in memory
	schedule schedule
	holder   *lease.Holder // of the shards' leases; nil where nobody else has the store
	served   []*shard      // by number; nil where another process does
	lastRead uint16        // the shard whose due index was read last
	// crowded stops the loading until memory has room again; passedOver counts
	// due entries in a row for whose destination there was none.
	crowded    bool
	passedOver int

	// The keeper's own: closed when Run was told to end; and what it has to try
	// again, by time.
	ending    <-chan struct{}
	postponed []postponed

	workers   sync.WaitGroup
	deliver   context.Context // for deliveries; ends after the grace time
	reporters chan struct{}   // a token for each report being composed
}

// New returns a queue over what the store holds. Nothing is tried before Run.
func New(cfg Config, deps Deps) (*Queue, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps.Store == nil || deps.Blobs == nil || deps.Transport == nil || deps.Reports == nil {
		return nil, errors.New("queue: needs a store, bodies, a transport and reports")
	}
	if deps.Log == nil {
		deps.Log = hclog.NewNullLogger()
	}
	q := &Queue{
		cfg: cfg, deps: deps, log: deps.Log,
		notices:   newNotices(),
		changes:   make(chan *change, 256),
		kick:      make(chan struct{}, 1),
		stopped:   make(chan struct{}),
		reporters: make(chan struct{}, maxReporters),
		active:    make(map[mail.QueueID]*message),
	}
	q.schedule.init(cfg, deps.Transport)
	ctx := context.Background()
	if err := q.openLayout(ctx, cfg.Shards); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if err := q.divideUp(ctx); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return q, nil
}

// Stage reads a message to its end, ready for Accept. Errors of r are returned
// as they are, a full disk as status.MailSystemFull.
func (q *Queue) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	staged, err := q.deps.Blobs.Stage(ctx, r)
	if errors.Is(err, store.ErrFull) {
		return nil, status.New(status.MailSystemFull, err)
	}
	return staged, err
}

// Accept queues a message. When it returns nil the message is on stable
// storage and the queue's; it may then be on its way already. On an error
// nothing was queued, but for one that is store.ErrUnknown, after which it may
// have been; the content is discarded. ctx should be the server's, not the
// session's: a client that hangs up must not undo an accepted message.
//
// Reasons: MailSystemFull, QueueFull, TooManyRecipients, NoValidRecipients, StoreDown.
func (q *Queue) Accept(ctx context.Context, s Submission) error {
	m, err := q.newMessage(s)
	if err != nil {
		s.Content.Discard()
		return err
	}
	return q.take(ctx, m, s)
}

// take makes m durable and the queue's. A message that was tried already comes
// with its state.
func (q *Queue) take(ctx context.Context, m *message, s Submission) error {
	// A message that some of its recipients have already must not come again.
	if m.work[0].state == nil && q.isFull() {
		s.Content.Discard()
		return q.errFull()
	}
	for {
		err := q.tryTake(ctx, m, s)
		if !errors.Is(err, errFenced) {
			return err
		} // and leave it in the inbox of who has the shard
	}
}

// tryTake is take; errFenced when m's shard was lost meanwhile.
func (q *Queue) tryTake(ctx context.Context, m *message, s Submission) error {
	b := store.NewBatch()
	if err := q.addMessage(b, m, s.Content); err != nil {
		s.Content.Discard()
		return err
	}
	expansion := q.expansion(m, &s)
	if expansion != nil {
		if err := q.addMessage(b, expansion.m, expansion.staged); err != nil {
			expansion.staged.Discard()
			s.Content.Discard()
			return err
		}
		q.announce(b, expansion.m)
	}
	if !q.announce(b, m) {
		q.drop(expansion)
		s.Content.Discard()
		return status.Errorf(status.Unknown, "queue id %s is in use", s.ID)
	}
	if _, err := q.deps.Store.Commit(ctx, b); err != nil {
		q.withdraw(m)
		q.drop(expansion)
		if q.isShared() && errors.Is(err, store.ErrConflict) {
			q.confirm(ctx)
			return errFenced
		}
		s.Content.Discard()
		return acceptError(err)
	}
	if expansion != nil {
		q.queued(expansion, "report on "+string(m.id))
	}
	q.counts.accepted.Add(1)
	q.auditAccept(m, s)
	q.activate(m)
	return nil
}

// auditAccept records that m is ours.
func (q *Queue) auditAccept(m *message, s Submission) {
	q.audit(mail.Event{
		Kind: mail.EventAccept, Result: acceptResult(s.Hold), Session: s.Session, Queue: m.id,
		From: &m.envelope.ReversePath, To: addresses(s.Envelope.Recipients), Octets: m.ref.Octets,
	})
}

func acceptResult(hold bool) string {
	if hold {
		return "held"
	}
	return "ok"
}

func acceptError(err error) error {
	switch {
	case errors.Is(err, store.ErrFull):
		return status.New(status.MailSystemFull, err)
	case errors.Is(err, store.ErrTooLarge):
		return status.New(status.TooManyRecipients, err)
	default:
		return status.New(status.StoreDown, fmt.Errorf("accept: %w", err))
	}
}

// newMessage divides the recipients into groups.
func (q *Queue) newMessage(s Submission) (*message, error) {
	if !validID(s.ID) {
		return nil, status.Errorf(status.Unknown, "%q is no queue id", s.ID)
	}
	if len(s.Envelope.Recipients) == 0 {
		return nil, status.Errorf(status.NoValidRecipients, "%s: no recipients", s.ID)
	}
	groups, err := q.divide(&s.Envelope)
	if err != nil {
		return nil, err
	}
	rec := record{
		arrived: time.Now().Truncate(time.Millisecond), ref: store.Ref{Octets: s.Content.Octets()},
		envelope: s.Envelope, receivedFrom: s.ReceivedFrom, groups: groups,
	}
	rec.envelope.Recipients = nil
	m := q.shards.newMessage(s.ID, &rec)
	m.held = s.Hold
	return m, nil
}

// divide makes groups of recipients with the same destination, in the order
// of their first, within the limits of number and size.
func (q *Queue) divide(envelope *mail.Envelope) ([][]mail.Recipient, error) {
	type open struct{ group, octets int }
	var groups [][]mail.Recipient
	current := make(map[string]open, 1)
	for _, r := range envelope.Recipients {
		destination := q.deps.Transport.Destination(envelope.ReversePath, r)
		octets := recipientOctets(r)
		if octets > maxGroupOctets {
			return nil, status.Errorf(status.ParameterSyntax, "recipient of %d octets", octets)
		}
		at, ok := current[destination]
		if !ok || len(groups[at.group]) >= q.cfg.RecipientLimit || at.octets+octets > maxGroupOctets {
			at = open{group: len(groups)}
			groups = append(groups, nil)
		}
		groups[at.group] = append(groups[at.group], r)
		at.octets += octets
		current[destination] = at
	}
	return groups, nil
}

// recipientOctets bounds the encoded size of a recipient.
func recipientOctets(r mail.Recipient) int {
	return 64 + len(r.Address.Local) + len(r.Address.Domain) + len(r.Accepted.Local) + len(r.Accepted.Domain) +
		len(r.Original) + len(r.Route.Transport) + len(r.Route.NextHop) + len(r.Home)
}

// addMessage adds to b what makes m queued.
func (q *Queue) addMessage(b *store.Batch, m *message, content store.Staged) error {
	m.ref = content.Ref()
	if err := q.addRecord(b, m); err != nil {
		return err
	}
	q.deps.Blobs.Link(b, content)
	return nil
}

// addRecord adds to b all of m but its body.
func (q *Queue) addRecord(b *store.Batch, m *message) error {
	first, parts := encodeMessage(m.record)
	if len(first) > store.MaxValueOctets {
		return status.Errorf(status.ParameterSyntax, "envelope of %d octets", len(first))
	}
	count(b, m.shard, 1, m.heldCount())
	b.Put(messageKey(m.id), first)
	for i, p := range parts {
		b.Put(partKey(m.id, i), p)
	}
	m.parts = len(parts)
	switch {
	case m.held:
		b.Put(holdKey(m.id), nil)
	case m.work[0].state != nil: // tried already; such a message has one group
		b.Put(stateKey(m.id, 0), encodeState(m.work[0].state))
		m.work[0].entry = m.work[0].state.due
		b.Put(m.entryKey(0), m.dueMark())
	default:
		b.Put(m.untriedKey(), m.dueMark())
		m.untriedEntry = true
	}
	return nil
}

// announce makes m known before its commit, so that the keeper, who may find
// its due entry at once, leaves it to who accepts it. A message for a shard of
// another process goes into that one's inbox.
func (q *Queue) announce(b *store.Batch, m *message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active[m.id] != nil {
		return false
	}
	if m.home = q.homeLocked(m.shard); m.home == nil {
		if !m.held {
			b.Put(inboxKey(m.shard, m.id), inboxValue(m.firstDue()))
		}
		return true
	}
	m.home.guard(b)
	m.busy = true
	q.active[m.id] = m
	return true
}

// withdraw takes back announce. Should the commit have happened after all, the
// keeper finds the message.
func (q *Queue) withdraw(m *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active[m.id] == m {
		delete(q.active, m.id)
	}
	q.rewindLocked(m.firstEntry())
}

// activate schedules a message that was accepted, or leaves it to the keeper
// when memory is full.
func (q *Queue) activate(m *message) {
	q.counts.queued.Add(1)
	if m.held {
		q.counts.held.Add(1)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	m.busy = false
	if m.home == nil || m.home.lost {
		return // who has the shard finds it
	}
	if m.work[0].state != nil {
		m.moving++ // until it rests
		q.restLocked(m, 0)
		return
	}
	if m.held || !q.loadUntriedLocked(m) {
		q.forgetIfIdleLocked(m)
		if !m.held {
			q.rewindLocked(m.untriedKey())
		}
		return
	}
	q.dispatchLocked()
}

func (q *Queue) audit(e mail.Event) {
	if q.deps.Audit != nil {
		q.deps.Audit.Record(e)
	}
}

func addresses(recipients []mail.Recipient) []mail.Address {
	list := make([]mail.Address, len(recipients))
	for i := range recipients {
		list[i] = recipients[i].Address
	}
	return list
}

// content makes a stored body what transports and reports read.
type content struct {
	*io.SectionReader
	body store.Body
}

func (c content) Close() error { return c.body.Close() }

// open returns a message's octets.
func (q *Queue) open(ctx context.Context, ref store.Ref) (mail.Content, error) {
	return opened(q.deps.Blobs.Open(ctx, ref))
}

// opened returns what a body holds.
func opened(body store.Body, err error) (mail.Content, error) {
	if err != nil {
		return nil, err
	}
	return content{io.NewSectionReader(body, 0, body.Size()), body}, nil
}

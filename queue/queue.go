package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Config says how mail waits. Names and defaults are Postfix's.
type Config struct {
	// MinimalBackoff and MaximalBackoff bound the wait before another
	// attempt. Zero means 300 s and 4000 s.
	MinimalBackoff time.Duration
	MaximalBackoff time.Duration
	// Lifetime is how long delivery is tried before the sender is told.
	// Zero means 5 days. BounceLifetime is the same for reports of our own.
	Lifetime       time.Duration
	BounceLifetime time.Duration
	// DelayWarning is when a sender is told of a delay; zero means never.
	DelayWarning time.Duration
	// MinFree is the free space below which nothing is accepted, in octets.
	// Zero means 100 MiB.
	MinFree int64
	// Workers bounds deliveries at a time; zero means 64.
	Workers int
	// DestinationConcurrency bounds deliveries at a time to one destination;
	// zero means 20. A new destination starts with 5.
	DestinationConcurrency int
	// MaxReady bounds the groups held in memory, due and waiting for a
	// worker; zero means 10000. The others wait in the store.
	MaxReady int
	// Grace is how long deliveries under way may go on when Run is to end.
	// Zero means 30 s.
	Grace time.Duration
}

func (c *Config) defaults() {
	c.MinimalBackoff = or(c.MinimalBackoff, 300*time.Second)
	c.MaximalBackoff = or(c.MaximalBackoff, 4000*time.Second)
	c.Lifetime = or(c.Lifetime, 5*24*time.Hour)
	c.BounceLifetime = or(c.BounceLifetime, 5*24*time.Hour)
	c.MinFree = or(c.MinFree, 100<<20)
	c.Workers = or(c.Workers, 64)
	c.DestinationConcurrency = or(c.DestinationConcurrency, 20)
	c.MaxReady = or(c.MaxReady, 10_000)
	c.Grace = or(c.Grace, 30*time.Second)
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// Transport brings messages to their next hop. Implemented by delivery.
type Transport interface {
	// Destination names where a recipient's mail goes: recipients of one
	// message with the same destination share an attempt, and concurrency is
	// counted by it.
	Destination(r mail.Recipient) string
	// Deliver makes one attempt and returns one outcome for each recipient
	// of d.Envelope, in order.
	Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome
}

// Reports writes delivery status notifications. Implemented by delivery/dsn.
type Reports interface {
	Compose(w io.Writer, r mail.Report) error
}

// Auditor keeps the record of decisions.
type Auditor interface{ Record(mail.Event) }

// Space tells how much room the disk has. Implemented by internal/fsx.
type Space interface{ FreeOctets() (int64, error) }

// Deps is what a queue works with.
type Deps struct {
	Store     store.Store
	Blobs     store.Blobs
	Transport Transport
	Reports   Reports
	Audit     Auditor
	Space     Space
	Log       hclog.Logger
}

// Queue is the durable queue. It is safe for concurrent use.
type Queue struct {
	Deps
	cfg       Config
	transport atomic.Pointer[Transport]
	ready     *scheduler
	finishing chan job
	born      mail.QueueID // ids below were there before
	counts    counters
	lastID    atomic.Int64
	space     spaceMemo
	groupLock [64]sync.Mutex // by message: which group is its last
}

// New returns a queue over what the store holds. Nothing is delivered before
// Run.
func New(cfg Config, deps Deps) (*Queue, error) {
	cfg.defaults()
	if cfg.MinimalBackoff > cfg.MaximalBackoff {
		return nil, fmt.Errorf("queue: minimal backoff %s is longer than maximal backoff %s", cfg.MinimalBackoff, cfg.MaximalBackoff)
	}
	q := &Queue{Deps: deps, cfg: cfg, ready: newScheduler(cfg.MaxReady, cfg.DestinationConcurrency), finishing: make(chan job, cfg.Workers)}
	q.born = q.NewID()
	q.transport.Store(&deps.Transport)
	return q, nil
}

// SetTransport replaces the transport; attempts under way keep theirs. Groups
// that wait keep the destination they were accepted with.
func (q *Queue) SetTransport(t Transport) { q.transport.Store(&t) }

const (
	// maxGroupRecipients and maxGroupOctets bound a group, so that its record
	// fits into a value and one refusal does not make many wait.
	maxGroupRecipients = 50
	maxGroupOctets     = 32 << 10
)

const idAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford's base 32

// NewID returns an id that no message has, later ones sorting behind.
func (q *Queue) NewID() mail.QueueID {
	// Microseconds, and ten bits that keep two processes apart.
	n := time.Now().UnixMicro()<<10 | rand.Int64N(1<<10)
	for {
		last := q.lastID.Load()
		n = max(n, last+1)
		if q.lastID.CompareAndSwap(last, n) {
			break
		}
	}
	var id [13]byte
	for i := len(id) - 1; i >= 0; i-- {
		id[i] = idAlphabet[n&31]
		n >>= 5
	}
	return mail.QueueID(id[:])
}

// Stage reads a message's content to where Accept can name it.
func (q *Queue) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	s, err := q.Blobs.Stage(ctx, r)
	if errors.Is(err, store.ErrFull) {
		return nil, status.New(status.MailSystemFull, err)
	}
	return s, err
}

// CheckSpace returns status.MailSystemFull when a message of so many octets
// has no room. The answer may be a second old.
func (q *Queue) CheckSpace(declared int64) error {
	free, err := q.space.get(q.Space)
	if err != nil {
		return status.New(status.StoreDown, err)
	}
	if free < q.cfg.MinFree+declared {
		return status.Errorf(status.MailSystemFull, "%d octets free, %d wanted and %d kept free", free, declared, q.cfg.MinFree)
	}
	return nil
}

type spaceMemo struct {
	mu   sync.Mutex
	free int64
	at   time.Time
}

func (m *spaceMemo) get(s Space) (int64, error) {
	if s == nil {
		return 1 << 62, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.at) < time.Second {
		return m.free, nil
	}
	free, err := s.FreeOctets()
	if err == nil {
		m.free, m.at = free, time.Now()
	}
	return free, err
}

// Submission is a message to be accepted.
type Submission struct {
	ID       mail.QueueID
	Envelope mail.Envelope
	Content  store.Staged
	// ReceivedFrom says where it came from, for the reports about it.
	ReceivedFrom string
	// Hold keeps it from delivery until an operator releases it.
	Hold bool
	// Event is what the audit shall hold of the acceptance beside the
	// envelope: session, login, message-id.
	Event mail.Event
}

// Accept makes the message ours: when it returns nil the message and its
// recipients are on stable storage, and only then may the caller answer 250.
// Errors are transient: status.MailSystemFull, status.StoreDown.
func (q *Queue) Accept(ctx context.Context, s Submission) error {
	m, groups := q.split(s)
	b := store.NewBatch()
	q.addMessage(b, m, groups, s.Content)
	if err := q.commit(ctx, b); err != nil {
		return fmt.Errorf("accept %s: %w", s.ID, err)
	}
	q.counts.accepted.Add(1)
	q.counts.messages.Add(1)
	for n, g := range groups {
		if !g.held {
			q.ready.offer(groupRef{m.id, uint32(n)}, m, g)
		}
	}
	q.auditAccept(s, m)
	return nil
}

// addMessage puts a whole message with its groups into a batch.
func (q *Queue) addMessage(b *store.Batch, m *message, groups []*group, content store.Staged) {
	key := messageKey(m.id)
	b.IfAbsent(key)
	q.Blobs.Link(b, content)
	b.Put(key, m.encode())
	for n, g := range groups {
		b.Put(groupKey(m.id, uint32(n)), g.encode())
		if !g.held {
			b.Put(dueKey(g.due, m.id, uint32(n)), nil)
		}
	}
}

// split sorts a submission's recipients into groups.
func (q *Queue) split(s Submission) (*message, []*group) {
	now := time.Now()
	envelope := s.Envelope
	envelope.Recipients = nil
	m := &message{id: s.ID, envelope: envelope, content: s.Content.Ref(), arrived: now, from: s.ReceivedFrom}
	transport := *q.transport.Load()
	var groups []*group
	open := make(map[string]*group)
	size := make(map[*group]int)
	for _, r := range s.Envelope.Recipients {
		destination := transport.Destination(r)
		octets := len(r.Address.Local) + len(r.Address.Domain) + len(r.Original) + len(r.Accepted.Local) + len(r.Accepted.Domain) + 32
		g := open[destination]
		if g == nil || len(g.recipients) == maxGroupRecipients || size[g]+octets > maxGroupOctets {
			g = &group{destination: destination, due: now, held: s.Hold}
			if s.Hold {
				g.due = time.Time{}
			}
			open[destination] = g
			groups = append(groups, g)
		}
		g.recipients = append(g.recipients, r)
		size[g] += octets
	}
	m.groups = uint32(len(groups))
	return m, groups
}

func (q *Queue) auditAccept(s Submission, m *message) {
	if q.Audit == nil {
		return
	}
	e := s.Event
	e.Kind, e.Result, e.Queue = mail.EventAccept, "ok", s.ID
	e.From = &m.envelope.ReversePath
	e.Octets = m.content.Octets
	for _, r := range s.Envelope.Recipients {
		e.To = append(e.To, r.Address)
	}
	q.Audit.Record(e)
}

// commit turns the store's errors into what a peer may be told.
func (q *Queue) commit(ctx context.Context, b *store.Batch) error {
	_, err := q.Store.Commit(ctx, b)
	if errors.Is(err, store.ErrUnknown) {
		_, err = q.Store.Commit(ctx, b)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrFull):
		return status.New(status.MailSystemFull, err)
	case errors.Is(err, store.ErrTooLarge):
		return status.New(status.TooManyRecipients, err)
	default:
		return status.New(status.StoreDown, err)
	}
}

// lockMessage serialises what ends groups of one message.
func (q *Queue) lockMessage(id mail.QueueID) *sync.Mutex {
	var h uint32
	if len(id) >= 4 {
		h = binary.BigEndian.Uint32([]byte(id[len(id)-4:])) * 2654435761
	}
	return &q.groupLock[h>>26]
}

// ParseID reads a queue id as a person types it.
func ParseID(s string) (mail.QueueID, error) {
	id := strings.ToUpper(strings.TrimSpace(s))
	if len(id) != 13 || strings.Trim(id, idAlphabet) != "" {
		return "", fmt.Errorf("%q is not a queue id; one looks like %s", s, "01M3Q8XKZ7W2A")
	}
	return mail.QueueID(id), nil
}

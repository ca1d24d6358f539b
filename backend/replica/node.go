package replica

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// Config is how a node replicates. Zero fields mean the defaults.
type Config struct {
	// Mode is where a change must be before its client is answered, unless the
	// caller asks otherwise. Default: semi-sync.
	Mode Durability
	// SemiSyncWait is how long an answer waits for the partner in semi-sync
	// mode. Default: 2 s.
	SemiSyncWait time.Duration
	// StrictWait is how long it waits in strict mode. Default: 10 s.
	StrictWait time.Duration
	// AttachWait is how long the opening of an account waits for its attachment,
	// so that its UIDs go on without a gap. Default: 250 ms; negative: not at all.
	AttachWait time.Duration
	// Dir is where parts of bodies and records in quarantine are kept.
	Dir string
	// Workers is how many accounts are worked at once. Default: 4.
	Workers int
	// Bootstraps is how many accounts are brought over at once while this node
	// has not all of them. Default: 4.
	Bootstraps int
	// ScrubInterval is the time between readings of all bodies. Default: 7 days;
	// negative: only when asked for.
	ScrubInterval time.Duration
	// ScrubOctets is how much of them is read in a second. Default: 8 MiB.
	ScrubOctets int64
	Limits      Limits
}

func (c Config) withDefaults() Config {
	if c.Mode == mailstore.DurabilityDefault {
		c.Mode = mailstore.DurabilitySemiSync
	}
	defaultTo(&c.SemiSyncWait, 2*time.Second)
	defaultTo(&c.StrictWait, 10*time.Second)
	if c.AttachWait == 0 {
		c.AttachWait = 250 * time.Millisecond
	}
	defaultTo(&c.Workers, 4)
	defaultTo(&c.Bootstraps, 4)
	if c.ScrubInterval == 0 {
		c.ScrubInterval = 7 * 24 * time.Hour
	}
	defaultTo(&c.ScrubOctets, 8<<20)
	c.Limits = c.Limits.withDefaults()
	return c
}

// Auditor takes down what the pair resolved or could not.
type Auditor interface{ Record(mail.Event) }

// Deps are what a node works with. They stay the caller's.
type Deps struct {
	Mail   *mailstore.Store
	KV     store.Store // under Mail
	Blobs  Blobs       // under Mail
	Audit  Auditor
	Log    hclog.Logger
	Metric prometheus.Registerer // nil counts nowhere
}

// Node is this server's end of a pair. It implements mailstore.Partner. Safe for
// concurrent use.
type Node struct {
	cfg    Config
	deps   Deps
	log    hclog.Logger
	class  uint8
	memory *memory
	spool  *spool
	counts *counts
	drawn  atomic.Uint64 // attachments, so that no two have one number
	ctx    context.Context
	end    context.CancelFunc

	mu       sync.Mutex
	link     Link // nil while there is none
	greeted  bool // the partner said hello over it
	early    []earlyFrame
	degrades bool // an answer was given without the partner since the link came up
	since    time.Time
	lastPeer Peer
	hello    hello // the partner's last
	runners  map[mailstore.GUID]*runner
	queues   [Classes][]*runner
	turns    uint64
	wake     *sync.Cond
	parked   map[*runner]bool // waits for room on the link
	closed   bool
	stale    string // why this node must not serve
	// peerStale says why the partner on the link takes no part; "" when it does.
	peerStale string
	fetches   map[store.Hash]*fetch
	strap     bootstrap
	list      accountList
	jobs      chan func(context.Context) // what Run does beside the accounts
	scrub     scrubbing
}

// New returns the node of a pair. Nothing happens before Run and Up.
func New(ctx context.Context, cfg Config, deps Deps) (*Node, error) {
	n := &Node{
		cfg: cfg.withDefaults(), deps: deps, log: deps.Log, class: uint8(deps.Mail.Origin().Node() & 1),
		runners: make(map[mailstore.GUID]*runner), parked: make(map[*runner]bool),
		fetches: make(map[store.Hash]*fetch), jobs: make(chan func(context.Context), 1024),
	}
	n.wake = sync.NewCond(&n.mu)
	n.ctx, n.end = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if n.spool, err = openSpool(filepath.Join(n.cfg.Dir, "parts")); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if n.memory, err = openMemory(ctx, deps.KV, deps.Mail.Origin()); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	n.stale = n.memory.staleWhy()
	if n.counts, err = newCounts(deps.Metric, n); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return n, nil
}

// Run works until ctx ends. What was committed by then is in the journal; what
// the partner lacks of it is found again when the link comes up.
func (n *Node) Run(ctx context.Context) error {
	var all sync.WaitGroup
	stop := context.AfterFunc(ctx, n.stop)
	defer stop()
	for range n.cfg.Workers {
		all.Go(n.worker)
	}
	all.Go(func() { n.doJobs(n.ctx) })
	all.Go(func() { n.scrubNowAndThen(n.ctx) })
	all.Wait()
	return nil
}

func (n *Node) stop() {
	n.end()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.wake.Broadcast()
	for _, r := range n.runners {
		r.release(errStopping)
	}
}

var errStopping = errors.New("the server is stopping")

// doJobs runs what belongs to no account, one after the other.
func (n *Node) doJobs(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-n.jobs:
			job(ctx)
		}
	}
}

// job queues one. A partner that asks for too much is cut off.
func (n *Node) job(fn func(context.Context)) {
	select {
	case n.jobs <- fn:
	default:
		n.mu.Lock()
		link := n.link
		n.mu.Unlock()
		if link != nil {
			link.Close("too much was asked for at once")
		}
	}
}

// worker gives one account after the other its turn.
func (n *Node) worker() {
	for {
		r := n.next()
		if r == nil {
			return
		}
		r.turn(n.ctx)
	}
}

// next waits for an account that has something to do. The more urgent class
// goes first, except that every eighth turn is the last one's.
func (n *Node) next() *runner {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if n.closed {
			return nil
		}
		n.turns++
		for i := range n.queues {
			class := i
			if n.turns%8 == 0 {
				class = Classes - 1 - i
			}
			if q := n.queues[class]; len(q) > 0 {
				n.queues[class] = q[1:]
				if len(q) == 1 {
					n.queues[class] = nil
				}
				return q[0]
			}
		}
		n.turns--
		n.wake.Wait()
	}
}

// enqueue puts an account at the end of its queue.
func (n *Node) enqueue(r *runner, class Class) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queues[class] = append(n.queues[class], r)
	n.wake.Signal()
}

// runner returns the account's, made when there is a link to use it.
func (n *Node) runner(id mailstore.GUID, name string) *runner {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runnerLocked(id, name)
}

func (n *Node) runnerLocked(id mailstore.GUID, name string) *runner {
	r := n.runners[id]
	if r == nil && n.link != nil && n.greeted && n.stale == "" && !n.closed {
		r = newRunner(n, id, name, n.link)
		n.runners[id] = r
	}
	return r
}

// existing returns the account's runner, or nil.
func (n *Node) existing(id mailstore.GUID) *runner {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runners[id]
}

// all returns the accounts that have a runner.
func (n *Node) all() []*runner {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*runner, 0, len(n.runners))
	for _, r := range n.runners {
		all = append(all, r)
	}
	return all
}

// Linked reports whether the partner can be reached now.
func (n *Node) Linked() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link != nil && n.greeted
}

// replicaAccount is a mailstore.Replica as an Account.
type replicaAccount struct{ *mailstore.Replica }

// AccountOf returns the account that a channel replicates.
func AccountOf(r *mailstore.Replica) Account { return replicaAccount{r} }

// openAccount opens an account, which need not exist yet when its name is known.
func (n *Node) openAccount(ctx context.Context, id mailstore.GUID, name string) (replicaAccount, error) {
	r, err := n.deps.Mail.Replica(ctx, id, name)
	return replicaAccount{r}, err
}

// Pull implements Account.
func (r replicaAccount) Pull(ctx context.Context, deep bool) (Puller, error) {
	p, err := r.Replica.Pull(ctx)
	if err != nil {
		return nil, err
	}
	p.Deep = deep
	return p, nil
}

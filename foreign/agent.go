package foreign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/store"
)

// Deps are what an Agent stands on.
type Deps struct {
	Store   store.Store
	Audit   auditor
	Metrics prometheus.Registerer // nil for none
	Log     hclog.Logger
}

// Agent keeps mirrors in step. It is safe for concurrent use.
type Agent struct {
	mirrors []Config
	deps    Deps
	metrics *metrics
	step    func(string) // of workers, for tests; nil for none

	mu      sync.Mutex
	workers map[[2]string]*running // by mirror and account
}

// running is a worker and what stops it.
type running struct {
	*worker
	stop context.CancelFunc
}

// New returns an Agent of mirrors, whose names differ. Run it.
func New(mirrors []Config, deps Deps) (*Agent, error) {
	seen := make(map[string]bool)
	for i, m := range mirrors {
		switch {
		case m.Name == "" || len(m.Name) > 200:
			return nil, fmt.Errorf("mirror %q: the name is empty or too long", m.Name)
		case seen[m.Name]:
			return nil, fmt.Errorf("mirror %q: the name is taken", m.Name)
		case m.Accounts == nil:
			return nil, fmt.Errorf("mirror %q: no accounts", m.Name)
		}
		seen[m.Name] = true
		mirrors[i] = m.withDefaults()
	}
	a := &Agent{mirrors: mirrors, deps: deps, metrics: newMetrics(deps.Metrics), workers: make(map[[2]string]*running)}
	if deps.Metrics != nil {
		deps.Metrics.MustRegister(a)
	}
	return a, nil
}

// Run keeps the mirrors in step until ctx ends. It fails only when the state
// cannot be kept.
func (a *Agent) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, m := range a.mirrors {
		all.Go(func() { a.mirror(ctx, m) })
	}
	all.Wait()
	return nil
}

// turns share the places of a mirror among its accounts.
type turns struct {
	places  chan struct{}
	waiting atomic.Int64
}

func (t *turns) take(ctx context.Context) error {
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	select {
	case t.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *turns) give() { <-t.places }

// mirror runs a worker for each account there is.
func (a *Agent) mirror(ctx context.Context, m Config) {
	log := a.deps.Log.With("mirror", m.Name)
	places := &turns{places: make(chan struct{}, m.MaxAccounts)}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		accounts, err := m.Accounts(ctx)
		if err != nil {
			log.Error("the accounts cannot be read; those known go on", "err", err)
		} else {
			a.employ(ctx, m, accounts, places, log, &all)
		}
		if sleep(ctx, m.AccountsInterval) != nil {
			return
		}
	}
}

// employ starts workers for accounts that have none and stops those of others.
func (a *Agent) employ(ctx context.Context, m Config, accounts []Account, places *turns, log hclog.Logger, all *sync.WaitGroup) {
	a.mu.Lock()
	defer a.mu.Unlock()
	listed := make(map[string]Account, len(accounts))
	for _, acct := range accounts {
		listed[acct.Name] = acct
	}
	for key, w := range a.workers {
		if acct, ok := listed[key[1]]; key[0] == m.Name && (!ok || acct != w.acct) {
			w.stop()
		}
	}
	for name, acct := range listed {
		key := [2]string{m.Name, name}
		if a.workers[key] != nil {
			continue // one that was stopped is looked at again in the next interval
		}
		w := a.worker(m, acct, log)
		own, stop := context.WithCancel(ctx)
		a.workers[key] = &running{w, stop}
		all.Go(func() {
			defer stop()
			w.run(own, places)
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.workers, key)
		})
	}
}

func (a *Agent) worker(m Config, acct Account, log hclog.Logger) *worker {
	w := &worker{
		cfg: m, acct: acct, book: newBook(a.deps.Store, m.Name, acct.Name), audit: a.deps.Audit, log: log.With("account", acct.Name),
		count: a.metrics.of(m.Name), poke: make(chan order, 1), at: a.step,
	}
	w.report.lag = w.count.lag
	w.report.state = StateWaiting
	return w
}

// minTurn is how long an account keeps its place while others wait for one.
const minTurn = 10 * time.Second

// run keeps an account in step until ctx ends.
func (w *worker) run(ctx context.Context, places *turns) {
	failures := 0
	for ctx.Err() == nil {
		if places.take(ctx) != nil {
			return
		}
		began := time.Now()
		err := w.session(ctx, func() bool { return places.waiting.Load() > 0 && time.Since(began) > minTurn })
		places.give()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			w.report.phase(StateWaiting)
			continue
		}
		if time.Since(began) > 2*w.cfg.RetryMax {
			failures = 0
		}
		w.pause(ctx, err, failures)
		failures++
	}
}

// pause waits after a failure; longer after more of them, less when asked to run.
func (w *worker) pause(ctx context.Context, err error, failures int) {
	state, d := StateRetrying, w.cfg.RetryMin
	for range min(failures, 20) {
		d = min(2*d, w.cfg.RetryMax)
	}
	if r := (refusal{}); errors.As(err, &r) {
		state, d = StateRefused, w.cfg.RetryMax
	}
	d = jitter(d)
	side := "state"
	var where *sideError
	if errors.As(err, &where) {
		side = where.side.String()
	}
	w.count.failures.WithLabelValues(side).Inc()
	w.report.failed(state, err, time.Now().Add(d))
	w.log.Warn("not in step", "err", err, "again", d.Round(time.Millisecond))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case o := <-w.poke:
		if err := w.open(ctx); err == nil {
			w.obey(ctx, o)
		} else if o.done != nil {
			o.done <- err
		}
	}
}

// ErrUnknownAccount means that no such account is mirrored.
var ErrUnknownAccount = errors.New("no such account is mirrored here")

// Status tells how the accounts of a mirror do, "" for all, by their names. Those
// that match account alone where it is not "".
func (a *Agent) Status(mirror, account string) []AccountStatus {
	var all []AccountStatus
	for _, key := range a.keys(mirror, account) {
		a.mu.Lock()
		w := a.workers[key]
		a.mu.Unlock()
		if w == nil {
			continue
		}
		s := w.report.status()
		s.Mirror, s.Account = key[0], key[1]
		all = append(all, s)
	}
	return all
}

func (a *Agent) keys(mirror, account string) [][2]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := slices.Collect(maps.Keys(a.workers))
	keys = slices.DeleteFunc(keys, func(k [2]string) bool {
		return mirror != "" && k[0] != mirror || account != "" && k[1] != account
	})
	slices.SortFunc(keys, func(x, y [2]string) int { return strings.Compare(x[0]+"\x00"+x[1], y[0]+"\x00"+y[1]) })
	return keys
}

// SyncNow has an account looked at in full at once.
func (a *Agent) SyncNow(ctx context.Context, mirror, account string) error {
	return a.order(ctx, mirror, account, order{kind: "run"})
}

// Pair has a mailbox of an account, "" for all, compared as a whole once more.
func (a *Agent) Pair(ctx context.Context, mirror, account, mailbox string) error {
	return a.order(ctx, mirror, account, order{kind: "pair", box: mailbox})
}

// Confirm lets the removals that are held back be done.
func (a *Agent) Confirm(ctx context.Context, mirror, account string) error {
	return a.order(ctx, mirror, account, order{kind: "confirm"})
}

// Restore copies back what is gone, instead of removing what is left of it.
func (a *Agent) Restore(ctx context.Context, mirror, account string) error {
	return a.order(ctx, mirror, account, order{kind: "restore"})
}

// order hands an order to the workers it is for, and waits until each took it.
func (a *Agent) order(ctx context.Context, mirror, account string, o order) error {
	keys := a.keys(mirror, account)
	if len(keys) == 0 {
		return ErrUnknownAccount
	}
	var all error
	for _, key := range keys {
		a.mu.Lock()
		w := a.workers[key]
		a.mu.Unlock()
		if w == nil {
			continue
		}
		if err := w.ask(ctx, o); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", key[1], err))
		}
	}
	return all
}

func (w *worker) ask(ctx context.Context, o order) error {
	done := make(chan error, 1)
	o.done = done
	select {
	case w.poke <- o:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

package foreign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/mail"
)

// auditor is where it is recorded what nobody asked for.
type auditor interface{ Record(mail.Event) }

// worker keeps one account in step. All but its report belong to the goroutine
// of run.
type worker struct {
	cfg   Config
	acct  Account
	book  *book
	audit auditor
	log   hclog.Logger
	count *counters
	// at is told of each step before it is done; nil for nobody.
	at func(step string)

	links    [2]*link
	boxes    map[uint64]*mailbox
	record   accountRecord
	all      bool            // look at everything in the next pass
	dirty    map[uint64]bool // look at these
	lastFull time.Time
	nextTry  time.Time // of the first message that was refused; zero for none
	// seen is where each mailbox stood when the last pass selected it, and
	// rechecks how often that was held against STATUS since the last wait.
	seen     map[uint64][2]imap.Status
	rechecks int
	full     [2]bool // the side refused a message for lack of room, in this pass

	poke   chan order
	report report
}

// order is what an operator asks a worker.
type order struct {
	kind string // run, pair, confirm, restore
	box  string // pair: a mailbox; "" for all
	done chan<- error
}

func (w *worker) step(name string) {
	if w.at != nil {
		w.at(name)
	}
}

// open reads the state.
func (w *worker) open(ctx context.Context) error {
	boxes, err := load[mailbox](ctx, w.book, keyMailbox)
	if err != nil {
		return err
	}
	w.boxes = make(map[uint64]*mailbox, len(boxes))
	for _, m := range boxes {
		w.boxes[m.ID] = m
	}
	w.record, err = w.book.account(ctx)
	w.all, w.dirty = true, make(map[uint64]bool)
	return err
}

// session connects, and keeps the account in step until something fails, ctx
// ends or yield says that others wait for our place.
func (w *worker) session(ctx context.Context, yield func() bool) error {
	defer w.disconnect()
	w.report.phase(StateConnecting)
	if err := w.open(ctx); err != nil {
		return err
	}
	for _, s := range sides {
		l, err := connect(ctx, w.cfg.Servers[s], s, w.acct.Logins[s])
		if err != nil {
			return err
		}
		w.links[s] = l
	}
	w.report.watching(w.links[Left].watch, w.links[Right].watch)
	w.report.phase(StateSyncing)
	if err := w.recover(ctx); err != nil {
		return err
	}
	for idle := 0; ; {
		again, err := w.pass(ctx)
		if err != nil {
			return err
		}
		if !again {
			idle = 0
			if err := w.inStep(ctx); err != nil || yield() {
				return err
			}
			if err := w.wait(ctx); err != nil {
				return err
			}
			continue
		}
		// What could not be done at once changed under our hands: soon again.
		if idle++; idle > 3 {
			if err := sleep(ctx, w.cfg.RetryMin); err != nil {
				return err
			}
		}
	}
}

func (w *worker) disconnect() {
	for s, l := range w.links {
		if l != nil {
			_ = l.Close() // whatever it says, it is gone
		}
		w.links[s] = nil
	}
}

// inStep notes that both sides agree.
func (w *worker) inStep(ctx context.Context) error {
	now := time.Now()
	if now.Sub(w.record.InStep) > time.Minute || w.record.Confirmed > 0 || w.record.Restore {
		w.record.InStep = now
		e := w.book.write()
		e.account(w.record)
		if err := e.commit(ctx); err != nil {
			return err
		}
	}
	return w.tell(ctx)
}

// tell brings the report up to date.
func (w *worker) tell(ctx context.Context) error {
	rows := make([]MailboxStatus, 0, len(w.boxes))
	var next time.Time
	for _, m := range w.boxes {
		n, err := w.book.count(ctx, m.ID)
		if err != nil {
			return err
		}
		row := MailboxStatus{Name: m.Name, Messages: n, Pairings: m.Pairings, InStep: m.InStep, Trouble: m.Trouble, Since: m.Since}
		for _, s := range w.froms() { // what is on the right alone is not to be copied left-to-right
			left, err := w.book.waitings(ctx, m.ID, s)
			if err != nil {
				return err
			}
			row.Waiting[s] = len(left)
			for _, uid := range slices.Sorted(maps.Keys(left)) {
				l := left[uid]
				if next.IsZero() || l.Next.Before(next) {
					next = l.Next
				}
				if l.Tries > 0 && row.Trouble == "" {
					row.Trouble = "messages wait: " + l.Reason
				}
			}
		}
		if row.Trouble == "" && row.Waiting == [2]int{} {
			row.InStep = time.Now() // it need not have been opened for that
		}
		rows = append(rows, row)
	}
	w.nextTry = next
	w.report.told(rows)
	return nil
}

// wait returns when there is something to look at.
func (w *worker) wait(ctx context.Context) error {
	for _, s := range sides {
		if err := w.links[s].leave(ctx); err != nil {
			return err
		}
	}
	if err := w.recheck(ctx); err != nil {
		return err
	}
	patience := w.patience()
	for _, l := range w.links {
		l.Arm()
	}
	if !w.anything() && !w.ordered(ctx) {
		w.rechecks = 0
		if err := w.listen(ctx, patience); err != nil {
			return err
		}
	}
	for _, s := range sides {
		w.heed(s, w.links[s].Events())
	}
	w.ordered(ctx)
	if time.Since(w.lastFull) >= patience {
		w.all = true
	}
	return ctx.Err()
}

// maxRechecks bounds how often a server is asked whose SELECT and STATUS never
// agree.
const maxRechecks = 5

// recheck finds what changed in a mailbox while it was selected, of which NOTIFY
// does not tell: from here on it is not selected any more.
func (w *worker) recheck(ctx context.Context) error {
	if w.rechecks++; w.rechecks > maxRechecks {
		return nil
	}
	for id, was := range w.seen {
		m := w.boxes[id]
		if m == nil {
			continue
		}
		for _, s := range w.froms() {
			is, err := w.links[s].Status(ctx, m.Raw[s])
			if _, refused := imap.Refused(err); refused {
				w.all = true
				continue
			}
			if err != nil {
				return on(s, err)
			}
			if is.UIDValidity != was[s].UIDValidity || is.ModSeq != was[s].ModSeq || is.UIDNext != was[s].UIDNext {
				w.dirty[id] = true
			}
		}
	}
	return nil
}

// patience is how long we believe servers that say nothing.
func (w *worker) patience() time.Duration {
	d := w.cfg.Interval
	if w.links[Left].watch == watchNotify && (w.links[Right].watch == watchNotify || w.cfg.Direction == LeftToRight) {
		d *= 10
	}
	if next := w.nextTry; !next.IsZero() {
		d = max(min(d, time.Until(next)), w.cfg.RetryMin)
	}
	return d
}

func (w *worker) anything() bool {
	for _, s := range sides {
		e := w.links[s].Events()
		w.heed(s, e)
	}
	return w.all || len(w.dirty) > 0
}

// listen waits on both sides at once; the first that tells wakes the other.
func (w *worker) listen(ctx context.Context, patience time.Duration) error {
	var all sync.WaitGroup
	var errs [2]error
	over := make(chan struct{})
	var once sync.Once
	wake := func() {
		once.Do(func() { close(over) })
		for _, l := range w.links {
			l.Wake()
		}
	}
	for _, s := range sides {
		all.Go(func() {
			defer wake()
			errs[s] = on(s, w.links[s].hear(ctx, patience))
		})
	}
	var pending *order
	select {
	case o := <-w.poke:
		pending = &o
		wake()
	case <-over:
	}
	all.Wait()
	if pending != nil {
		w.obey(ctx, *pending)
	}
	return errors.Join(errs[Left], errs[Right])
}

func (l *link) hear(ctx context.Context, patience time.Duration) error {
	if l.watch == watchIdle {
		return l.Idle(ctx, min(patience, 25*time.Minute)) // RFC 2177: again before 29 minutes
	}
	return l.Listen(ctx, patience)
}

// heed turns what a server told into what to look at.
func (w *worker) heed(s Side, e imap.Events) {
	if s == Right && w.cfg.Direction == LeftToRight {
		return
	}
	if e.Lost || e.List {
		w.all = true
	}
	for raw := range e.Mailboxes {
		if m := w.byRaw(s, raw); m != nil {
			w.dirty[m.ID] = true
		} else {
			w.all = true
		}
	}
	if m := w.byRaw(s, "INBOX"); e.Selected && m != nil && w.links[s].watch == watchIdle {
		w.dirty[m.ID] = true
	}
	if e.Any() {
		w.report.heard()
	}
}

func (w *worker) byRaw(s Side, raw string) *mailbox {
	for _, m := range w.boxes {
		if m.Raw[s] == raw {
			return m
		}
	}
	return nil
}

// ordered obeys an operator who waits, if any.
func (w *worker) ordered(ctx context.Context) bool {
	select {
	case o := <-w.poke:
		w.obey(ctx, o)
		return true
	default:
		return false
	}
}

func (w *worker) obey(ctx context.Context, o order) {
	err := w.carryOut(ctx, o)
	if o.done != nil {
		o.done <- err
	}
}

func (w *worker) carryOut(ctx context.Context, o order) error {
	w.all = true
	e := w.book.write()
	switch o.kind {
	case "pair":
		found := false
		for _, m := range w.boxes {
			if o.box == "" || m.Name == o.box {
				found, m.Paired = true, false
				e.mailbox(m)
			}
		}
		if !found {
			return fmt.Errorf("there is no mailbox %q", o.box)
		}
	case "confirm", "restore":
		held := w.report.held()
		if held == 0 {
			return errors.New("nothing is held back")
		}
		w.record.Confirmed, w.record.Restore = held, o.kind == "restore"
		e.account(w.record)
	}
	return e.commit(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// jitter spreads what would else happen at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d)
}

// trouble notes what is wrong with a mailbox, or with "" that nothing is.
func (w *worker) trouble(ctx context.Context, m *mailbox, text string) error {
	if m.Trouble == text {
		return nil
	}
	m.Trouble, m.Since = text, time.Time{}
	if text != "" {
		m.Since = time.Now()
		w.log.Warn("mailbox", "mailbox", m.Name, "trouble", text)
	}
	e := w.book.write()
	e.mailbox(m)
	return e.commit(ctx)
}

// event records what nobody asked for.
func (w *worker) event(result, mailbox, detail string) {
	w.audit.Record(mail.Event{Kind: mail.EventMirror, Result: result, Service: w.cfg.Name, Login: w.acct.Name, Mailbox: mailbox, Detail: detail})
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// transport is a next hop that does what the test says and remembers.
type transport struct {
	// deliver answers for one recipient; nil delivers.
	deliver func(ctx context.Context, d mail.Delivery, r mail.Recipient) mail.Outcome

	mu         sync.Mutex
	deliveries []mail.Delivery
	done       map[mail.Address][]string // ids of the deliveries that were positive
}

func (t *transport) Destination(_ mail.Address, r mail.Recipient) string {
	if r.Route.Transport != "" {
		return r.Route.Transport + "/" + r.Route.NextHop
	}
	return string(r.Address.Domain)
}

func (t *transport) Deliver(ctx context.Context, d mail.Delivery) []mail.Outcome {
	t.mu.Lock()
	t.deliveries = append(t.deliveries, d)
	deliver := t.deliver
	t.mu.Unlock()
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	for i, r := range d.Envelope.Recipients {
		outcomes[i] = mail.Outcome{Class: mail.Delivered, Reply: status.Delivered.Reply(), FromPeer: true}
		if deliver != nil {
			outcomes[i] = deliver(ctx, d, r)
		}
		if outcomes[i].Class == mail.Delivered {
			t.mu.Lock()
			if t.done == nil {
				t.done = map[mail.Address][]string{}
			}
			t.done[r.Address] = append(t.done[r.Address], d.ID)
			t.mu.Unlock()
		}
	}
	return outcomes
}

// set changes what the next hop does while the queue runs.
func (t *transport) set(deliver func(context.Context, mail.Delivery, mail.Recipient) mail.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deliver = deliver
}

func (t *transport) attempts() []mail.Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]mail.Delivery(nil), t.deliveries...)
}

// delivered returns the ids of the deliveries that reached an address.
func (t *transport) delivered(to string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.done[mail.MustAddress(to)]...)
}

// Outcomes for tests.
var (
	fine    = mail.Outcome{Class: mail.Delivered, Reply: status.Delivered.Reply(), FromPeer: true}
	later   = mail.Outcome{Class: mail.Deferred, Reply: status.MailboxFull.Reply(), FromPeer: true}
	never   = mail.Outcome{Class: mail.Bounced, Reply: status.NoSuchUser.Reply(), FromPeer: true}
	offline = mail.Outcome{Class: mail.Deferred, Reply: status.ConnectionFailed.Reply()}
)

// reports writes reports that are easy to read back.
type reports struct {
	mu   sync.Mutex
	fail error
	long int // octets more than needed
	made []mail.Report
}

func (r *reports) Compose(w io.Writer, report mail.Report, now time.Time, id string) (mail.Envelope, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return mail.Envelope{}, r.fail
	}
	r.made = append(r.made, report)
	to := report.Envelope.ReversePath
	if report.Notice != mail.NoticeNone {
		to = report.Postmaster
	}
	_, err := fmt.Fprintf(w, "Subject: report %d on %s\r\n\r\n%s", report.Kind, report.QueueID, strings.Repeat("x", r.long))
	return mail.Envelope{Recipients: []mail.Recipient{{Address: to, Accepted: to, Notify: mail.NotifyNever}}}, err
}

func (r *reports) all() []mail.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]mail.Report(nil), r.made...)
}

// auditor remembers events as "event result queue".
type auditor struct {
	mu     sync.Mutex
	events []mail.Event
}

func (a *auditor) Record(e mail.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
}

// of lists what happened to a message.
func (a *auditor) of(id mail.QueueID) (list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Queue == id {
			list = append(list, string(e.Kind)+" "+e.Result)
		}
	}
	return list
}

// rig is a queue with everything around it.
type rig struct {
	*Queue
	t         testing.TB
	kv        store.Store
	blobs     store.Blobs
	transport *transport
	reports   *reports
	audit     *auditor
	// recipients knows who addresses of ours stand for; nil for none of ours.
	recipients Recipients
	cfg        Config
	stop       func()
	// killed says that its process is dead, which ends no queue well.
	killed bool
	// shared says that others have the store open too.
	shared bool
	// orphans says that the due entries of a damaged message that was deleted
	// may be left: they go when they are found.
	orphans bool
}

// newRig opens a queue over a store of its own; start runs it.
func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	kv, blobs := storetest.Open(t)
	return newRigOn(t, cfg, kv, blobs)
}

func newRigOn(t testing.TB, cfg Config, kv store.Store, blobs store.Blobs) *rig {
	t.Helper()
	r := &rig{t: t, kv: kv, blobs: blobs, transport: &transport{}, reports: &reports{}, audit: &auditor{}, cfg: cfg}
	r.reopen()
	return r
}

// reopen makes a new queue over the same store, as after a restart.
func (r *rig) reopen() {
	r.t.Helper()
	q, err := New(r.cfg, Deps{
		Store: r.kv, Blobs: r.blobs, Transport: r.transport, Reports: r.reports, Recipients: r.recipients, Audit: r.audit, Log: hclog.NewNullLogger(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Queue = q
}

// start runs the queue until halt or the end of the test.
func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	q := r.Queue
	go func() { ended <- q.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil && !r.killed {
				r.t.Error(err)
			}
			if !r.shared {
				r.check()
			}
		})
	}
	r.t.Cleanup(r.stop)
}

// check reports what Check finds; damage that a test does is for the test.
func (r *rig) check() {
	r.t.Helper()
	err := Check(context.Background(), r.kv, r.blobs, func(f Finding) {
		if f.Kind != FoundDamaged && !(f.Kind == FoundOrphan && r.orphans) {
			r.t.Errorf("found: %v", f)
		}
	}, new(atomic.Int64))
	if err != nil && !errors.Is(err, store.ErrClosed) {
		r.t.Errorf("check: %v", err)
	}
}

// restart ends the queue and opens it again.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.reopen()
	r.start()
}

const body = "Subject: test\r\n\r\nHello.\r\n"

// submit makes a submission with a body staged.
func (r *rig) submit(from string, to ...string) Submission {
	r.t.Helper()
	staged, err := r.Stage(context.Background(), strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	s := Submission{ID: NewID(), Content: staged}
	if from != "" {
		s.Envelope.ReversePath = mail.MustAddress(from)
	}
	for _, a := range to {
		s.Envelope.Recipients = append(s.Envelope.Recipients,
			mail.Recipient{Address: mail.MustAddress(a), Accepted: mail.MustAddress(a)})
	}
	return s
}

// accept queues a message.
func (r *rig) accept(from string, to ...string) mail.QueueID {
	r.t.Helper()
	s := r.submit(from, to...)
	if err := r.Accept(context.Background(), s); err != nil {
		r.t.Fatal(err)
	}
	return s.ID
}

// until polls for a condition. The time is for a machine that does much else.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s; %+v", what, r.Stats())
		}
		<-tick.C
	}
}

// empty waits for the queue to be done.
func (r *rig) empty() {
	r.t.Helper()
	r.until("an empty queue", func() bool { return r.Stats().Messages == 0 })
	r.nothingStored()
}

// nothingStored checks that nothing of the queue but its layout and counts, and
// no body, is left over, and that the counts say so.
func (r *rig) nothingStored() {
	r.t.Helper()
	for _, tag := range []byte{tag, 'b'} {
		if keys := r.ofMessages([]byte{tag}, []byte{tag + 1}); len(keys) > 0 {
			r.t.Errorf("left in the store: %q", keys)
		}
	}
	r.check()
}

// ofMessages returns the keys in a range that are not of the queue as a whole,
// nor of a pack that nothing lies in any more and that will be collected.
func (r *rig) ofMessages(lo, hi []byte) []string {
	r.t.Helper()
	return slices.DeleteFunc(r.keys(lo, hi), func(key string) bool {
		return strings.Contains("qc qv qs bl", key[:2])
	})
}

func (r *rig) keys(lo, hi []byte) (keys []string) {
	r.t.Helper()
	err := r.kv.View(context.Background(), func(v store.Snapshot) error {
		for pair, err := range v.Range(lo, hi, 0, false) {
			if err != nil {
				return err
			}
			keys = append(keys, string(pair.Key))
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return keys
}

// show returns a message, or its absence.
func (r *rig) show(id mail.QueueID) (Message, bool) {
	r.t.Helper()
	m, err := r.Show(context.Background(), id)
	if errors.Is(err, ErrNoMessage) {
		return m, false
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return m, true
}

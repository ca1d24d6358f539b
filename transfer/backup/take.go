package backup

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/transfer"
)

// Source is what a backup is taken of: a transfer.BackupClient.
type Source interface {
	Accounts(ctx context.Context) ([]transfer.KnownAccount, error)
	Photograph(ctx context.Context, account string, take func(raw []byte, r *transfer.Row) error) error
	Bodies(ctx context.Context, list []transfer.BodyRef, take func(b transfer.BodyRef, r io.Reader) error, gone func(b transfer.BodyRef, expunged bool, why string) error) error
}

// Options say what is taken, and how.
type Options struct {
	// Accounts are the identities of those to take, nil for all.
	Accounts []string
	// Full looks at each body whether it is there; otherwise what the runs before
	// name counts as there.
	Full bool
	// Rate bounds the octets read in a second; 0 for no bound.
	Rate int64
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Progress, unless nil, is told often.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Account        string
	Accounts, Done int
	Messages       int64
	// Octets are those of the messages that are done, Expected those of all.
	Octets, Expected int64
	// Bodies are new ones, Written their octets as written.
	Bodies, Written int64
}

// Result is what a run brought.
type Result struct {
	Run string
	Progress
	// Unchanged accounts had nothing new.
	Unchanged int
	// Lost are the messages that could not be read, or were expunged before they
	// were, the first 100 of them told in LostText.
	Lost     int
	LostText []string
	// Failed are the accounts that could not be read, and why.
	Failed []string
	Begun  time.Time
}

// How much is asked for at once, and how many write.
const (
	bodiesAtOnce  = 500
	octetsAtOnce  = 32 << 20
	writers       = 8
	heldBody      = 1 << 20 // larger ones are not kept in memory
	tries         = 3       // photographs of an account that changes meanwhile
	checkpointGap = 20 * time.Second
)

// taking is a run under way.
type taking struct {
	*Repository
	source Source
	o      Options
	before map[string]RunAccount
	run    *runWriter
	result *Result
	limit  *limiter
	synced time.Time

	mu sync.Mutex // guards result.Bodies and result.Written
}

// Take makes a run. The caller holds the Lock. An error leaves it interrupted:
// what it has is found by the next.
func (r *Repository) Take(ctx context.Context, source Source, o Options) (_ *Result, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &taking{Repository: r, source: source, o: o, result: &Result{Begun: o.Now()}, limit: newLimiter(o.Rate), synced: o.Now()}
	known, err := source.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	if o.Accounts != nil {
		known = slices.DeleteFunc(known, func(a transfer.KnownAccount) bool { return !slices.Contains(o.Accounts, a.ID) })
	}
	slices.SortFunc(known, func(a, b transfer.KnownAccount) int { return strings.Compare(a.Name, b.Name) })
	if t.before, err = r.latest(); err != nil {
		return nil, err
	}
	for _, dir := range []string{bodiesName, accountsName, runsName} {
		if err := r.makeDir(filepath.Join(r.dir, dir)); err != nil {
			return nil, err
		}
	}
	if t.run, err = r.beginRun(t.result.Begun, o.Accounts == nil); err != nil {
		return nil, err
	}
	defer t.run.close()
	defer func() { // of a run that ends early the next one has what was written
		if settled := r.settle(); err == nil {
			err = settled
		}
	}()
	t.result.Run, t.result.Accounts = t.run.name, len(known)
	for _, a := range known {
		t.result.Expected += a.Octets
	}
	for _, a := range known {
		if err := t.take(ctx, a); err != nil {
			return t.result, fmt.Errorf("account %q: %w", a.Name, err)
		}
	}
	t.run.totals.Written = t.result.Written
	if err := t.run.finish(o.Now()); err != nil {
		return t.result, err
	}
	return t.result, r.forgetParts()
}

// latest finds what is written of each account last, also by runs that were
// interrupted: these are looked at less closely, since what they name is used
// only where it is whole.
func (r *Repository) latest() (map[string]RunAccount, error) {
	complete, parts, err := r.runFiles()
	if err != nil {
		return nil, err
	}
	latest := make(map[string]RunAccount)
	for _, file := range append(withSuffix(complete, runSuffix), withSuffix(parts, partSuffix)...) {
		run, err := r.readRun(file)
		if errors.Is(err, ErrDamaged) {
			continue // what it names is looked for body by body
		} else if err != nil {
			return nil, err
		}
		for _, a := range run.Accounts {
			if a.Failed == "" {
				latest[a.ID] = a
			}
		}
	}
	return latest, nil
}

func withSuffix(names []string, suffix string) (files []string) {
	for _, name := range names {
		files = append(files, name+suffix)
	}
	return files
}

// forgetParts removes what interrupted runs noted.
func (r *Repository) forgetParts() error {
	_, parts, err := r.runFiles()
	for _, name := range parts {
		if err := r.remove(r.runPath(name + partSuffix)); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return r.syncNames()
}

func (t *taking) tell(account string) {
	if t.o.Progress == nil {
		return
	}
	t.mu.Lock()
	t.result.Account = account
	p := t.result.Progress
	t.mu.Unlock()
	t.o.Progress(p)
}

// take brings one account in.
func (t *taking) take(ctx context.Context, known transfer.KnownAccount) error {
	t.tell(known.Name)
	before, there := t.before[known.ID]
	octets, messages := t.result.Octets, t.result.Messages
	var a RunAccount
	var err error
	if there && before.Position == known.Position && before.Lost == 0 && !t.o.Full && t.isThere(before) {
		a = before
		a.Name = known.Name
		t.result.Unchanged++
	} else {
		a, err = t.changed(ctx, known, before, there)
	}
	var refused *transfer.Refused
	if errors.As(err, &refused) {
		a = RunAccount{Name: known.Name, ID: known.ID, Taken: t.o.Now().UTC().Truncate(time.Second), Failed: refused.Text}
		t.result.Failed = append(t.result.Failed, known.Name+": "+refused.Text)
		err = nil
	}
	if err != nil {
		return err
	}
	t.result.Done++
	t.result.Octets, t.result.Messages = octets+known.Octets, messages+int64(a.Messages)
	t.result.Lost += a.Lost
	if err := t.run.account(a); err != nil {
		return err
	}
	if now := t.o.Now(); now.Sub(t.synced) > checkpointGap {
		t.synced = now
		return t.run.checkpoint()
	}
	return nil
}

// isThere reports whether a manifest can be opened. Whether it is whole verify
// finds out.
func (t *taking) isThere(a RunAccount) bool {
	f, err := t.read(t.manifestPath(a.ID, a.Manifest))
	if err != nil {
		return false
	}
	defer f.Close()
	n, err := f.Size()
	return err == nil && n > 0
}

// changed brings in an account that is not what it was.
func (t *taking) changed(ctx context.Context, known transfer.KnownAccount, before RunAccount, there bool) (RunAccount, error) {
	for try := 1; ; try++ {
		p, err := t.photograph(ctx, known, before, there)
		if err != nil {
			return RunAccount{}, err
		}
		lost, expunged, err := t.fetch(ctx, p)
		if err != nil {
			_, _, err := p.manifest.done(err)
			return RunAccount{}, err
		}
		if expunged && try < tries {
			_, _, err := p.manifest.done(errAgain)
			if !errors.Is(err, errAgain) {
				return RunAccount{}, err
			}
			continue
		}
		name, _, err := p.manifest.done(nil)
		if err == nil && len(lost) > 0 {
			name, err = t.without(known.ID, name, lost, p)
		}
		p.account.Manifest = name
		return p.account, err
	}
}

var errAgain = errors.New("the account changed meanwhile")

// photo is what was written of an account.
type photo struct {
	manifest *manifestWriter
	account  RunAccount
	// wanted are the bodies that may not be there.
	wanted []store.Ref
}

func (t *taking) photograph(ctx context.Context, known transfer.KnownAccount, before RunAccount, there bool) (*photo, error) {
	w, err := t.newManifest(known.ID)
	if err != nil {
		return nil, err
	}
	p := &photo{manifest: w, account: RunAccount{Name: known.Name, ID: known.ID}}
	old := new(follower)
	if there && !t.o.Full {
		if m, err := t.Repository.manifest(before.ID, before.Manifest); err == nil {
			old.rows = m
			defer m.Close()
		}
	}
	ended := false
	err = t.source.Photograph(ctx, known.ID, func(raw []byte, r *transfer.Row) error {
		switch {
		case r.Account != nil:
			p.account.Position, p.account.Taken = r.Account.Position, r.Account.Taken
		case r.Mailbox != nil:
			old.enter(r.Mailbox.ID)
		case r.Message != nil:
			t.result.Messages++
			ref, err := r.Message.Ref()
			if err != nil {
				return err
			}
			if !old.has(r.Message) {
				p.wanted = append(p.wanted, ref)
			} else {
				t.result.Octets += ref.Octets
			}
		case r.End != nil:
			ended = true
			p.account.Mailboxes, p.account.Messages, p.account.Octets = r.End.Mailboxes, r.End.Messages, r.End.Octets
		}
		return w.line(raw)
	})
	if err == nil && !ended {
		err = errors.New("the photograph ends too early")
	}
	if err != nil {
		_, _, err := w.done(err)
		return nil, err
	}
	return p, nil
}

// follower goes through the manifest before beside the one that is written: the
// mailboxes of both are in order, and so are their messages. Where the old one is
// damaged it knows nothing.
type follower struct {
	rows    *manifestReader
	mailbox string // where the message is that was read last
	message *transfer.MessageRow
	inside  string // where the new manifest is
}

func (f *follower) enter(mailbox string) { f.inside = mailbox }

// has reports whether the manifest before has the same message.
func (f *follower) has(m *transfer.MessageRow) bool {
	for f.rows != nil && m.UID != 0 {
		if f.message != nil {
			c := strings.Compare(f.mailbox, f.inside)
			if c > 0 || c == 0 && (f.message.UID > m.UID || f.message.UID == 0) {
				return false
			}
			if c == 0 && f.message.UID == m.UID {
				return f.message.Body == m.Body && f.message.Octets == m.Octets
			}
		}
		r, err := f.rows.next()
		if err != nil {
			f.rows = nil
			return false
		}
		switch {
		case r.Mailbox != nil:
			f.mailbox, f.message = r.Mailbox.ID, nil
		case r.Message != nil:
			f.message = r.Message
		default:
			if f.message != nil { // the rest has no messages
				f.rows = nil
			}
		}
	}
	return false
}

// fetch writes the bodies that are not there. lost are those that it could not,
// and why; expunged, that some were not there any more.
func (t *taking) fetch(ctx context.Context, p *photo) (lost map[store.Hash]string, expunged bool, err error) {
	w := newBodyWriter(t)
	lost = make(map[store.Hash]string)
	expunged, err = t.fetchWith(ctx, w, p, lost)
	// An error of our disk comes first: bodies of accounts before this one may have
	// waited for their names with those that failed, and what the other end says of
	// this one would have the run go on.
	if waited := w.wait(); waited != nil {
		err = waited
	}
	for h, why := range w.damaged {
		lost[h] = why
	}
	return lost, expunged, err
}

func (t *taking) fetchWith(ctx context.Context, w *bodyWriter, p *photo, lost map[store.Hash]string) (expunged bool, err error) {
	seen := make(map[store.Hash]bool)
	var ask []transfer.BodyRef
	octets := int64(0)
	flush := func() error {
		if len(ask) == 0 {
			return nil
		}
		t.tell(p.account.Name)
		err := t.source.Bodies(ctx, ask, func(b transfer.BodyRef, r io.Reader) error { return w.take(ctx, b, r) },
			func(b transfer.BodyRef, gone bool, why string) error {
				h, err := hashOf(b.Hash)
				lost[h], expunged = why, expunged || gone
				return err
			})
		ask, octets = ask[:0], 0
		if err == nil {
			err = w.failed()
		}
		return err
	}
	for _, ref := range p.wanted {
		t.result.Octets += ref.Octets
		if seen[ref.Hash] {
			continue
		}
		seen[ref.Hash] = true
		if there, err := t.keeps(ref.Hash); err != nil {
			return false, err
		} else if there {
			continue
		}
		ask = append(ask, transfer.BodyRef{Hash: hex.EncodeToString(ref.Hash[:]), Octets: ref.Octets})
		if octets += ref.Octets; len(ask) >= bodiesAtOnce || octets >= octetsAtOnce {
			if err := flush(); err != nil {
				return false, err
			}
		}
	}
	err = flush()
	return expunged, err
}

func hashOf(text string) (h store.Hash, err error) {
	if !isHex(text, 2*len(h)) {
		return h, fmt.Errorf("malformed name of a body %.80q", text)
	}
	_, err = hex.Decode(h[:], []byte(text))
	return h, err
}

// bodyWriter writes bodies, several at a time: most of that is waiting for the
// disk.
type bodyWriter struct {
	t     *taking
	queue chan heldBodyOf
	done  sync.WaitGroup

	mu  sync.Mutex
	err error
	// damaged are bodies that came otherwise than they are named.
	damaged map[store.Hash]string
}

type heldBodyOf struct {
	ref  store.Ref
	text []byte
}

func newBodyWriter(t *taking) *bodyWriter {
	w := &bodyWriter{t: t, queue: make(chan heldBodyOf, writers), damaged: make(map[store.Hash]string)}
	for range writers {
		w.done.Go(func() {
			for b := range w.queue {
				n, err := w.t.WriteBody(b.ref, bytes.NewReader(b.text))
				w.note(b.ref, n, err)
			}
		})
	}
	return w
}

// note takes in how writing a body ended.
func (w *bodyWriter) note(ref store.Ref, n int64, err error) {
	w.t.mu.Lock()
	if err == nil {
		w.t.result.Bodies++
		w.t.result.Written += n
	}
	w.t.mu.Unlock()
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, ErrDamaged):
		w.damaged[ref.Hash] = err.Error()
	case w.err == nil:
		w.err = err
	}
}

// take reads a body to its end. Its error is r's, or that of an earlier one.
func (w *bodyWriter) take(ctx context.Context, b transfer.BodyRef, r io.Reader) error {
	h, err := hashOf(b.Hash)
	if err != nil {
		return err
	}
	if err := w.failed(); err != nil {
		return err
	}
	if err := w.t.limit.wait(ctx, b.Octets); err != nil {
		return err
	}
	ref := store.Ref{Hash: h, Octets: b.Octets}
	if b.Octets > heldBody {
		failing := &noting{r: r}
		n, err := w.t.WriteBody(ref, failing)
		if failing.err != nil { // the other end's, who goes on
			return failing.err
		}
		w.note(ref, n, err)
		return w.failed()
	}
	text, err := io.ReadAll(io.LimitReader(r, b.Octets+1))
	if err != nil {
		return err
	}
	w.queue <- heldBodyOf{ref, text}
	return nil
}

// noting remembers the error that reading ended with.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.err = err
	}
	return k, err
}

func (w *bodyWriter) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil && fsx.IsFull(w.err) {
		return fmt.Errorf("the folder of the backup is full; what was written is used by the next run: %w", w.err)
	}
	return w.err
}

func (w *bodyWriter) wait() error {
	close(w.queue)
	w.done.Wait()
	return w.failed()
}

// without writes a manifest anew that says which messages could not be had.
func (t *taking) without(account, manifest string, lost map[store.Hash]string, p *photo) (string, error) {
	if err := t.settle(); err != nil { // it is read
		return "", err
	}
	m, err := t.Repository.manifest(account, manifest)
	if err != nil {
		return "", err
	}
	defer m.Close()
	w, err := t.newManifest(account)
	if err != nil {
		return "", err
	}
	var end transfer.EndRow
	for {
		r, err := m.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = t.leaveOut(w, r, lost, p, m.in, &end)
		}
		if err != nil {
			_, _, err = w.done(err)
			return "", err
		}
	}
	name, _, err := w.done(nil)
	if err == nil {
		err = t.remove(t.manifestPath(account, manifest))
	}
	return name, err
}

func (t *taking) leaveOut(w *manifestWriter, r *transfer.Row, lost map[store.Hash]string, p *photo, in *transfer.MailboxRow, end *transfer.EndRow) error {
	switch {
	case r.End != nil:
		r.End = end
	case r.Mailbox != nil:
		end.Mailboxes++
	case r.Message != nil:
		m := r.Message
		ref, err := m.Ref()
		if err != nil {
			return err
		}
		if why, is := lost[ref.Hash]; is {
			p.account.Lost++
			if len(t.result.LostText) < 100 {
				t.result.LostText = append(t.result.LostText, fmt.Sprintf("%s, mailbox %q, UID %d: %s", p.account.Name, in.Name, m.UID, why))
			}
			r = &transfer.Row{Lost: &transfer.LostRow{UID: m.UID, EmailID: m.EmailID, Body: m.Body, Octets: m.Octets, Why: why}}
		} else {
			end.Messages++
			end.Octets += m.Octets + int64(len(m.Trace))
		}
	}
	last := r.End != nil
	if last {
		p.account.Messages, p.account.Octets = end.Messages, end.Octets
	}
	if err := w.row(r); err != nil {
		return err
	}
	end.Rows++
	return nil
}

// limiter spreads octets over time.
type limiter struct {
	rate  int64
	begun time.Time
	spent int64
}

func newLimiter(rate int64) *limiter { return &limiter{rate: rate, begun: time.Now()} }

// wait returns when so many octets may be read.
func (l *limiter) wait(ctx context.Context, octets int64) error {
	if l.rate <= 0 {
		return ctx.Err()
	}
	due := l.begun.Add(time.Duration(float64(l.spent) / float64(l.rate) * float64(time.Second)))
	now := time.Now()
	if due.Before(now.Add(-time.Second)) { // what was not used is not saved up
		l.begun, l.spent, due = now, 0, now
	}
	l.spent += octets
	if !due.After(now) {
		return ctx.Err()
	}
	timer := time.NewTimer(due.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package mailstore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/store"
)

// Account is a handle on one account. It is safe for concurrent use until
// Close; Mailboxes opened through it are closed before it.
type Account struct {
	account *account
	closed  atomic.Bool
}

// Close gives the handle back. A second call does nothing.
func (a *Account) Close() {
	if a.closed.CompareAndSwap(false, true) {
		a.account.store.release(a.account)
	}
}

// Name is the account's canonical login.
func (a *Account) Name() string { return a.account.name }

// GUID is the account's identity.
func (a *Account) GUID() GUID { return a.account.id }

// Quota returns the octets in use and the limit, 0 for none.
func (a *Account) Quota() (used, limit int64) {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	return a.account.head.octets, a.account.quota.Load()
}

// account is what the handles share.
type account struct {
	store *Store
	id    GUID
	name  string
	quota atomic.Int64

	// users, idle and idleSize are guarded by Store.mu.
	users    int
	idle     *list.Element
	idleSize int

	// opening admits one goroutine at a time to open.
	opening chan struct{}
	opened  bool // set within opening

	queueMu sync.Mutex
	queue   []*request
	leading bool

	// stale is the leader's: what is in memory may differ from what is stored.
	stale bool
	// delivered is the leader's too.
	delivered delivered

	// What follows is changed only by the leader, under mu.
	mu         sync.RWMutex
	head       head
	headRecord []byte // as stored; nil before the account exists
	boxes      map[GUID]*box
	names      map[string]*box
	// subscriptions to names without a mailbox.
	subscriptions map[string]bool
}

func newAccount(s *Store, id GUID, name string) *account {
	return &account{
		store: s, id: id, name: name, opening: make(chan struct{}, 1),
		boxes: make(map[GUID]*box), names: make(map[string]*box), subscriptions: make(map[string]bool),
	}
}

// open reads the account, and creates it when it is not there yet.
func (a *account) open(ctx context.Context) error {
	select {
	case a.opening <- struct{}{}:
		defer func() { <-a.opening }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if a.opened {
		return nil
	}
	if err := a.load(ctx); err != nil {
		return err
	}
	if a.headRecord == nil {
		if err := a.changeAlone(ctx, a.create); err != nil {
			return err
		}
	}
	a.opened = true
	return nil
}

// create makes the account with INBOX and the configured mailboxes. Both
// nodes of a pair make the same.
func (a *account) create(t *txn) error {
	if a.headRecord != nil {
		return nil // somebody else did
	}
	t.adds = true
	t.batch.Put(accountKey(a.id, kindInfo), appendBlock([]byte{recordVersion}, a.name))
	configured := append([]ConfiguredMailbox{{Name: inbox}}, a.store.cfg.Mailboxes...)
	for _, m := range configured {
		t.createMailbox(configuredGUID(a.id, m.Name), mailboxRecord{
			name: m.Name, use: m.SpecialUse, subscribed: true, uidValidity: configuredUIDValidity(a.id, m.Name),
		})
	}
	return nil
}

// load reads the account's head and mailboxes, and again the messages of
// mailboxes that are in memory. Nobody else may lead meanwhile.
func (a *account) load(ctx context.Context) error {
	var h head
	var headRecord []byte
	records := make(map[GUID]mailboxRecord)
	subscriptions := make(map[string]bool)
	var known delivered
	err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(accountKey(a.id, kindHead))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		headRecord = slices.Clone(value)
		if h, err = decodeHead(value); err != nil {
			return err
		}
		if known, err = readDelivered(snap, a.id); err != nil {
			return err
		}
		return readTree(snap, a.id, records, subscriptions)
	})
	if err != nil {
		return fmt.Errorf("account %s: %w", a.id, err)
	}
	fresh := make(map[*box]*view)
	boxes := maps.Clone(a.boxes)
	for id, record := range records {
		b := boxes[id]
		if b == nil {
			b = newBox(a, id)
			boxes[id] = b
		}
		v := &view{mailboxRecord: record, guid: id}
		if old := b.current(); old.loaded {
			if err := a.loadMessages(ctx, v); err != nil {
				return err
			}
		}
		fresh[b] = v
	}
	a.install(h, headRecord, boxes, fresh, subscriptions)
	a.delivered = known
	return nil
}

// install puts in what was read, and tells those who look at a mailbox.
func (a *account) install(h head, headRecord []byte, boxes map[GUID]*box, fresh map[*box]*view, subscriptions map[string]bool) {
	names := make(map[string]*box)
	for id, b := range boxes {
		v := fresh[b]
		if v == nil {
			delete(boxes, id)
			gone := *b.current()
			gone.gone = true
			v = &gone
		} else {
			names[v.name] = b
		}
		b.publish(v)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head, a.headRecord, a.boxes, a.names, a.subscriptions = h, headRecord, boxes, names, subscriptions
}

// readTree reads mailboxes and subscriptions.
func readTree(snap store.Snapshot, account GUID, records map[GUID]mailboxRecord, subscriptions map[string]bool) error {
	prefix := accountKey(account, kindMailbox)
	for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return err
		}
		if len(pair.Key) != len(prefix)+16 {
			return fmt.Errorf("mailbox key: %w", errRecord)
		}
		record, err := decodeMailbox(pair.Value)
		if err != nil {
			return err
		}
		records[GUID(pair.Key[len(prefix):])] = record
	}
	prefix = accountKey(account, kindSubscription)
	for pair, err := range snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return err
		}
		subscriptions[string(pair.Key[len(prefix):])] = true
	}
	return nil
}

// loadPage is how many messages one read takes at most, to keep snapshots short.
const loadPage = 20_000

// loadMessages reads a mailbox's index into v.
func (a *account) loadMessages(ctx context.Context, v *view) error {
	prefix := mailboxKey(a.id, kindMessage, v.guid)
	from, end := prefix, above(prefix)
	v.list, v.keywords = messages{}, nil
	var delta map[string]keyword
	for more := true; more; {
		more = false
		err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
			n := 0
			var slab []Message
			for pair, err := range snap.Range(from, end, loadPage, false) {
				if err != nil {
					return err
				}
				if len(slab) == 0 {
					slab = make([]Message, min(chunkMessages, max(int(v.messages)-v.list.len(), 1)))
				}
				m := &slab[0]
				slab = slab[1:]
				if err := decodeMessage(m, uidOf(pair.Key), pair.Value); err != nil {
					return err
				}
				delta = addKeywords(delta, m.Keywords, 1)
				v.list.append(m)
				if n++; n == loadPage {
					from, more = append(slices.Clone(pair.Key), 0), true
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("mailbox %s: %w", v.guid, err)
		}
	}
	v.keywords = countKeywords(nil, delta)
	v.loaded = true
	return nil
}

// box finds a mailbox by its normalized name.
func (a *account) box(name string) (*box, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	b, ok := a.names[name]
	return b, ok
}

func (a *account) messagesInMemory() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n := 0
	for _, b := range a.boxes {
		n += b.current().list.len()
	}
	return n
}

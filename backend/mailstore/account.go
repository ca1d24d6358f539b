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

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/backend/mailstore/tree"
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

// account is what the handles share.
type account struct {
	store *Store
	id    GUID
	name  string
	// quota and quotaMessages are the limits, 0 for none.
	quota, quotaMessages atomic.Int64
	limitedAt            atomic.Int64 // when they were set, in nanoseconds

	// users, idle and idleSize are guarded by Store.mu.
	users    int
	idle     *list.Element
	idleSize int

	// summed: every mailbox has a kept digest; see sumMailboxes.
	summed atomic.Bool

	// opening admits one goroutine at a time to open.
	opening chan struct{}
	opened  bool // set within opening

	// virtual are the virtual mailboxes that somebody has open, nil for none; it
	// is replaced under virtualMu.
	virtualMu sync.Mutex
	virtual   atomic.Pointer[[]*virtualBox]

	queueMu sync.Mutex
	queue   []*request
	leading bool

	// stale is the leader's: what is in memory may differ from what is stored.
	stale bool
	// delivered is the leader's too.
	delivered delivered
	feed      feed
	// restoring is what the account is being restored from: then only who does
	// that may use it. Changed by the leader.
	restoring atomic.Pointer[string]
	// link is how the account stands to the partner, nil without one.
	link *link
	// registers is what all but the messages adds to the digest, nil until it
	// is asked for. The leader's, too.
	registers *[16]byte

	// What follows is changed only by the leader, under mu.
	mu         sync.RWMutex
	head       head
	headRecord []byte // as stored; nil before the account exists
	boxes      map[GUID]*box
	names      map[string]*box
	// subscriptions to names without a mailbox.
	subscriptions map[string]subscription
	// access holds the access control lists; maps and lists are never changed,
	// only replaced.
	access map[GUID]acl.List
	// tree is what the names were made of.
	tree tree.Names
	// waits are for messages whose UIDs are to come.
	waits map[Dot]chan imap.UID
}

func newAccount(s *Store, id GUID, name string) *account {
	return &account{
		store: s, id: id, name: name, opening: make(chan struct{}, 1),
		boxes: make(map[GUID]*box), names: make(map[string]*box), subscriptions: make(map[string]subscription),
	}
}

// open reads the account, if it is there.
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
	a.link = a.store.link(a.id)
	if err := a.load(ctx); err != nil {
		return err
	}
	a.opened = true
	return nil
}

// ensure creates the account when it is not there, or has been begun by the
// partner's records only.
func (a *account) ensure(ctx context.Context) error {
	if _, ok := a.box(inbox); ok {
		return nil
	}
	return a.changeAlone(ctx, a.create)
}

// create makes the account with INBOX and the configured mailboxes. Both
// nodes of a pair make the same.
func (a *account) create(t *txn) error {
	if a.names[inbox] != nil {
		return nil // somebody else did
	}
	t.adds = true
	t.batch.Put(accountKey(a.id, kindInfo), appendBlock([]byte{recordVersion}, a.name))
	configured := append([]ConfiguredMailbox{{Name: inbox}}, a.store.cfg.Mailboxes...)
	for _, m := range configured {
		if m.OnDemand || a.names[m.Name] != nil || a.boxes[configuredGUID(a.id, m.Name)] != nil {
			continue
		}
		t.createMailbox(configuredGUID(a.id, m.Name), mailboxRecord{
			leaf: m.Name, use: m.SpecialUse, subscribed: !m.Unsubscribed, uidValidity: configuredUIDValidity(a.id, m.Name),
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
	subscriptions := make(map[string]subscription)
	var names tree.Names
	var known delivered
	var access map[GUID]acl.List
	var from string
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
		if h.origin != 0 && h.origin != a.store.origin {
			return fmt.Errorf("%w: it was written by origin %x, this store is %x", errOrigin, uint64(h.origin), uint64(a.store.origin))
		}
		if known, err = readDelivered(snap, a.id); err != nil {
			return err
		}
		if access, err = a.store.readAccess(snap, a.id); err != nil {
			return err
		}
		if from, err = readRestoring(snap, a.id); err != nil {
			return err
		}
		names, err = readTree(snap, a.id, records, subscriptions)
		return err
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
		b.dots = nil
		v := &view{mailboxRecord: record, guid: id, gone: record.removed, loaded: record.removed}
		if a.link != nil {
			v.uids = a.link.boxes[id]
		}
		if old := b.current(); old.loaded && !v.loaded {
			if err := a.loadMessages(ctx, v); err != nil {
				return err
			}
		}
		if err := a.reloadReaders(ctx, b); err != nil {
			return err
		}
		fresh[b] = v
	}
	a.install(h, headRecord, boxes, fresh, subscriptions, names, access)
	a.delivered = known
	if a.restoring.Store(nil); from != "" {
		a.restoring.Store(&from)
	}
	a.wakeVirtual(true)
	a.feed.lose() // who looks then finds all of it
	return nil
}

// install puts in what was read, and tells those who look at a mailbox.
func (a *account) install(h head, headRecord []byte, boxes map[GUID]*box, fresh map[*box]*view, subscriptions map[string]subscription, resolved tree.Names, access map[GUID]acl.List) {
	names := make(map[string]*box)
	for id, b := range boxes {
		v := fresh[b]
		if v == nil {
			delete(boxes, id)
			gone := *b.current()
			gone.gone = true
			v = &gone
		} else if !v.gone {
			names[v.name] = b
		}
		b.publish(v)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head, a.headRecord, a.boxes, a.names, a.subscriptions, a.tree = h, headRecord, boxes, names, subscriptions, resolved
	a.access, a.registers = access, nil
	a.summed.Store(false)
}

// readTree reads mailboxes, deleted ones that are kept too, and subscriptions.
func readTree(snap store.Snapshot, account GUID, records map[GUID]mailboxRecord, subscriptions map[string]subscription) (tree.Names, error) {
	if err := readRegisters(snap, account, records, subscriptions); err != nil {
		return tree.Names{}, err
	}
	return nameAll(account, records), nil
}

func readRegisters(snap store.Snapshot, account GUID, records map[GUID]mailboxRecord, subscriptions map[string]subscription) error {
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
		s, err := decodeSubscription(pair.Value)
		if err != nil {
			return err
		}
		subscriptions[string(pair.Key[len(prefix):])] = s
	}
	return nil
}

// errOrigin: an account was taken here from another store, or the store's own
// origin was replaced. Its journal would go on as another's.
var errOrigin = errors.New("account of another store")

// loadPage is how many messages one read takes at most, to keep snapshots short.
const loadPage = 20_000

// loadMessages reads a mailbox's index into v.
func (a *account) loadMessages(ctx context.Context, v *view) error {
	prefix := mailboxKey(a.id, kindMessage, v.guid)
	from, end := prefix, above(prefix)
	v.list, v.keywords = messages{}, nil
	var delta map[string]keyword
	blocks := flagBlocks{account: a.id}
	for more := true; more; {
		more = false
		err := a.store.kv.View(ctx, func(snap store.Snapshot) error {
			n := 0
			var slab []Message
			var instances []Instance
			for pair, err := range snap.Range(from, end, loadPage, false) {
				if err != nil {
					return err
				}
				if len(slab) == 0 {
					slab = make([]Message, min(chunkMessages, max(int(v.messages)-v.list.len(), 1)))
					instances = make([]Instance, len(slab))
				}
				m := &slab[0]
				m.Instance = &instances[0]
				slab, instances = slab[1:], instances[1:]
				if err := decodeMessage(m, uidOf(pair.Key), pair.Value); err != nil {
					return err
				}
				if v.blocks {
					if _, err := blocks.apply(snap, v.guid, m); err != nil {
						return err
					}
				}
				if n++; n == loadPage {
					from, more = append(slices.Clone(pair.Key), 0), true
				}
				if covers(v.erased, m.Dot) {
					continue // the sweep's
				}
				delta = addKeywords(delta, m.Keywords, 1)
				v.list.append(m)
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
	if list := a.virtual.Load(); list != nil {
		for _, b := range *list {
			if now := b.current(); now != nil {
				n += now.Len()
			}
		}
	}
	return n
}

// readHead reads an account's head; the zero head when there is none.
func readHead(snap store.Snapshot, account GUID) (head, error) {
	value, err := snap.Get(accountKey(account, kindHead))
	if errors.Is(err, store.ErrNotFound) {
		return head{}, nil
	} else if err != nil {
		return head{}, err
	}
	return decodeHead(value)
}

package mailstore

import (
	"container/list"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/internal/mutant"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Store holds every account's mail. It is safe for concurrent use.
type Store struct {
	cfg    Config
	kv     store.Store
	blobs  store.Blobs
	log    hclog.Logger
	origin Origin
	// garbage wakes the sweep early.
	garbage chan struct{}
	partner partnerBox
	pair    atomic.Pointer[pairState]
	rules   *uid.Rules // nil: the standard ones
	index   *indexer   // nil: messages' text is not indexed
	sharing bells

	mu       sync.Mutex
	accounts map[GUID]*account
	idle     *list.List // accounts nobody uses, the longest unused first
	idleSize int        // messages they hold in memory
	// links hold how each account stands to the partner.
	links map[GUID]*link
}

// Open returns the store over kv and blobs, which stay the caller's. The first
// Open gives this node its origin.
func Open(ctx context.Context, cfg Config, kv store.Store, blobs store.Blobs, log hclog.Logger) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, kv: kv, blobs: blobs, log: log, garbage: make(chan struct{}, 1),
		accounts: make(map[GUID]*account), idle: list.New(), links: make(map[GUID]*link),
	}
	s.pair.Store(&pairState{})
	if cfg.SearchIndex != nil {
		s.index = newIndexer()
	}
	if s.rules = cfg.UIDs; cfg.Without != mutant.None {
		rules := uid.Rules{Window: 256, Block: 4096}
		if cfg.UIDs != nil {
			rules = *cfg.UIDs
		}
		rules.Without = cfg.Without
		s.rules = &rules
	}
	if s.origin, err = s.readOrigin(ctx); err != nil {
		return nil, fmt.Errorf("open mail store: %w", err)
	}
	if err := s.openPair(ctx); err != nil {
		return nil, fmt.Errorf("open mail store: %w", err)
	}
	return s, nil
}

// readOrigin returns the origin this node was given, giving it one first. It
// is never the zero Origin, which means "none" in journal records.
func (s *Store) readOrigin(ctx context.Context) (Origin, error) {
	for {
		var origin Origin
		err := s.kv.View(ctx, func(snap store.Snapshot) error {
			value, err := snap.Get(originKey)
			if err == nil {
				d := decoder{b: value}
				d.version()
				origin = Origin(d.uint64())
				err = d.end("origin")
			}
			return err
		})
		switch {
		case err == nil && origin.Node() != s.cfg.Node:
			return 0, fmt.Errorf("this store belongs to node %d, the configuration says %d", origin.Node(), s.cfg.Node)
		case !errors.Is(err, store.ErrNotFound):
			return origin, err
		}
		var incarnation [8]byte
		_, _ = rand.Read(incarnation[2:]) // never fails since Go 1.24
		origin = Origin(s.cfg.Node)<<48 | Origin(binary.BigEndian.Uint64(incarnation[:])|1)
		b := store.NewBatch()
		b.IfAbsent(originKey)
		b.Put(originKey, binary.LittleEndian.AppendUint64([]byte{recordVersion}, uint64(origin)))
		if _, err := s.kv.Commit(ctx, b); err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnknown) {
			return 0, err
		}
	}
}

// class is the node's place in a pair, the last bit of its MODSEQs.
func (s *Store) class() uint64 { return uint64(s.cfg.Node & 1) }

// Origin is this node's incarnation, which its journal records carry.
func (s *Store) Origin() Origin { return s.origin }

// maxAccountOctets bounds an account's name.
const maxAccountOctets = 512

// Account opens the account and, on first use, creates it with the configured
// mailboxes. The caller closes the handle. who.Name says which account,
// who.QuotaOctets and who.QuotaMessages set its limits from now on. ServerBusy when the store is one
// of a pair and does not have the account yet, and what Partner.Available says.
func (s *Store) Account(ctx context.Context, who mail.Account) (*Account, error) {
	if who.Name == "" || len(who.Name) > maxAccountOctets || !utf8.ValidString(who.Name) {
		return nil, status.Errorf(status.ConfigurationError, "account name %q", who.Name)
	}
	a := s.hold(accountGUID(who.Name), who.Name)
	err := a.open(ctx)
	if err == nil {
		err = s.available(a)
	}
	if err == nil {
		err = a.ensure(ctx)
	}
	if err == nil && a.isUnsettled() {
		err = a.settle(ctx)
	}
	if err != nil {
		s.release(a)
		return nil, s.failure("open account", err)
	}
	a.complete(ctx)
	a.limit(who)
	return &Account{account: a}, nil
}

// hold returns the account in memory, in use once more.
func (s *Store) hold(id GUID, name string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[id]
	if a == nil {
		a = newAccount(s, id, name)
		s.accounts[id] = a
	}
	if a.idle != nil {
		s.idle.Remove(a.idle)
		s.idleSize -= a.idleSize
		a.idle = nil
	}
	a.users++
	return a
}

// release ends one use. Accounts nobody uses stay until there are too many.
func (s *Store) release(a *account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.users--; a.users > 0 {
		return
	}
	if !a.opened {
		delete(s.accounts, a.id)
		return
	}
	a.idleSize = a.messagesInMemory()
	a.idle = s.idle.PushBack(a)
	s.idleSize += a.idleSize
	for s.idle.Len() > s.cfg.IdleAccounts || s.idleSize > s.cfg.IdleMessages {
		oldest := s.idle.Remove(s.idle.Front()).(*account)
		s.idleSize -= oldest.idleSize
		delete(s.accounts, oldest.id)
	}
}

// Accounts returns the names of all accounts, in no order that means anything.
func (s *Store) Accounts(ctx context.Context) ([]string, error) {
	var names []string
	err := s.eachAccount(ctx, func(_ GUID, name string, damage error) error {
		names = append(names, name)
		return damage
	})
	return names, s.failure("list accounts", err)
}

// eachAccount calls fn for every account, skipping from one to the next. The
// damage is why an account's name cannot be read.
func (s *Store) eachAccount(ctx context.Context, fn func(id GUID, name string, damage error) error) error {
	from, end := []byte{tag, tagAccount}, above([]byte{tag, tagAccount})
	for {
		var id GUID
		var name string
		var damage error
		found := false
		err := s.kv.View(ctx, func(snap store.Snapshot) error {
			for pair, err := range snap.Range(from, end, 1, false) {
				if err != nil {
					return err
				}
				if len(pair.Key) < accountPrefixOctets {
					return fmt.Errorf("key %x: %w", pair.Key, errRecord)
				}
				copy(id[:], pair.Key[2:])
				found = true
			}
			if found {
				name, damage = readAccountName(snap, id)
			}
			return nil
		})
		if err != nil || !found {
			return err
		}
		if err := fn(id, name, damage); err != nil {
			return err
		}
		from = above(accountKey(id, 0)[:accountPrefixOctets])
	}
}

func readAccountName(snap store.Snapshot, id GUID) (string, error) {
	value, err := snap.Get(accountKey(id, kindInfo))
	if err != nil {
		return "", fmt.Errorf("account %s: %w", id, err)
	}
	d := decoder{b: value}
	d.version()
	name := d.string()
	return name, d.end("account name")
}

package mailstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/store"
)

// The index of who shares with whom is derived from access control lists, and
// lies outside of the accounts, by identifier. Identifiers whose rights are
// taken away are not in it: they open nothing.
//
//	m s <identifier> 0 <account> <mbox>

// sharedPrefix is what the keys of an identifier begin with; nil for one that
// is not in the index.
func sharedPrefix(identifier string) []byte {
	if _, takesAway := acl.Split(identifier); takesAway || acl.Check(identifier) != nil {
		return nil
	}
	return append(append([]byte{tag, tagShared}, identifier...), 0)
}

func sharedKey(identifier string, account, mailbox GUID) []byte {
	key := sharedPrefix(identifier)
	if key == nil {
		return nil
	}
	return append(append(key, account[:]...), mailbox[:]...)
}

// ofShared takes a key of the index apart.
func ofShared(key []byte) (identifier string, account, mailbox GUID, ok bool) {
	end := len(key) - 2*len(account) - 1
	if end < 2 || key[end] != 0 {
		return "", account, mailbox, false
	}
	return string(key[2:end]), GUID(key[end+1:][:16]), GUID(key[end+17:]), true
}

var (
	errNotIndexed   = errors.New("shared mailbox is not in the index of who shares with whom")
	errIndexedStale = errors.New("the index of who shares with whom names a mailbox that is not shared")
)

// eachUnindexed calls fn for what an account shares and the index does not
// tell, with the key that it should have.
func (s *Store) eachUnindexed(ctx context.Context, account GUID, fn func(identifier string, mailbox GUID, key []byte)) error {
	prefix := entryKey(account, []byte{SpaceACL})
	return store.Scan(ctx, s.kv, prefix, above(prefix), checkAtOnce, func(snap store.Snapshot, key, value []byte) error {
		mailbox, identifier, ok := ofEntry(key[accountPrefixOctets+1:])
		e, err := decodeEntry(value)
		if !ok || err != nil || e.removed {
			return nil // damage of entries is not the index's
		}
		indexed := sharedKey(identifier, account, mailbox)
		if indexed == nil {
			return nil
		}
		if _, err = snap.Get(indexed); errors.Is(err, store.ErrNotFound) {
			fn(identifier, mailbox, indexed)
			return nil
		}
		return err
	})
}

// eachStale calls fn for keys of the index that stand for nothing.
func (s *Store) eachStale(ctx context.Context, fn func(key []byte)) error {
	prefix := []byte{tag, tagShared}
	return store.Scan(ctx, s.kv, prefix, above(prefix), checkAtOnce, func(snap store.Snapshot, key, _ []byte) error {
		identifier, account, mailbox, ok := ofShared(key)
		if ok {
			value, err := snap.Get(entryKey(account, entryName(SpaceACL, mailbox, identifier)))
			switch {
			case errors.Is(err, store.ErrNotFound):
				ok = false
			case err != nil:
				return err
			default:
				e, err := decodeEntry(value)
				ok = err != nil || !e.removed
			}
		}
		if !ok {
			fn(append([]byte(nil), key...))
		}
		return nil
	})
}

// shared checks that the index tells what the account shares.
func (c *checker) shared(ctx context.Context) error {
	return c.store.eachUnindexed(ctx, c.id, func(identifier string, mailbox GUID, _ []byte) {
		c.failf("mailbox %s, %q: %w", mailbox, identifier, errNotIndexed)
	})
}

// verifyShared finds what the index has too much.
func (s *Store) verifyShared(ctx context.Context, report func(Finding)) error {
	return s.eachStale(ctx, func(key []byte) { report(Finding{Err: fmt.Errorf("%w: %q", errIndexedStale, key)}) })
}

// shared brings what the account shares into the index.
func (r *repairer) shared(ctx context.Context) error {
	var err error
	scan := r.store.eachUnindexed(ctx, r.id, func(identifier string, mailbox GUID, key []byte) {
		r.batch.Put(key, []byte{recordVersion})
		r.tell(Finding{Err: fmt.Errorf("mailbox %s, %q: %w", mailbox, identifier, errNotIndexed)}, "index completed")
		err = errors.Join(err, r.flush(ctx, flushAt))
	})
	return errors.Join(scan, err)
}

// repairShared takes out what the index has too much.
func (s *Store) repairShared(ctx context.Context, repaired func(f Finding, how string)) error {
	var stale [][]byte
	if err := s.eachStale(ctx, func(key []byte) { stale = append(stale, key) }); err != nil {
		return err
	}
	for _, key := range stale {
		b := store.NewBatch()
		b.UseReserve = true
		b.Delete(key)
		if _, err := s.kv.Commit(ctx, b); err != nil {
			return err
		}
		repaired(Finding{Err: fmt.Errorf("%w: %q", errIndexedStale, key)}, "index cleaned")
	}
	return nil
}

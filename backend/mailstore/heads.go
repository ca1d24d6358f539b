package mailstore

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/store"
)

// Head is what is stored of an account's standing in a pair.
type Head struct {
	Account GUID
	Name    string // "" when there is no such account
	// Seq is the last own operation, Acked the last of them that the partner is
	// known to have; it may have more.
	Seq, Acked uint64
	Others     Vector
	Home       Home
	// Joined: the account is complete here; see Store.Joining.
	Joined bool
	// Time is when it changed last, Octets what its messages have.
	Time   time.Time
	Octets int64
}

// AccountGUID is the identity of the account with that name.
func AccountGUID(name string) GUID { return accountGUID(name) }

// Head reads one account's; without a Name when there is none.
func (s *Store) Head(ctx context.Context, id GUID) (h Head, err error) {
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		h, err = s.readStanding(snap, id)
		return err
	})
	return h, s.failure("read account head", err)
}

func (s *Store) readStanding(snap store.Snapshot, id GUID) (Head, error) {
	stored, err := readHead(snap, id)
	if err != nil {
		return Head{}, err
	}
	name, err := readAccountName(snap, id)
	if errors.Is(err, store.ErrNotFound) {
		return Head{Account: id}, nil
	} else if err != nil {
		return Head{}, err
	}
	h := Head{
		Account: id, Name: name, Seq: stored.seq, Acked: stored.acked, Others: stored.others, Home: stored.home,
		Joined: stored.joined, Time: hlcTime(stored.hlc), Octets: stored.octets,
	}
	if h.Home.Epoch == 0 {
		h.Home = s.firstHome(name)
	}
	s.mu.Lock()
	if l := s.links[id]; l != nil {
		h.Acked = max(h.Acked, l.acked.Load())
	}
	s.mu.Unlock()
	return h, nil
}

// Heads calls look for every account. One that cannot be read is logged and left
// out. look's error ends it and is returned.
func (s *Store) Heads(ctx context.Context, look func(Head) error) error {
	var stopped error
	err := s.eachAccount(ctx, func(id GUID, _ string, _ error) error {
		h, err := s.Head(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Error("cannot read the head of an account", "account", id, "err", err)
			return nil
		}
		stopped = look(h)
		return stopped
	})
	if stopped != nil {
		return stopped
	}
	return s.failure("read account heads", err)
}

// Journals calls look for every journal record of an account that is kept here:
// this node's in order, then the others' in theirs. look's error ends it.
func (s *Store) Journals(ctx context.Context, id GUID, look func(*JournalRecord) error) error {
	for _, kind := range []byte{kindJournal, kindForeign} {
		prefix := accountKey(id, kind)
		err := store.Scan(ctx, s.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, _, value []byte) error {
			r, err := DecodeJournal(append([]byte(nil), value...))
			if err != nil {
				return err
			}
			return look(r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

package mailstore

import (
	"slices"
	"sync"
)

// bells tell those who ask for it that somebody shares something else with them.
type bells struct {
	mu   sync.Mutex
	list []*bell
}

type bell struct {
	identifiers []string
	wake        func()
}

// WatchSharing calls wake whenever an access control list of any account changes
// what it says of one of the identifiers: then Sharing may name others. wake must
// not block, nor call the store. The caller ends it by stop.
func (s *Store) WatchSharing(identifiers []string, wake func()) (stop func()) {
	b, all := &bell{identifiers: identifiers, wake: wake}, &s.sharing
	all.mu.Lock()
	defer all.mu.Unlock()
	all.list = append(all.list, b)
	return func() {
		all.mu.Lock()
		defer all.mu.Unlock()
		all.list = slices.DeleteFunc(all.list, func(o *bell) bool { return o == b })
	}
}

func (b *bells) ring(identifier string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, one := range b.list {
		if slices.Contains(one.identifiers, identifier) {
			one.wake()
		}
	}
}

package mailstore

import (
	"context"
	"errors"
)

// Rejoin has a store without accounts, of either node, join its pair: clients
// are not served before everything, or their own account, came from the partner.
// The second node of a pair does so by itself; the first one cannot know that it
// was not always empty.
func (s *Store) Rejoin(ctx context.Context) error {
	if !s.cfg.Pair {
		return errors.New("the configuration says of no partner")
	}
	err := s.eachAccount(ctx, func(GUID, string, error) error { return errFound })
	if errors.Is(err, errFound) {
		return errors.New("this store has accounts; only an empty one rejoins")
	} else if err != nil {
		return err
	}
	return s.failure("rejoin the pair", s.setPair(ctx, pairState{paired: true, joining: true}))
}

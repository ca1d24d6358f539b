package pack

import (
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// Mend implements store.Mender: the octets of a body that is here, or should
// be, are replaced by those of the staged one, which has its name. The counter of
// a body that is lost goes on counting who needs it, and is believed unless it is
// below what the caller found: the caller looked before, and more may have come.
func (b *Blobs) Mend(batch *store.Batch, st store.Staged, found int64) {
	s := st.(*staged)
	s.linked.Store(true)
	if s.held != nil {
		s.place()
	}
	if s.inline == nil && s.ref.Octets > 0 {
		batch.Before = append(batch.Before, s.sync)
	}
	hash := s.Ref().Hash
	bodyKey, moreKey := b.keys.body(hash), b.keys.more(hash)
	batch.Decide(bodyKey, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		more, counted, err := moreOf(get, moreKey)
		if err != nil {
			return fmt.Errorf("mend body %x: %w", hash[:8], err)
		}
		value, err := get(bodyKey)
		switch {
		case err == nil:
			_, old, err := parseBody(value)
			if errors.Is(err, errNewer) {
				return err
			}
			byPack(old, func(number uint64, in []piece) { b.unlist(w, hash, number, in) })
		case !errors.Is(err, store.ErrNotFound):
			return err
		default:
			more = max(more, found-1)
		}
		b.putBody(w, s, more, counted || more > 0 || b.cfg.Copied)
		return nil
	})
}

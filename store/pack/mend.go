package pack

import (
	"errors"

	"github.com/postern-mail/postern/store"
)

// Mend implements store.Mender: the octets of a body that is here, or should
// be, are replaced by those of the staged one, which has its name. References
// stay what they were; a body that was not there has one.
func (b *Blobs) Mend(batch *store.Batch, st store.Staged) {
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
		shared := byte(0)
		value, err := get(bodyKey)
		switch {
		case err == nil:
			if len(value) > 0 {
				shared = value[0] & flagShared
			}
			_, old, err := parseBody(value)
			if errors.Is(err, errNewer) {
				return err
			}
			byPack(old, func(number uint64, in []piece) { b.unlist(w, hash, number, in) })
		case !errors.Is(err, store.ErrNotFound):
			return err
		default:
			w.Delete(moreKey) // it counted for a body that is lost
		}
		if s.inline != nil {
			mended := append([]byte(nil), s.inline...)
			mended[0] |= shared
			w.Put(bodyKey, mended)
			return nil
		}
		w.Put(bodyKey, appendPieces([]byte{kindPieces | shared}, s.pieces))
		byPack(s.pieces, func(number uint64, in []piece) { b.list(w, hash, number, in) })
		return nil
	})
}

package pack

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/store"
)

// Link implements store.Blobs. The body is written under its hash unless it is
// there already; then the staged copy in a pack, if any, becomes dead space.
func (b *Blobs) Link(batch *store.Batch, st store.Staged) {
	s := st.(*staged)
	s.linked.Store(true)
	if s.held != nil {
		// Here and not ahead of the commit, where the batch of several links
		// would write and sync one after the other.
		s.place()
	}
	if s.inline == nil && s.ref.Octets > 0 {
		batch.Before = append(batch.Before, s.sync)
	}
	hash := s.Ref().Hash
	bodyKey, moreKey := b.keys.body(hash), b.keys.more(hash)
	batch.DecideNew(bodyKey, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		value, err := get(bodyKey)
		switch {
		case err == nil:
			addReference(w, bodyKey, moreKey, value)
			return nil
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		// A counter without its body is that of one that is lost, and counts who
		// needs it all the same: with this one they are one more.
		more, counted, err := moreOf(get, moreKey)
		if err != nil {
			return fmt.Errorf("link body %x: %w", hash[:8], err)
		}
		if counted {
			more++
		}
		b.putBody(w, s, more, counted || b.cfg.Copied)
		return nil
	})
}

// putBody writes a staged body, with a counter of its references beyond the first
// where there is to be one.
func (b *Blobs) putBody(w *store.Batch, s *staged, more int64, counted bool) {
	hash, mark := s.Ref().Hash, byte(0)
	if counted {
		mark = flagShared
		w.Put(b.keys.more(hash), store.EncodeCounter(more))
	}
	switch {
	case s.inline == nil:
		w.Put(b.keys.body(hash), appendPieces([]byte{kindPieces | mark}, s.pieces))
		byPack(s.pieces, func(number uint64, in []piece) { b.list(w, hash, number, in) })
	case s.inline[0] == kindInline|mark:
		w.Put(b.keys.body(hash), s.inline)
	default:
		w.Put(b.keys.body(hash), append([]byte{kindInline | mark}, s.inline[1:]...))
	}
}

// mark is what the first octet of a new body has beside its kind.
func (b *Blobs) mark() byte {
	if b.cfg.Copied {
		return flagShared
	}
	return 0
}

// Share implements store.Blobs. The commit fails with store.ErrNotFound when
// the body has gone meanwhile.
func (b *Blobs) Share(batch *store.Batch, ref store.Ref) {
	bodyKey, moreKey := b.keys.body(ref.Hash), b.keys.more(ref.Hash)
	batch.Decide(bodyKey, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		// Its counter says that a body is there. Counters lie close together; to
		// look at a body costs a block of the index, with all of its octets.
		more, counted, err := moreOf(get, moreKey)
		switch {
		case err != nil:
			return fmt.Errorf("share body %x: %w", ref.Hash[:8], err)
		case counted:
			w.Put(moreKey, store.EncodeCounter(more+1))
			return nil
		}
		value, err := get(bodyKey)
		if err != nil {
			return fmt.Errorf("share body %x: %w", ref.Hash[:8], err)
		}
		addReference(w, bodyKey, moreKey, value)
		return nil
	})
}

// addReference counts one reference beyond the first, marking the body with
// the second.
func addReference(w *store.Batch, bodyKey, moreKey, value []byte) {
	if len(value) > 0 && value[0]&flagShared == 0 {
		marked := append([]byte(nil), value...)
		marked[0] |= flagShared
		w.Put(bodyKey, marked)
	}
	w.Add(moreKey, 1)
}

// Unlink implements store.Blobs. Unlinking a body that nobody links does
// nothing: it must not keep whatever else the batch removes.
func (b *Blobs) Unlink(batch *store.Batch, ref store.Ref) {
	bodyKey, moreKey := b.keys.body(ref.Hash), b.keys.more(ref.Hash)
	batch.Decide(bodyKey, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		more, counted, err := moreOf(get, moreKey)
		if err != nil {
			return err
		}
		if more > 0 {
			w.Put(moreKey, store.EncodeCounter(more-1))
			return nil
		}
		value, err := get(bodyKey)
		if errors.Is(err, store.ErrNotFound) {
			b.log.Error("unlinked a body that is not there", "hash", fmt.Sprintf("%x", ref.Hash))
			if counted {
				w.Delete(moreKey) // nobody needs it any more
			}
			return nil
		}
		if err != nil {
			return err
		}
		_, pieces, err := parseBody(value)
		if errors.Is(err, errNewer) {
			return fmt.Errorf("unlink body %x: %w", ref.Hash[:8], err)
		}
		// A value that is damaged names no pieces. What packs list of the body
		// stays until fsck comes.
		w.Delete(bodyKey)
		if counted {
			w.Delete(moreKey)
		}
		byPack(pieces, func(number uint64, in []piece) { b.unlist(w, ref.Hash, number, in) })
		return nil
	})
}

// list says that a body has these pieces in a pack.
func (b *Blobs) list(w *store.Batch, hash store.Hash, number uint64, in []piece) {
	w.Put(b.keys.inPack(number, hash), appendPieces(nil, in))
	w.Add(b.keys.live(number), roomOf(in))
}

// unlist says that a body has them no longer, nor any others.
func (b *Blobs) unlist(w *store.Batch, hash store.Hash, number uint64, in []piece) {
	w.Delete(b.keys.inPack(number, hash))
	w.Add(b.keys.live(number), -roomOf(in))
}

// moreOf reads how many references a body has beyond the first, and whether that
// is counted.
func moreOf(get func([]byte) ([]byte, error), moreKey []byte) (more int64, counted bool, err error) {
	value, err := get(moreKey)
	if errors.Is(err, store.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	more, err = store.DecodeCounter(value)
	return more, true, err
}

// References returns how many references ref's body has; 0 when there is none.
func (b *Blobs) References(ctx context.Context, ref store.Ref) (n int64, err error) {
	err = b.kv.View(ctx, func(s store.Snapshot) error {
		if _, err := s.Get(b.keys.body(ref.Hash)); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		}
		more, err := s.Counter(b.keys.more(ref.Hash))
		n = 1 + more
		return err
	})
	return n, err
}

// Open implements store.Blobs.
func (b *Blobs) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	body, err := b.open(ctx, ref)
	for again := 0; again < 3 && errors.Is(err, errNoPack); again++ {
		// The end of the body, or its move, and the collection of its pack may
		// have overtaken the view. Then a new view has it elsewhere, or not.
		body, err = b.open(ctx, ref)
	}
	return body, err
}

func (b *Blobs) open(ctx context.Context, ref store.Ref) (store.Body, error) {
	var body store.Body
	err := b.kv.View(ctx, func(s store.Snapshot) error {
		value, err := s.Get(b.keys.body(ref.Hash))
		if err != nil {
			return fmt.Errorf("open body %x: %w", ref.Hash[:8], err)
		}
		inline, pieces, err := parseBody(value)
		if err != nil {
			return fmt.Errorf("open body %x: %w", ref.Hash[:8], err)
		}
		if inline == nil {
			body, err = b.openPieces(ref, pieces)
			return err
		}
		if int64(len(inline)) != ref.Octets {
			return fmt.Errorf("open body %x: %w: %d octets instead of %d", ref.Hash[:8], errDamaged, len(inline), ref.Octets)
		}
		body = newInlineBody(append([]byte(nil), inline...))
		return nil
	})
	return body, err
}

package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/postern-mail/postern/store"
)

// FindingKind says what is wrong.
type FindingKind string

// What Verify finds.
const (
	// FoundDamaged: a body's octets are not what its name says, or cannot be
	// read. Who links it has lost it.
	FoundDamaged FindingKind = "body is damaged"
	// FoundUnlisted: a body is not listed under a pack it has pieces in.
	// Collect may delete that pack.
	FoundUnlisted FindingKind = "body is not listed in its pack"
	// FoundStale: a pack lists what is no body's piece. It keeps the pack
	// from being collected, no more.
	FoundStale FindingKind = "pack lists what no body needs"
	// FoundCount: the count of references cannot be right.
	FoundCount FindingKind = "count of references is wrong"
	// FoundLive: the counter of a pack's live octets is wrong. The pack is
	// deleted or moved too late; what is in it is safe.
	FoundLive FindingKind = "count of live octets is wrong"
	// FoundPack: a pack's file is not what its name says.
	FoundPack FindingKind = "pack is damaged"
)

// Finding is one thing that is wrong, and where.
type Finding struct {
	Kind FindingKind
	Body store.Hash // zero when it is about a whole pack
	Pack uint64     // its number; 0 when it is about no pack
	Err  error      // the details; may be nil

	references references // of FoundReferences
}

func (f Finding) String() string {
	text := string(f.Kind)
	if f.Body != (store.Hash{}) {
		text += fmt.Sprintf(", body %x", f.Body[:8])
	}
	if f.Pack != 0 {
		text += fmt.Sprintf(", pack %x", f.Pack)
	}
	if f.Err != nil {
		text += ": " + f.Err.Error()
	}
	return text
}

// Verify reads every body and every key of the bodies and tells report what is
// wrong. It changes nothing and may run beside everything else: what changes
// meanwhile is looked at again before it is reported. It reads all there is on
// the disk. Its error is one that keeps it from going on.
func (b *Blobs) Verify(ctx context.Context, report func(Finding)) error {
	return b.VerifyWith(ctx, report, new(Progress))
}

// Progress is how much Verify has read so far.
type Progress struct{ Bodies, Octets atomic.Int64 }

// VerifyWith is Verify for who wants to know how far it has come.
func (b *Blobs) VerifyWith(ctx context.Context, report func(Finding), p *Progress) error {
	v := verifier{blobs: b, report: report, progress: p}
	v.packs()
	return errors.Join(
		v.each(ctx, 'h', v.body),
		v.each(ctx, 'p', v.listed),
		v.each(ctx, 'n', v.count),
		v.each(ctx, 'l', v.live),
	)
}

type verifier struct {
	blobs    *Blobs
	report   func(Finding)
	progress *Progress // of reading bodies
}

// packs looks at the headers.
func (v verifier) packs() {
	v.blobs.mu.Lock()
	packs := make([]*packFile, 0, len(v.blobs.packs))
	for _, p := range v.blobs.packs {
		p.users++
		packs = append(packs, p)
	}
	v.blobs.mu.Unlock()
	for _, p := range packs {
		if _, err := p.readHeader(); err != nil {
			v.report(Finding{Kind: FoundPack, Pack: p.number, Err: err})
		}
		v.blobs.release(p)
	}
}

// verifyAtOnce is how many pairs are read in one view.
const verifyAtOnce = 256

// each calls check for every pair of a kind of keys. It reads in portions: a
// view must not last as long as reading all bodies does.
func (v verifier) each(ctx context.Context, kind byte, check func(ctx context.Context, pair store.Pair) error) error {
	from, end := []byte{v.blobs.keys.tag, kind}, []byte{v.blobs.keys.tag, kind + 1}
	for {
		var portion []store.Pair
		err := v.blobs.kv.View(ctx, func(s store.Snapshot) error {
			for pair, err := range s.Range(from, end, verifyAtOnce, false) {
				if err != nil {
					return err
				}
				portion = append(portion, store.Pair{Key: bytes.Clone(pair.Key), Value: bytes.Clone(pair.Value)})
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, pair := range portion {
			if err := errors.Join(ctx.Err(), check(ctx, pair)); err != nil {
				return err
			}
		}
		if len(portion) < verifyAtOnce {
			return nil
		}
		from = append(portion[len(portion)-1].Key, 0)
	}
}

// body looks at a body: its octets, and that its packs list it.
func (v verifier) body(ctx context.Context, pair store.Pair) error {
	if len(pair.Key) != 2+len(store.Hash{}) {
		v.report(Finding{Kind: FoundDamaged, Err: fmt.Errorf("key %x", pair.Key)})
		return nil
	}
	hash := store.Hash(pair.Key[2:])
	inline, pieces, err := parseBody(pair.Value)
	if err != nil {
		v.report(Finding{Kind: FoundDamaged, Body: hash, Err: err})
		return nil
	}
	wrong := v.octets(hash, inline, pieces)
	type unlisted struct {
		Pack uint64
		Err  error
	}
	var missing []unlisted
	byPack(pieces, func(number uint64, in []piece) {
		listed, err := v.get(ctx, v.blobs.keys.inPack(number, hash))
		if err != nil || !bytes.Equal(listed, appendPieces(nil, in)) {
			missing = append(missing, unlisted{number, err})
		}
	})
	if wrong == nil && missing == nil {
		return nil
	}
	now, err := v.get(ctx, pair.Key)
	if err != nil || now == nil {
		return err
	}
	if !bytes.Equal(now, pair.Value) {
		// It was moved meanwhile, or shared.
		return v.body(ctx, store.Pair{Key: pair.Key, Value: now})
	}
	if wrong != nil {
		v.report(Finding{Kind: FoundDamaged, Body: hash, Err: wrong})
	}
	for _, m := range missing {
		if m.Err != nil {
			return m.Err
		}
		v.report(Finding{Kind: FoundUnlisted, Body: hash, Pack: m.Pack})
	}
	return nil
}

// octets reads a body and compares it with its name.
func (v verifier) octets(hash store.Hash, inline []byte, pieces []piece) error {
	v.progress.Bodies.Add(1)
	sum := sha256.New()
	if inline != nil {
		sum.Write(inline)
		v.progress.Octets.Add(int64(len(inline)))
	} else {
		ref := store.Ref{Hash: hash}
		for _, p := range pieces {
			ref.Octets += p.octets
		}
		body, err := v.blobs.openPieces(ref, pieces)
		if err != nil {
			return err
		}
		defer body.Close()
		n, err := io.Copy(sum, body)
		v.progress.Octets.Add(n)
		if err != nil {
			return err
		}
	}
	if store.Hash(sum.Sum(nil)) != hash {
		return errors.New("octets of another body")
	}
	return nil
}

// listed looks at what a pack lists.
func (v verifier) listed(ctx context.Context, pair store.Pair) error {
	if len(pair.Key) != 10+len(store.Hash{}) {
		v.report(Finding{Kind: FoundStale, Err: fmt.Errorf("key %x", pair.Key)})
		return nil
	}
	number, hash := packOf(pair.Key), store.Hash(pair.Key[10:])
	value, err := v.get(ctx, v.blobs.keys.body(hash))
	if err != nil {
		return err
	}
	if value != nil {
		_, pieces, err := parseBody(value)
		needed := err != nil // then the body is reported
		byPack(pieces, func(n uint64, in []piece) {
			needed = needed || n == number && bytes.Equal(pair.Value, appendPieces(nil, in))
		})
		if needed {
			return nil
		}
	}
	if changed, err := v.changed(ctx, pair); changed || err != nil {
		return err
	}
	v.report(Finding{Kind: FoundStale, Body: hash, Pack: number})
	return nil
}

// count looks at a count of references beyond the first.
func (v verifier) count(ctx context.Context, pair store.Pair) error {
	if len(pair.Key) != 2+len(store.Hash{}) {
		v.report(Finding{Kind: FoundCount, Err: fmt.Errorf("key %x", pair.Key)})
		return nil
	}
	hash := store.Hash(pair.Key[2:])
	more, err := store.DecodeCounter(pair.Value)
	if err == nil {
		value, readErr := v.get(ctx, v.blobs.keys.body(hash))
		switch {
		case readErr != nil:
			return readErr
		case more < 0:
			err = fmt.Errorf("%d beyond the first", more)
		case value == nil:
			err = errors.New("there is no such body")
		case len(value) == 0 || value[0]&flagShared == 0:
			err = errors.New("the body is not marked as shared")
		default:
			return nil
		}
	}
	if changed, readErr := v.changed(ctx, pair); changed || readErr != nil {
		return readErr
	}
	v.report(Finding{Kind: FoundCount, Body: hash, Err: err})
	return nil
}

// live looks at the counter of a pack. One that is not above zero is nobody's
// truth.
func (v verifier) live(ctx context.Context, pair store.Pair) error {
	if len(pair.Key) != 10 {
		v.report(Finding{Kind: FoundLive, Err: fmt.Errorf("key %x", pair.Key)})
		return nil
	}
	number := packOf(pair.Key)
	listed, counted, err := v.blobs.listed(ctx, number)
	if errors.Is(err, errPieces) || counted <= 0 {
		return nil // it is reported as stale
	}
	if err == nil && listed != counted {
		v.report(Finding{Kind: FoundLive, Pack: number, Err: fmt.Errorf("%d counted, %d listed", counted, listed)})
	}
	return err
}

// get returns a copy of a value as it is now; nil when there is none.
func (v verifier) get(ctx context.Context, key []byte) (value []byte, err error) {
	err = v.blobs.kv.View(ctx, func(s store.Snapshot) error {
		found, err := s.Get(key)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		value = append([]byte{}, found...)
		return err
	})
	return value, err
}

// changed reports whether a pair is not as it was read.
func (v verifier) changed(ctx context.Context, pair store.Pair) (bool, error) {
	now, err := v.get(ctx, pair.Key)
	return now == nil || !bytes.Equal(now, pair.Value), err
}

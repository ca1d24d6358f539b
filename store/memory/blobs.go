package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/postern-mail/postern/store"
)

// bodyTag begins the keys that count references.
const bodyTag = 'b'

func bodyKey(hash store.Hash) []byte { return append([]byte{bodyTag}, hash[:]...) }

// errStray says that a reference was ended that nobody had.
var errStray = errors.New("no such reference")

// ErrDamaged is the error of a body that is not what its hash says, or whose
// octets are lost.
var ErrDamaged = errors.New("body is damaged")

// Blobs are a Disk's bodies: a store.Blobs.
type Blobs struct{ store *Store }

// Stage implements store.Blobs.
func (b *Blobs) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	octets, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.Err(), b.store.alive(), b.store.CheckSpace(int64(len(octets)))); err != nil {
		return nil, err
	}
	return &staged{octets: octets, hash: sha256.Sum256(octets)}, nil
}

// Link implements store.Blobs.
func (b *Blobs) Link(batch *store.Batch, s store.Staged) {
	st := s.(*staged)
	b.put(batch, st)
	batch.Add(bodyKey(st.hash), 1)
}

// put has the octets on the disk before the batch is.
func (b *Blobs) put(batch *store.Batch, s *staged) {
	disk := b.store.disk
	batch.Before = append(batch.Before, func(context.Context) error {
		disk.mu.Lock()
		defer disk.mu.Unlock()
		disk.bodies[s.hash] = s.octets
		return nil
	})
}

// Share implements store.Blobs.
func (b *Blobs) Share(batch *store.Batch, ref store.Ref) {
	key := bodyKey(ref.Hash)
	batch.Decide(key, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		if _, err := get(key); err != nil {
			return fmt.Errorf("share body %x: %w", ref.Hash[:8], err)
		}
		w.Add(key, 1)
		return nil
	})
}

// Unlink implements store.Blobs.
func (b *Blobs) Unlink(batch *store.Batch, ref store.Ref) {
	key := bodyKey(ref.Hash)
	batch.Decide(key, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		value, err := get(key)
		if errors.Is(err, store.ErrNotFound) {
			return errStray
		}
		if err != nil {
			return err
		}
		n, err := store.DecodeCounter(value)
		if err == nil && n <= 1 {
			w.Delete(key)
			return nil
		}
		w.Add(key, -1)
		return err
	})
}

// Open implements store.Blobs. A damaged body fails when it is read.
func (b *Blobs) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	if err := errors.Join(ctx.Err(), b.store.alive()); err != nil {
		return nil, err
	}
	d := b.store.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, linked := d.root.get(string(bodyKey(ref.Hash))); !linked {
		return nil, fmt.Errorf("open body %x: %w", ref.Hash[:8], store.ErrNotFound)
	}
	octets, there := d.bodies[ref.Hash]
	if !there || int64(len(octets)) != ref.Octets || sha256.Sum256(octets) != ref.Hash {
		return nil, fmt.Errorf("open body %x: %w", ref.Hash[:8], ErrDamaged)
	}
	return newBody(octets), nil
}

// staged implements store.Staged.
type staged struct {
	octets []byte
	hash   store.Hash
}

func (s *staged) Ref() store.Ref            { return store.Ref{Hash: s.hash, Octets: s.Octets()} }
func (s *staged) Octets() int64             { return int64(len(s.octets)) }
func (s *staged) Open() (store.Body, error) { return newBody(s.octets), nil }
func (s *staged) Discard()                  {}

// body implements store.Body.
type body struct{ *bytes.Reader }

func newBody(octets []byte) body { return body{bytes.NewReader(octets)} }

func (b body) Close() error { return nil }

var (
	_ store.Store  = (*Store)(nil)
	_ store.Space  = (*Store)(nil)
	_ store.Blobs  = (*Blobs)(nil)
	_ store.Mender = (*Blobs)(nil)
	_ store.Staged = (*staged)(nil)
)

// Mend implements store.Mender.
func (b *Blobs) Mend(batch *store.Batch, s store.Staged, found int64) {
	st := s.(*staged)
	b.put(batch, st)
	key := bodyKey(st.hash)
	batch.Decide(key, func(get func([]byte) ([]byte, error), w *store.Batch) error {
		_, err := get(key)
		if errors.Is(err, store.ErrNotFound) {
			w.Add(key, found)
			return nil
		}
		return err
	})
}

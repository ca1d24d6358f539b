package pack

import (
	"bytes"
	"crypto/sha256"
	"runtime"
	"sync"

	"github.com/postern-mail/postern/store"
)

// held is a body of one small piece that is in memory until its first link: a
// message that goes on while its client waits never needs a pack. It is in
// memory no longer than its sender waits for an answer.
type held struct {
	// once admits one of those that end it: the first link, or Discard.
	once sync.Once

	mu     sync.Mutex
	record *[]byte // from smallRecords; nil when given back
	octets int     // of data
	users  int     // the staged body, and each reader
}

// hold stages the first n octets of data in record, which it takes over.
func (b *Blobs) hold(record *[]byte, n int) *staged {
	st := &staged{
		blobs: b, pins: &pins{blobs: b},
		held: &held{record: record, octets: n, users: 1},
		ref:  store.Ref{Octets: int64(n)},
	}
	runtime.AddCleanup(st, (*pins).release, st.pins)
	return st
}

// hash returns the hash of the body. After Discard there is nothing to read, nor
// anything that could be linked.
func (h *held) hash() (sum store.Hash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.record != nil {
		sum = sha256.Sum256(h.data())
	}
	return sum
}

// data is the body. The caller holds mu, or a use.
func (h *held) data() []byte { return (*h.record)[recordHeader : recordHeader+h.octets] }

// place writes a held body into a pack, once. What goes wrong is what the
// commit of the link fails with.
func (s *staged) place() {
	s.Ref()
	s.held.once.Do(func() {
		w := stager{blobs: s.blobs, pins: s.pins}
		s.failed = w.put((*s.held.record)[:recordHeader+s.held.octets])
		s.pieces = w.pieces
		s.held.release()
	})
}

// open returns a reader of the body, or nil when it is in memory no more.
func (h *held) open() store.Body {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.record == nil {
		return nil
	}
	h.users++
	return &heldBody{Reader: bytes.NewReader(h.data()), from: h}
}

// release ends one use.
func (h *held) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users--; h.users == 0 {
		smallRecords.Put(h.record)
		h.record = nil
	}
}

// heldBody reads a body from a buffer that others get once it is closed.
type heldBody struct {
	*bytes.Reader
	from *held
}

func (b *heldBody) Close() error {
	if b.from != nil {
		b.Reader = bytes.NewReader(nil)
		b.from.release()
		b.from = nil
	}
	return nil
}

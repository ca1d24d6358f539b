// Package memory is an engine for tests and simulations: a store and its bodies
// in memory, deterministic, with the faults of real ones on demand.
//
// A Disk is what would be durable. Open gives a process's handle on it, which
// ends when the process is killed or its power fails; the Disk stays, and can
// be cloned (a backup), damaged and opened again. There are no goroutines, no
// clock and no randomness: the same calls have the same results.
package memory

import (
	"errors"
	"maps"
	"sync"

	"github.com/postern-mail/postern/store"
)

// Fault is what becomes of a commit.
type Fault uint8

// The faults.
const (
	// None: the commit goes well.
	None Fault = iota
	// Full: nothing is written, ErrFull.
	Full
	// UnknownLost: nothing is written, ErrUnknown.
	UnknownLost
	// UnknownWritten: it is durable, and the answer is ErrUnknown.
	UnknownWritten
	// CutBefore: the process is gone before anything was written.
	CutBefore
	// CutAfter: it is durable, and the process is gone before it knows.
	CutAfter
)

// ErrCut is what calls of a process return whose power failed.
var ErrCut = errors.New("the power failed")

// Disk is what a node has durably. It is safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	root    *node
	results map[store.TxID]store.Result // of all batches ever
	bodies  map[store.Hash][]byte
	faults  func(n int) Fault
	commits int
	full    bool
	strays  int
}

// NewDisk returns an empty one.
func NewDisk() *Disk {
	return &Disk{results: map[store.TxID]store.Result{}, bodies: map[store.Hash][]byte{}}
}

// Clone returns a disk with what is stored now, without faults.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Disk{root: d.root, results: maps.Clone(d.results), bodies: maps.Clone(d.bodies)}
}

// OnCommit has fn decide about each commit, by its number from 1 on, which
// counts from the disk's first. nil ends it. fn must not use the disk.
func (d *Disk) OnCommit(fn func(n int) Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = fn
}

// SetFull has every commit that may not use the reserve fail with ErrFull.
func (d *Disk) SetFull(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// Commits is how many commits were asked for so far.
func (d *Disk) Commits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commits
}

// Strays is how many references were ended that nobody had: a mistake in the
// counting of whoever uses the bodies.
func (d *Disk) Strays() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.strays
}

// Open returns a new process's handle on the disk, and on the bodies.
func (d *Disk) Open() (*Store, *Blobs) {
	s := &Store{disk: d}
	return s, &Blobs{store: s}
}

// Put sets a key behind the back of whoever has the disk open: damage.
func (d *Disk) Put(key, value []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.root = d.root.put(string(key), value)
}

// Drop removes a key behind the back of whoever has the disk open: damage.
func (d *Disk) Drop(key []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.root = d.root.without(string(key))
}

// DropBody loses a body's octets; its references stay.
func (d *Disk) DropBody(hash store.Hash) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.bodies, hash)
}

// AlterBody turns a bit of a body over.
func (d *Disk) AlterBody(hash store.Hash) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.bodies[hash]; len(old) > 0 {
		altered := append([]byte(nil), old...)
		altered[len(altered)/2] ^= 1
		d.bodies[hash] = altered
	}
}

// Bodies lists the bodies that have references, in order of their hashes.
func (d *Disk) Bodies() []store.Hash {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []store.Hash
	d.root.ascend(string([]byte{bodyTag}), string([]byte{bodyTag + 1}), func(n *node) bool {
		all = append(all, store.Hash([]byte(n.key[1:])))
		return true
	})
	return all
}

// References is how many references a body has.
func (d *Disk) References(hash store.Hash) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	value, _ := d.root.get(string(bodyKey(hash)))
	n, _ := store.DecodeCounter(value)
	return int(n)
}

// Package store is the transactional ordered key-value store under the queue,
// the mailboxes and the audit, and the bodies beside it.
//
// What goes in: atomic batches with preconditions, each with a transaction id.
// What comes out: consistent snapshots. What it promises: when Commit returns
// nil everything in the batch, and every body linked in it, is on stable
// storage; before that nothing of it is visible. What it leaves to others:
// the meaning of keys. The first byte of a key is its owner's tag; the tag zero
// is the engine's own and refused in batches.
//
// Engines live in folders below; store/storetest is the conformance suite that
// each of them passes.
package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"time"
)

// Limits every engine keeps, so that what runs on one runs on all.
const (
	MaxKeyOctets   = 1 << 10
	MaxValueOctets = 64 << 10
	MaxBatchOps    = 1000
	MaxBatchOctets = 1 << 20
)

var (
	// ErrNotFound is what Get returns for an absent key.
	ErrNotFound = errors.New("key not found")
	// ErrConflict means that a precondition did not hold: nothing was written.
	// The caller reads again and decides anew.
	ErrConflict = errors.New("precondition failed")
	// ErrUnknown means that the batch may or may not have been committed.
	// Committing it again with the same TxID settles it.
	ErrUnknown = errors.New("outcome of the commit is unknown")
	// ErrFull means that the engine's disk has less free space than its
	// reserve: nothing was written.
	ErrFull = errors.New("storage is full")
	// ErrTooLarge means that a key, value or batch is over the limits.
	ErrTooLarge = errors.New("over the limits of the store")
	// ErrNoTxID means that a batch has no transaction id.
	ErrNoTxID = errors.New("batch without a transaction id")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// TxID names a batch so that it is applied once however often it is committed.
type TxID [16]byte

// TxIDKept is how long, at least, an engine remembers the TxID of a batch.
const TxIDKept = 10 * time.Minute

// NewTxID returns a random TxID.
func NewTxID() TxID {
	var id TxID
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	return id
}

// Store is an ordered key-value store. It is safe for concurrent use.
type Store interface {
	// View runs fn on a snapshot that holds every commit that returned before
	// View was called. fn should end within two seconds and must not keep the
	// snapshot, nor slices obtained from it, beyond its return.
	View(ctx context.Context, fn func(Snapshot) error) error
	// Commit applies b atomically and durably. Errors: ErrConflict,
	// ErrUnknown, ErrFull, ErrTooLarge, ErrNoTxID, ErrClosed. Concurrent
	// commits share one sync. The store may read b's slices until Commit
	// returns. Preconditions hold for keys: a range that must not change needs
	// a key that every writer of it changes.
	Commit(ctx context.Context, b *Batch) (Result, error)
	// Close waits for commits under way. The store cannot be used afterwards.
	Close() error
}

// Snapshot is a consistent, read-only view.
type Snapshot interface {
	// Get returns the value of key, valid until the view ends, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Counter returns the value of a counter written by Add, Max or Next; 0
	// for an absent one.
	Counter(key []byte) (int64, error)
	// Range yields the pairs with lo <= key < hi in order, or in reverse
	// order; at most limit of them when limit > 0. A pair's slices are valid
	// until the next step. An error ends the sequence.
	Range(lo, hi []byte, limit int, reverse bool) iter.Seq2[Pair, error]
}

// Pair is a key and its value.
type Pair struct{ Key, Value []byte }

// Result is what a commit allocated.
type Result struct {
	// Allocated holds, for each Next in the order of the batch, the first
	// number of its run.
	Allocated []int64
}

// OpKind is what an operation of a batch does.
type OpKind uint8

// The operations. Preconditions are checked before any of the writes.
const (
	OpIfAbsent OpKind = iota
	OpIfEquals
	OpPut
	OpDelete
	OpDeleteRange
	OpAdd
	OpMax
	OpNext
	OpDecide
)

// Op is one operation of a batch, as engines read it.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte // Put, IfEquals; the end of a DeleteRange
	N     int64  // Add, Max, Next
	// Decide of OpDecide; Key is what it locks. New is a hint: what it reads
	// is not stored yet, as a rule.
	Decide Decider
	New    bool
}

// Decider chooses writes by what is stored at the instant of the commit. It
// reads with get, which answers as Snapshot.Get does and shows what the batch
// wrote before it, and adds Put, Delete, DeleteRange, Add and Max to w. The
// slices of get are valid until it returns. An error refuses the whole batch
// and is what Commit returns. It must not block, and may be called again.
type Decider func(get func(key []byte) ([]byte, error), w *Batch) error

// Batch collects operations for one commit. It is not safe for concurrent
// use and keeps the slices it is given.
type Batch struct {
	ID  TxID
	Ops []Op
	// Before holds what must be durable before the batch may be: an engine
	// calls each, in order, ahead of its own write. Blobs put their syncs here.
	Before []func(ctx context.Context) error
	// UseReserve lets the batch use a part of the space that the engine keeps
	// free: for what settles or removes what was accepted before.
	UseReserve bool

	fresh TxID // ID as NewBatch drew it, until the first attempt
}

// NewBatch returns an empty batch with a random transaction id.
func NewBatch() *Batch {
	id := NewTxID()
	return &Batch{ID: id, fresh: id}
}

// FirstAttempt reports whether nobody can have committed the batch before: its
// TxID was drawn by NewBatch and it is asked for the first time. Engines ask
// once for each Commit and look for an earlier one only where it says no.
func (b *Batch) FirstAttempt() bool {
	first := b.fresh == b.ID && b.fresh != TxID{}
	b.fresh = TxID{}
	return first
}

// IfAbsent lets the commit succeed only when key has no value.
func (b *Batch) IfAbsent(key []byte) { b.Ops = append(b.Ops, Op{Kind: OpIfAbsent, Key: key}) }

// IfEquals lets the commit succeed only when key has exactly value.
func (b *Batch) IfEquals(key, value []byte) {
	b.Ops = append(b.Ops, Op{Kind: OpIfEquals, Key: key, Value: value})
}

// Put sets key to value.
func (b *Batch) Put(key, value []byte) {
	b.Ops = append(b.Ops, Op{Kind: OpPut, Key: key, Value: value})
}

// Delete removes key; an absent one is no error.
func (b *Batch) Delete(key []byte) { b.Ops = append(b.Ops, Op{Kind: OpDelete, Key: key}) }

// DeleteRange removes the keys with lo <= key < hi.
func (b *Batch) DeleteRange(lo, hi []byte) {
	b.Ops = append(b.Ops, Op{Kind: OpDeleteRange, Key: lo, Value: hi})
}

// Add adds n to the counter at key.
func (b *Batch) Add(key []byte, n int64) { b.Ops = append(b.Ops, Op{Kind: OpAdd, Key: key, N: n}) }

// Max raises the counter at key to at least n.
func (b *Batch) Max(key []byte, n int64) { b.Ops = append(b.Ops, Op{Kind: OpMax, Key: key, N: n}) }

// Next allocates n consecutive numbers from the counter at key, the first of
// them one above its present value; Result.Allocated tells which.
func (b *Batch) Next(key []byte, n int64) { b.Ops = append(b.Ops, Op{Kind: OpNext, Key: key, N: n}) }

// Decide lets fn choose writes when the batch is committed, in its place among
// the operations. While it runs no other batch changes what is guarded by lock:
// whoever writes a key that a Decider reads does so in a Decider with the same
// lock.
func (b *Batch) Decide(lock []byte, fn Decider) {
	b.Ops = append(b.Ops, Op{Kind: OpDecide, Key: lock, Decide: fn})
}

// DecideNew is Decide where fn most often finds nothing: engines may look in
// another way then, and nothing else differs.
func (b *Batch) DecideNew(lock []byte, fn Decider) {
	b.Ops = append(b.Ops, Op{Kind: OpDecide, Key: lock, Decide: fn, New: true})
}

// EncodeCounter returns the stored form of a counter, for IfEquals.
func EncodeCounter(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// DecodeCounter reads what EncodeCounter wrote; nil is 0.
func DecodeCounter(value []byte) (int64, error) {
	switch len(value) {
	case 0:
		return 0, nil
	case 8:
		return int64(binary.BigEndian.Uint64(value)), nil
	default:
		return 0, errors.New("not a counter")
	}
}

// Space is what engines with a disk of their own can tell about it.
type Space interface {
	// CheckSpace returns ErrFull when octets more would not leave the reserve
	// free. The answer may be a second old.
	CheckSpace(octets int64) error
}

// Hash is the SHA-256 of a body's octets.
type Hash [32]byte

// Ref names a body: what it holds and how long it is.
type Ref struct {
	Hash   Hash
	Octets int64
}

// Blobs keeps message bodies: immutable, addressed by content, counted by
// reference. It is safe for concurrent use.
//
// A body becomes durable, and visible to Open, with the commit of the first
// batch that links it; a body staged and never linked costs dead space that is
// collected. Small bodies may travel inside the batch itself.
type Blobs interface {
	// Stage reads r to its end into a new body, in bounded memory. An error
	// of r is returned as it is; ErrFull when the disk has no room.
	Stage(ctx context.Context, r io.Reader) (Staged, error)
	// Link adds to b what makes one reference to the staged body. It may be
	// called for several batches. The first call may write to disk: not for
	// under a lock.
	Link(b *Batch, s Staged)
	// Share adds to b one more reference to a body that has one already.
	Share(b *Batch, ref Ref)
	// Unlink adds to b the end of one reference. The body goes with its last.
	Unlink(b *Batch, ref Ref)
	// Open returns the body's octets, verified against ref's hash or the
	// pack's checksum as they are read. ErrNotFound for one nobody links.
	Open(ctx context.Context, ref Ref) (Body, error)
}

// Mender is what engines of bodies can do for one that is damaged.
type Mender interface {
	// Mend adds to b what puts the staged octets in the place of those of the
	// body of that name, whose references stay what they are. A body that is
	// not there has as many then as the caller found, or more where the engine
	// knows of more.
	Mend(b *Batch, s Staged, found int64)
}

// Staged is a body that waits for its first link.
type Staged interface {
	// Ref names the body; the first call may have to read all of it.
	Ref() Ref
	// Octets is how long the body is.
	Octets() int64
	// Open reads the body before it is linked, for content checks.
	Open() (Body, error)
	// Discard gives the space back early; calling it after Link is a no-op.
	Discard()
}

// Body reads a message body. Not safe for concurrent use, except ReadAt.
type Body interface {
	io.Reader
	io.ReaderAt
	io.Closer
	Size() int64
}

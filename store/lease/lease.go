// Package lease divides work among processes that share a store: each piece
// has at most one holder whose commits succeed.
//
// What goes in: a store, and keys that name the pieces. What comes out: leases
// with an epoch that grows with every holder. What it promises: a batch guarded
// by a lease commits only while that lease, of that epoch, is the newest; once
// another has it, or the same process has it anew, nothing guarded by the old
// one is written, however late it arrives. That holds whatever clocks do. What
// holders do outside the store they cannot be kept from; there time helps: a
// holder that cannot renew stops by its own monotonic clock after two thirds of
// the TTL, and others take over only when they have seen no sign of it for a
// whole TTL of theirs. Wall clocks are not read, nor clocks compared. What it
// leaves to others: what the leases are for, and who should have how many.
//
// A process is alive while its heartbeat changes: one key for all its leases,
// beside them, so that renewing touches no lease and costs one small commit
// every third of the TTL. Who finds a heartbeat unchanged for too long deletes
// it, provided that it still is unchanged, and with that the holder is dead:
// its leases are free, and if it lives on it learns so at its next beat.
package lease

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/store"
)

// DefaultTTL is how long a holder may be silent before others take over. It
// renews after a third of that and stops after two thirds.
const DefaultTTL = 15 * time.Second

var (
	// ErrHeld means that somebody else has the lease.
	ErrHeld = errors.New("lease is held by another")
	// ErrFenced means that the lease is another's by now, or void.
	ErrFenced = errors.New("lease was lost")
)

// holderID names one life of a holder. It is never used again, so that nothing
// an earlier life left behind can be taken for its own.
type holderID [16]byte

// nobody is the holder of a lease that was released.
var nobody holderID

// record is the value of a lease's key: what guarded batches compare.
type record struct {
	epoch  uint64
	holder holderID
}

// recordVersion begins the values of leases and heartbeats.
const recordVersion = 1

func (r record) encode() []byte {
	buf := binary.BigEndian.AppendUint64([]byte{recordVersion}, r.epoch)
	return append(buf, r.holder[:]...)
}

// decodeRecord reads what encode wrote; nil is a lease that nobody ever had.
func decodeRecord(value []byte) (r record, err error) {
	if value == nil {
		return r, nil
	}
	if len(value) != 1+8+len(r.holder) || value[0] != recordVersion {
		return r, fmt.Errorf("lease: record %x is not known", value)
	}
	r.epoch = binary.BigEndian.Uint64(value[1:])
	copy(r.holder[:], value[9:])
	return r, nil
}

// heartbeat is the value of a heartbeat: a number that grows, and a name for
// people.
func heartbeat(n uint64, name string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{recordVersion}, n), name...)
}

// nameIn returns the name in a heartbeat.
func nameIn(beat []byte) string {
	if len(beat) < 9 {
		return ""
	}
	return string(beat[9:])
}

// Lease is one piece of work that is the holder's until it loses it. It is safe for
// concurrent use.
type Lease struct {
	holder *Holder
	key    []byte
	record record
	value  []byte // record, encoded

	lost chan struct{}
}

// Epoch grows with every holder of the lease, beginning at 1.
func (l *Lease) Epoch() uint64 { return l.record.epoch }

// Guard lets b succeed only while the lease is the newest: store.ErrConflict
// otherwise. Confirm then tells whether that was the reason.
func (l *Lease) Guard(b *store.Batch) { b.IfEquals(l.key, l.value) }

// Guards reports whether op is what Guard adds.
func (l *Lease) Guards(op *store.Op) bool {
	return op.Kind == store.OpIfEquals && bytes.Equal(op.Key, l.key) && bytes.Equal(op.Value, l.value)
}

// Lost is closed when the holder must stop: the lease is lost, released, or
// could not be renewed in time.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Held reports whether the holder may go on, as far as it can know without
// asking the store.
func (l *Lease) Held() bool {
	l.holder.expire()
	select {
	case <-l.lost:
		return false
	default:
		return true
	}
}

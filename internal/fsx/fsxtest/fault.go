package fsxtest

import "errors"

// Kind is what an operation does.
type Kind string

// The operations that faults can hit. Reads change nothing and are not counted.
const (
	OpMkdir       Kind = "mkdir"
	OpCreate      Kind = "create"
	OpRename      Kind = "rename"
	OpRemove      Kind = "remove"
	OpSyncDir     Kind = "sync directory"
	OpWrite       Kind = "write"
	OpSync        Kind = "sync"
	OpTruncate    Kind = "truncate"
	OpPreallocate Kind = "preallocate"
	OpRead        Kind = "read"
)

// Op is an operation that is about to happen.
type Op struct {
	// N counts the operations that change something, from 1.
	N      int
	Kind   Kind
	Name   string // of the file or directory; of a rename, the old one
	Octets int    // of a read or write
}

// Short is the fault of a write that fails in the middle: the first Octets are
// written, then the write returns Err.
type Short struct {
	Octets int
	Err    error
}

func (s *Short) Error() string { return s.Err.Error() }

func (s *Short) Unwrap() error { return s.Err }

// SetFault has fault asked before each operation from now on; an error it
// returns is what the operation returns instead of happening. The failed sync
// of a file or directory loses what it should have written, or parts of it.
// fault may call Cut and may be called concurrently. nil ends it.
func (d *Disk) SetFault(fault func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// Ops returns how many operations were counted.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

func (d *Disk) before(kind Kind, name string, octets int) error {
	d.mu.Lock()
	if kind != OpRead {
		d.ops++
	}
	op, fault := Op{N: d.ops, Kind: kind, Name: name, Octets: octets}, d.fault
	d.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(op)
}

// shortBy splits the fault of a write of n octets into how many are written
// and the error.
func shortBy(fault error, n int) (int, error) {
	var short *Short
	switch {
	case fault == nil:
		return n, nil
	case errors.As(fault, &short):
		return min(short.Octets, n), short.Err
	default:
		return 0, fault
	}
}

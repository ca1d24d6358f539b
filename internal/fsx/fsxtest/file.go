package fsxtest

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// inode is the content of a file. Disk.mu guards it.
type inode struct {
	data []byte // as programs see it
	disk []byte // as it surely is after a power cut; never written in place
	// shared tells that data and disk are one array, which must be copied
	// before data is written to.
	shared    bool
	pending   []change // what was done since the last sync, in order
	lost      bool     // a sync failed: disk cannot be data any more
	allocated int64
}

// change is a write or, without data, a new length.
type change struct {
	offset int64
	data   []byte
	length int64 // the file's, behind a change of length
}

func (c change) isWrite() bool { return c.data != nil }

// lengthAfter returns the file's length once the change is done.
func (c change) lengthAfter(before int64) int64 {
	if c.isWrite() {
		return max(before, c.offset+int64(len(c.data)))
	}
	return c.length
}

// apply does the change to the octets from start on, as far as it touches them.
func (c change) apply(octets []byte, start int64) {
	end := start + int64(len(octets))
	if !c.isWrite() {
		if c.length < end {
			clear(octets[max(c.length-start, 0):])
		}
		return
	}
	from, to := max(c.offset, start), min(c.offset+int64(len(c.data)), end)
	if from < to {
		copy(octets[from-start:], c.data[from-c.offset:to-c.offset])
	}
}

// change does c to what programs see.
func (n *inode) change(c change) {
	length := c.lengthAfter(int64(len(n.data)))
	if n.shared || length > int64(cap(n.data)) {
		n.data, n.shared = append(make([]byte, 0, max(length, int64(len(n.data)))), n.data...), false
	}
	if length < int64(len(n.data)) {
		clear(n.data[length:]) // zeros when it grows again
	}
	n.data = n.data[:length]
	c.apply(n.data, 0)
	n.pending = append(n.pending, c)
}

func (n *inode) sync() {
	if !n.lost {
		n.disk, n.shared = n.data, true
	} else {
		n.disk = replay(n.disk, n.pending)
	}
	n.pending = nil
}

// replay returns content with the changes done, in memory of its own.
func replay(content []byte, changes []change) []byte {
	content = slices.Clone(content)
	for _, c := range changes {
		content = resize(content, c.lengthAfter(int64(len(content))))
		c.apply(content, 0)
	}
	return content
}

func resize(content []byte, length int64) []byte {
	if more := length - int64(len(content)); more > 0 {
		return append(content, make([]byte, more)...)
	}
	return content[:length]
}

// file implements fsx.File.
type file struct {
	disk   *Disk
	name   string
	node   *inode
	closed atomic.Bool
}

// begin is ahead of each operation.
func (f *file) begin(kind Kind, octets int) error {
	if f.closed.Load() {
		return f.fail(string(kind), fs.ErrClosed)
	}
	return f.disk.before(kind, f.name, octets)
}

func (f *file) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.begin(OpRead, len(p)); err != nil {
		return 0, err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if offset < 0 {
		return 0, f.fail("read", unix.EINVAL)
	}
	if offset >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	fault := f.begin(OpWrite, len(p))
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if offset < 0 {
		return 0, f.fail("write", unix.EINVAL)
	}
	n, err := shortBy(fault, len(p))
	if room := f.node.allocated + f.disk.freeLocked() - offset; int64(n) > room {
		n, err = int(max(room, 0)), f.fail("write", unix.ENOSPC)
	}
	if n > 0 {
		f.node.change(change{offset: offset, data: slices.Clone(p[:n])})
		f.node.allocated = max(f.node.allocated, offset+int64(n))
	}
	return n, err
}

func (f *file) Sync() error {
	fault := f.begin(OpSync, 0)
	if f.closed.Load() {
		return fault
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if fault != nil {
		f.node.disk = f.node.afterCut(f.disk.rnd)
		f.node.pending, f.node.lost = nil, true
		f.node.data, f.node.shared = slices.Clone(f.node.data), false
		return fault
	}
	f.node.sync()
	return nil
}

func (f *file) Truncate(octets int64) error {
	if err := f.begin(OpTruncate, 0); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if octets < 0 {
		return f.fail("truncate", unix.EINVAL)
	}
	f.node.change(change{length: octets})
	f.node.allocated = min(f.node.allocated, octets)
	return nil
}

func (f *file) Preallocate(octets int64) error {
	if err := f.begin(OpPreallocate, 0); err != nil {
		return err
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if octets-f.node.allocated > f.disk.freeLocked() {
		return f.fail("preallocate", unix.ENOSPC)
	}
	f.node.allocated = max(f.node.allocated, octets)
	if octets > int64(len(f.node.data)) {
		f.node.change(change{length: octets})
	}
	return nil
}

func (f *file) Size() (int64, error) {
	if f.closed.Load() {
		return 0, f.fail("size", fs.ErrClosed)
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.node.data)), nil
}

func (f *file) Close() error {
	if f.closed.Swap(true) {
		return f.fail("close", fs.ErrClosed)
	}
	return nil
}

// Flip inverts one bit of a file, as a disk that goes bad does.
func (d *Disk) Flip(name string, octet int64, bit uint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.lookup("flip", name)
	if err != nil {
		return err
	}
	node := dir.names[base]
	if node == nil || octet >= int64(len(node.data)) {
		return fmt.Errorf("flip: nothing at %d of %s", octet, name)
	}
	node.data, node.shared = slices.Clone(node.data), false
	node.data[octet] ^= 1 << (bit % 8)
	if octet < int64(len(node.disk)) {
		node.disk = slices.Clone(node.disk)
		node.disk[octet] ^= 1 << (bit % 8)
	}
	return nil
}

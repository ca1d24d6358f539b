// Package fsxtest is a file system in memory that knows what a power cut would
// leave of it.
//
// What goes in: the calls of fsx.FS. What comes out: at any instant, by Cut, a
// disk as it may be found after the power failed then. What was synced is on
// it. Of the rest anything may be: nothing, all, the first writes and a torn
// one, an arbitrary choice of sectors in arbitrary versions, garbage in a
// sector that was being written, names that came, went or stayed regardless of
// one another. A seed makes the choice repeatable.
//
// Faults are injected before the operations: errors, short writes, a full
// disk. After a failed sync the pages are gone, as with Linux: reads still show
// them, no later sync writes them.
package fsxtest

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
)

// Disk implements fsx.FS. It is safe for concurrent use.
type Disk struct {
	mu       sync.Mutex
	dirs     map[string]*directory // by cleaned path
	capacity int64                 // 0 for no bound
	ops      int
	fault    func(Op) error
	rnd      *rand.Rand // decides what failed syncs leave
}

// New returns an empty disk. The seed decides what failed syncs leave.
func New(seed uint64) *Disk {
	return &Disk{dirs: map[string]*directory{}, rnd: newRand(seed)}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// SetCapacity bounds what all files together may occupy; 0 lifts the bound.
func (d *Disk) SetCapacity(octets int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = octets
}

// directory holds names. Directories themselves are durable once made, as
// fsx.FS.MkdirAll promises.
type directory struct {
	names   map[string]*inode // as programs see them
	disk    map[string]*inode // as they surely are after a power cut
	pending []rename          // what lies between the two, in order
}

// rename is any change of names: a new file has no from, a removed one no to.
type rename struct {
	from, to string
	node     *inode
}

func (r rename) apply(names map[string]*inode) {
	if r.from != "" && names[r.from] == r.node {
		delete(names, r.from)
	}
	if r.to != "" {
		names[r.to] = r.node
	}
}

func (dir *directory) change(r rename) {
	r.apply(dir.names)
	dir.pending = append(dir.pending, r)
}

// lookup returns the directory of a file and its name there.
func (d *Disk) lookup(op, name string) (*directory, string, error) {
	path, base := filepath.Split(filepath.Clean(name))
	dir := d.dirs[filepath.Clean(path)]
	if dir == nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: unix.ENOENT}
	}
	return dir, base, nil
}

// MkdirAll implements fsx.FS.
func (d *Disk) MkdirAll(path string) error {
	if err := d.before(OpMkdir, path, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for path = filepath.Clean(path); d.dirs[path] == nil; path = filepath.Dir(path) {
		d.dirs[path] = &directory{names: map[string]*inode{}, disk: map[string]*inode{}}
	}
	return nil
}

// Create implements fsx.FS.
func (d *Disk) Create(name string) (fsx.File, error) {
	if err := d.before(OpCreate, name, 0); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.lookup("create", name)
	if err != nil {
		return nil, err
	}
	if dir.names[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: unix.EEXIST}
	}
	node := &inode{}
	dir.change(rename{to: base, node: node})
	return &file{disk: d, name: name, node: node}, nil
}

// Open implements fsx.FS.
func (d *Disk) Open(name string) (fsx.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.lookup("open", name)
	if err != nil {
		return nil, err
	}
	node := dir.names[base]
	if node == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.ENOENT}
	}
	return &file{disk: d, name: name, node: node}, nil
}

// Rename implements fsx.FS, within one directory: which of two directories
// must be synced is nothing to rely on.
func (d *Disk) Rename(from, to string) error {
	if err := d.before(OpRename, from, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.lookup("rename", from)
	if err != nil {
		return err
	}
	target, newBase, err := d.lookup("rename", to)
	if err != nil {
		return err
	}
	if dir != target {
		return &fs.PathError{Op: "rename", Path: to, Err: unix.EXDEV}
	}
	node := dir.names[base]
	if node == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: unix.ENOENT}
	}
	if base != newBase {
		dir.change(rename{from: base, to: newBase, node: node})
	}
	return nil
}

// Remove implements fsx.FS.
func (d *Disk) Remove(name string) error {
	if err := d.before(OpRemove, name, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.lookup("remove", name)
	if err != nil {
		return err
	}
	node := dir.names[base]
	if node == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: unix.ENOENT}
	}
	dir.change(rename{from: base, node: node})
	return nil
}

// SyncDir implements fsx.FS.
func (d *Disk) SyncDir(path string) error {
	fault := d.before(OpSyncDir, path, 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.dirs[filepath.Clean(path)]
	if dir == nil {
		return &fs.PathError{Op: "sync", Path: path, Err: unix.ENOENT}
	}
	if fault != nil {
		dir.disk = dir.afterCut(d.rnd)
	} else {
		for _, r := range dir.pending {
			r.apply(dir.disk)
		}
	}
	dir.pending = nil
	return fault
}

// ReadDir implements fsx.FS.
func (d *Disk) ReadDir(path string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.dirs[filepath.Clean(path)]
	if dir == nil {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: unix.ENOENT}
	}
	return slices.Sorted(maps.Keys(dir.names)), nil
}

// Free implements fsx.FS.
func (d *Disk) Free(string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.freeLocked(), nil
}

func (d *Disk) freeLocked() int64 {
	if d.capacity == 0 {
		return 1 << 50
	}
	free := d.capacity
	for _, dir := range d.dirs {
		for _, node := range dir.names {
			free -= node.allocated
		}
	}
	return free
}

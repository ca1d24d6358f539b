// Package fsx is the way to durable files: create, write, sync, rename, sync
// the directory. Everything that must survive a power cut is written through
// it, so that fsxtest can cut the power after each of these steps.
//
// What it promises: when File.Sync returned nil the octets written before are
// on stable storage; when SyncDir returned nil so are the names created,
// renamed and removed in that directory before. Nothing less promises anything.
package fsx

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// FS is a file system. It is safe for concurrent use.
type FS interface {
	// MkdirAll makes a directory and its missing parents, mode 0700, and syncs
	// the directory each new name stands in.
	MkdirAll(dir string) error
	// Create makes a new file, mode 0600, for reading and writing. An existing
	// one is an error that is fs.ErrExist.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Rename gives a file another name in place of what had that name.
	Rename(from, to string) error
	// Remove removes a file.
	Remove(name string) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// ReadDir returns the names in dir, sorted.
	ReadDir(dir string) ([]string, error)
	// Free returns the octets that can be written in dir's file system.
	Free(dir string) (int64, error)
}

// File is an open file. ReadAt and WriteAt are safe for concurrent use.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes the content, and the length as far as reading it back needs
	// it, durable. After an error nothing written since the last success may
	// be relied on, even if a later Sync succeeds.
	Sync() error
	// Truncate sets the length.
	Truncate(octets int64) error
	// Preallocate makes the file at least so long and reserves the space, so
	// that writes within it need no new blocks. Where the file system cannot
	// reserve it does nothing.
	Preallocate(octets int64) error
	// Size returns the length.
	Size() (int64, error)
}

// OS returns the operating system's file system.
func OS() FS { return osFS{} }

// IsFull reports whether err says that there is no room for more.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// WriteFile replaces name by a file with data, durably and at once: after a
// power cut there is either the old content or the new.
func WriteFile(fsys FS, name string, data []byte) error {
	temporary := name + ".new"
	if err := fsys.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(fsys, temporary, data); err != nil {
		// What is there of it may fill the disk. It need not be there at all.
		_ = fsys.Remove(temporary)
		return err
	}
	if err := fsys.Rename(temporary, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

func writeNew(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncAll is Sync of many files at once, which may cost no more than that of one.
// After an error none of them counts as synced.
func SyncAll(fsys FS, files []File) error {
	if fsys == OS() && len(files) > 1 {
		if done, err := syncTogether(files); done {
			return err
		}
	}
	const atOnce = 8
	var errs [atOnce]error
	var all sync.WaitGroup
	for k := range min(atOnce, len(files)) {
		all.Go(func() {
			for i := k; i < len(files) && errs[k] == nil; i += atOnce {
				errs[k] = files[i].Sync()
			}
		})
	}
	all.Wait()
	return errors.Join(errs[:]...)
}

// syncTogether writes out the file systems that files are in, where these are
// known to keep what Sync promises so. It costs one flush of the disk, not one for
// each file. An error in writing a file shows at that file only, so that each is
// asked.
func syncTogether(files []File) (done bool, err error) {
	synced := make(map[uint64]bool) // by device
	for _, f := range files {
		err := f.(osFile).withDescriptor("syncfs", func(fd int) error {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || synced[st.Dev] {
				return err
			}
			var fs unix.Statfs_t
			if err := unix.Fstatfs(fd, &fs); err != nil {
				return err
			}
			switch fs.Type {
			case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
			default:
				return errors.ErrUnsupported
			}
			synced[st.Dev] = true
			return unix.Syncfs(fd)
		})
		if errors.Is(err, errors.ErrUnsupported) {
			return false, nil
		} else if err != nil {
			return true, err
		}
	}
	for _, f := range files {
		const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err := f.(osFile).withDescriptor("sync_file_range", func(fd int) error { return unix.SyncFileRange(fd, 0, 0, all) }); err != nil {
			return true, err
		}
	}
	return true, nil
}

type osFS struct{}

func (osFS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		// Who made it may have been killed before the sync. A parent that we
		// may not read is none of ours, and neither is dir.
		if err := (osFS{}).SyncDir(parent); !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	}
	if parent != dir {
		if err := (osFS{}).MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return osFS{}.SyncDir(parent)
}

func (osFS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (osFS) Open(name string) (File, error) { return openOS(name, os.O_RDWR) }

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (osFS) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

type osFile struct{ *os.File }

func openOS(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Sync holds the descriptor while it syncs: one that Close gave back may be
// another file's by now, and its success a lie.
func (f osFile) Sync() error { return f.withDescriptor("fdatasync", unix.Fdatasync) }

// withDescriptor calls do, again when a signal interrupts it.
func (f osFile) withDescriptor(op string, do func(fd int) error) error {
	var result error
	conn, err := f.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) {
			for result = do(int(fd)); errors.Is(result, unix.EINTR); {
				result = do(int(fd))
			}
		})
	}
	if err != nil {
		result = fs.ErrClosed // the one reason not to get the descriptor
	}
	if result != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: result}
	}
	return nil
}

func (f osFile) Preallocate(octets int64) error {
	err := f.withDescriptor("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, octets) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

package content

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/status"
)

// SpoolConfig says where messages are kept while they are looked at, and how
// much of them.
type SpoolConfig struct {
	// Dir is the folder of the files of large messages. They have no names
	// there once they are open, so that nothing is left of a process that dies.
	// Required.
	Dir string
	// MaxMessageMemory is how much of one message is kept in memory; the rest is
	// in a file. 0 is 1 MiB.
	MaxMessageMemory int64
	// MaxMemory is how much of all messages is kept in memory; beyond, they are
	// in files from their first octet on. 0 is 128 MiB.
	MaxMemory int64
	// MaxOctets is how much of all messages is kept at all; what is beyond is put
	// off. 0 is 1 GiB. The last quarter is for clients who hold little, so that
	// many who hold much do not shut others out.
	MaxOctets int64
	// MaxClientOctets is how much the messages of one client hold at most; what is
	// beyond is put off. 0 is a quarter of MaxOctets.
	MaxClientOctets int64
}

// Spool keeps messages for as long as they are looked at. It is safe for
// concurrent use.
type Spool struct {
	cfg    SpoolConfig
	disk   fsx.FS
	files  atomic.Uint64
	memory atomic.Int64 // octets of chunks in use
	octets atomic.Int64 // of memory and files
	shares shares
	// open is how many files there are, refused what there was no room for.
	open    atomic.Int64
	refused atomic.Uint64
}

const (
	chunkOctets = 32 << 10
	filePrefix  = "content-"
)

var chunks = sync.Pool{New: func() any { return new([chunkOctets]byte) }}

// OpenSpool makes the folder and removes what another process left there.
func OpenSpool(cfg SpoolConfig, disk fsx.FS) (*Spool, error) {
	if cfg.Dir == "" {
		return nil, errors.New("the spool of content needs a folder")
	}
	cfg.MaxMessageMemory = cmp.Or(cfg.MaxMessageMemory, 1<<20)
	cfg.MaxMemory = cmp.Or(cfg.MaxMemory, 128<<20)
	cfg.MaxOctets = cmp.Or(cfg.MaxOctets, 1<<30)
	cfg.MaxClientOctets = cmp.Or(cfg.MaxClientOctets, max(cfg.MaxOctets/4, 1))
	if cfg.MaxMessageMemory < 0 || cfg.MaxMemory < 0 || cfg.MaxOctets < 0 || cfg.MaxClientOctets < 0 {
		return nil, errors.New("the limits of the spool of content must not be negative")
	}
	if err := disk.MkdirAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("spool of content: %w", err)
	}
	s := &Spool{cfg: cfg, disk: disk}
	names, err := disk.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("spool of content: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, filePrefix) {
			if err := disk.Remove(filepath.Join(cfg.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("spool of content: %w", err)
			}
		}
	}
	return s, nil
}

// Octets returns how much is kept now, and how much of it in memory.
func (s *Spool) Octets() (all, memory int64) { return s.octets.Load(), s.memory.Load() }

// Usage is what a Spool holds.
type Usage struct {
	// Octets is how much is kept now, Memory how much of it in memory, Limit
	// how much may be kept.
	Octets, Memory, Limit int64
	// Files is how many files are open.
	Files int64
	// Clients is how many clients have messages in it, of those that count.
	Clients int
	// Refused counts what there was no room for since the start, be it the
	// limit or the disk.
	Refused uint64
}

// Usage returns what is held now.
func (s *Spool) Usage() Usage {
	return Usage{
		Octets: s.octets.Load(), Memory: s.memory.Load(), Limit: s.cfg.MaxOctets, Files: s.open.Load(), Clients: s.shares.clients(),
		Refused: s.refused.Load(),
	}
}

// chunk returns memory, or nil where there is none for the message.
func (s *Spool) chunk(held int) *[chunkOctets]byte {
	if int64(held+1)*chunkOctets > max(s.cfg.MaxMessageMemory, chunkOctets) {
		return nil
	}
	if s.memory.Add(chunkOctets) > s.cfg.MaxMemory {
		s.memory.Add(-chunkOctets)
		return nil
	}
	return chunks.Get().(*[chunkOctets]byte)
}

// file returns a new file that goes with its last user.
func (s *Spool) file() (fsx.File, error) {
	name := filepath.Join(s.cfg.Dir, filePrefix+strconv.Itoa(os.Getpid())+"-"+strconv.FormatUint(s.files.Add(1), 10))
	f, err := s.disk.Create(name)
	if err != nil {
		return nil, err
	}
	if err := s.disk.Remove(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Keep reads r to its end, for no client in particular. An error of r is returned
// as it is; a full disk, or more than the spool may hold, is
// status.MailSystemFull. Nothing is left of what was not read whole.
func (s *Spool) Keep(r io.Reader) (*Buffer, error) { return s.keep(r, &account{}) }

func (s *Spool) keep(r io.Reader, a *account) (*Buffer, error) {
	b := &Buffer{spool: s, account: a}
	if err := b.fill(r); err != nil {
		b.Free()
		if status.Of(err) == status.MailSystemFull && !errors.Is(err, ErrTooLarge) {
			s.refused.Add(1)
		}
		return nil, err
	}
	return b, nil
}

// Buffer is what Keep read. Its octets never change. It is safe for concurrent
// use.
type Buffer struct {
	spool   *Spool
	account *account

	mu     sync.RWMutex
	freed  bool
	octets int64
	taken  int64                // from the spool
	chunks []*[chunkOctets]byte // the beginning
	file   fsx.File             // the rest; nil while there is none
}

func (b *Buffer) fill(r io.Reader) error {
	for {
		c := b.spool.chunk(len(b.chunks))
		if c == nil {
			return b.spill(r)
		}
		b.chunks = append(b.chunks, c)
		n, err := b.read(r, c[:])
		if err != nil || n < len(c) {
			return err
		}
	}
}

// read fills p, or as much of it as r has, and counts it.
func (b *Buffer) read(r io.Reader, p []byte) (int, error) {
	if err := b.spool.take(int64(len(p)), b.account); err != nil {
		return 0, err
	}
	b.taken += int64(len(p))
	n, err := io.ReadFull(r, p)
	b.octets += int64(n)
	unused := int64(len(p) - n)
	b.taken -= unused
	b.spool.give(unused, b.account)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

// spill puts the rest into a file.
func (b *Buffer) spill(r io.Reader) error {
	buffer := chunks.Get().(*[chunkOctets]byte)
	defer chunks.Put(buffer)
	for at := int64(0); ; {
		n, err := b.read(r, buffer[:])
		if err != nil || n == 0 {
			return err
		}
		if b.file == nil {
			if b.file, err = b.spool.file(); err != nil {
				return diskError(err)
			}
			b.spool.open.Add(1)
		}
		if _, err := b.file.WriteAt(buffer[:n], at); err != nil {
			return diskError(err)
		}
		at += int64(n)
		if n < len(buffer) {
			return nil
		}
	}
}

// diskError classes what a disk says: senders wait for it.
func diskError(err error) error {
	if fsx.IsFull(err) {
		return status.New(status.MailSystemFull, fmt.Errorf("spool of content: %w", err))
	}
	return status.New(status.StoreDown, fmt.Errorf("spool of content: %w", err))
}

// Size returns how many octets there are.
func (b *Buffer) Size() int64 { return b.octets }

// NewReader returns a reader from the first octet on. It fails with
// fs.ErrClosed once the buffer is freed.
func (b *Buffer) NewReader() *io.SectionReader { return io.NewSectionReader(b, 0, b.octets) }

// ReadAt implements io.ReaderAt.
func (b *Buffer) ReadAt(p []byte, at int64) (n int, err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.freed {
		return 0, fs.ErrClosed
	}
	for n < len(p) && at < b.octets {
		m := 0
		if i := at / chunkOctets; i < int64(len(b.chunks)) {
			m = copy(p[n:], b.chunks[i][at%chunkOctets:min(chunkOctets, b.octets-i*chunkOctets)])
		} else {
			beyond := int64(len(b.chunks)) * chunkOctets
			m, err = b.file.ReadAt(p[n:n+int(min(int64(len(p)-n), b.octets-at))], at-beyond)
			if m == 0 && err != nil {
				return n, diskError(err)
			}
		}
		n, at = n+m, at+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Free gives back what the buffer holds. Further calls do nothing.
func (b *Buffer) Free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed {
		return
	}
	b.freed = true
	for _, c := range b.chunks {
		chunks.Put(c)
	}
	b.spool.memory.Add(-int64(len(b.chunks)) * chunkOctets)
	b.chunks = nil
	if b.file != nil {
		// It has no name: closing it is all there is to do, and its content is
		// nobody's any more.
		_ = b.file.Close()
		b.spool.open.Add(-1)
	}
	b.spool.give(b.taken, b.account)
}

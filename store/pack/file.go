package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/postern-mail/postern/internal/fsx"
)

// A pack begins with fileHeader octets: magic (7), format version (1), number
// (8). A
// record is a header and data:
//
//	0  magic "PR01"
//	4  octets of data
//	8  CRC-32C of magic, length and data
//	12 zero
const (
	fileHeader   = 16
	recordHeader = 16
	maxOffset    = 1 << 40
	packMagic    = "PPACK\x00\x00"
	packVersion  = 1
)

var (
	recordMagic = []byte("PR01")
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

var (
	errDamaged = errors.New("body is damaged on disk")
	errNoPack  = errors.New("pack is missing")
	errClosed  = errors.New("bodies are closed")
	errHeader  = errors.New("beginning of the pack is damaged")
	errOther   = errors.New("the file is another pack")

	errDiscarded = errors.New("the staged body was discarded before its link")
	errNewer     = errors.New("written by a newer program")
)

// packFile is one pack.
type packFile struct {
	number uint64
	name   string // guarded by Blobs.tidying: changes when the pack is sealed
	file   fsx.File

	// Guarded by Blobs.mu.
	end   int64 // where the next record goes
	full  bool  // nothing more goes here
	users int   // staged bodies, readers and writers that need the file

	syncing sync.Mutex // held by who syncs
	mu      sync.Mutex
	written uint64 // writes done
	synced  uint64 // writes known to be durable
	broken  error  // a failed write or sync: nothing more goes here
}

func openName(number uint64) string   { return fmt.Sprintf("%016x.open", number) }
func sealedName(number uint64) string { return fmt.Sprintf("%016x.pack", number) }

// packHeader returns what a pack begins with.
func packHeader(number uint64) []byte {
	header := append([]byte(nil), packMagic...)
	return binary.BigEndian.AppendUint64(append(header, packVersion), number)
}

// checkHeader reads what a pack begins with.
func (p *packFile) checkHeader() error {
	header := make([]byte, fileHeader)
	if _, err := p.file.ReadAt(header, 0); err != nil && err != io.EOF {
		return fmt.Errorf("read pack %x: %w", p.number, err)
	}
	if string(header[:len(packMagic)]) != packMagic {
		return errHeader
	}
	if version := header[len(packMagic)]; version > packVersion {
		return fmt.Errorf("%w: format %d, this one knows %d", errNewer, version, packVersion)
	}
	if !bytes.Equal(header, packHeader(p.number)) {
		return errOther
	}
	return nil
}

// putRecordHeader fills in the header of a record whose data stands behind it.
func putRecordHeader(record []byte) {
	copy(record, recordMagic)
	binary.BigEndian.PutUint32(record[4:], uint32(len(record)-recordHeader))
	binary.BigEndian.PutUint32(record[8:], recordSum(record))
	binary.BigEndian.PutUint32(record[12:], 0)
}

func recordSum(record []byte) uint32 {
	return crc32.Update(crc32.Checksum(record[:8], castagnoli), castagnoli, record[recordHeader:])
}

// readPiece reads and verifies one record into buf, which is grown as needed,
// and returns its data.
func (p *packFile) readPiece(at piece, buf []byte) (record []byte, err error) {
	need := int(recordHeader + at.octets)
	if cap(buf) < need {
		buf = make([]byte, need)
	}
	buf = buf[:need]
	if _, err := p.file.ReadAt(buf, at.offset); err != nil {
		return buf, fmt.Errorf("read pack %x: %w", p.number, err)
	}
	if string(buf[:4]) != string(recordMagic) ||
		int64(binary.BigEndian.Uint32(buf[4:])) != at.octets ||
		binary.BigEndian.Uint32(buf[8:]) != recordSum(buf) {
		return buf, fmt.Errorf("%w: pack %x at %d", errDamaged, p.number, at.offset)
	}
	return buf, nil
}

// write puts a record where reserve said, and counts it.
func (p *packFile) write(record []byte, offset int64) error {
	if _, err := p.file.WriteAt(record, offset); err != nil {
		p.breakOff(err)
		return fmt.Errorf("write pack %x: %w", p.number, full(err))
	}
	p.wrote()
	return nil
}

// wrote counts a write.
func (p *packFile) wrote() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written++
}

func (p *packFile) breakOff(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = err
	}
}

// state returns how many writes are done and durable.
func (p *packFile) state() (written, synced uint64, broken error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written, p.synced, p.broken
}

// sync returns when every write that was done before the call is durable. Who
// waits while another one syncs is served by the next sync, together with
// everybody else who waits.
func (p *packFile) sync() error {
	need, synced, _ := p.state()
	if synced >= need {
		return nil
	}
	p.syncing.Lock()
	defer p.syncing.Unlock()
	_, synced, broken := p.state()
	if synced >= need {
		return nil
	}
	if broken != nil {
		return fmt.Errorf("sync pack %x after an earlier failure: %w", p.number, full(broken))
	}
	// Those behind this one are about to write or to queue here: let them, on
	// few processors the scheduler would otherwise serve them one by one.
	runtime.Gosched()
	written, _, _ := p.state()
	if err := p.file.Sync(); err != nil {
		// The kernel may have dropped the pages: a later success would lie.
		p.breakOff(err)
		return fmt.Errorf("sync pack %x: %w", p.number, full(err))
	}
	p.mu.Lock()
	p.synced = written
	p.mu.Unlock()
	return nil
}

// reserve returns room for one record in the active pack, beginning a new one
// where needed. The caller writes it and calls writing.Done, and holds a use of
// the pack until release.
func (b *Blobs) reserve(octets int64) (*packFile, int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, 0, errClosed
	}
	if p := b.active; p != nil {
		_, _, broken := p.state()
		if broken != nil || p.end+octets > b.cfg.PackOctets {
			b.active = nil
			p.full = true
			select {
			case b.filled <- struct{}{}:
			default:
			}
		}
	}
	if b.active == nil {
		p, err := b.createLocked()
		if err != nil {
			return nil, 0, full(err)
		}
		b.active = p
	}
	p := b.active
	offset := p.end
	p.end += octets
	p.users++
	b.writing.Add(1)
	return p, offset, nil
}

// createLocked makes a new pack. Its name is durable before anything in it is
// named; its header becomes so with the first body.
func (b *Blobs) createLocked() (*packFile, error) {
	if err := b.checkSpace(b.cfg.PackOctets); err != nil {
		return nil, err
	}
	p := &packFile{number: b.next, name: openName(b.next), end: fileHeader}
	b.next++
	f, err := b.fs.Create(b.path(p.name))
	if err != nil {
		return nil, fmt.Errorf("begin pack: %w", err)
	}
	err = f.Preallocate(b.cfg.PackOctets)
	if err == nil {
		_, err = f.WriteAt(packHeader(p.number), 0)
	}
	if err == nil {
		err = b.fs.SyncDir(b.cfg.Dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin pack: %w", err), f.Close(), b.fs.Remove(b.path(p.name)))
	}
	p.file, p.written = f, 1
	b.packs[p.number] = p
	return p, nil
}

// release ends a use of a pack. It does no input or output: the collector of
// garbage calls it, too.
func (b *Blobs) release(p *packFile) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.users--
}

// sealFull seals the packs that are full: what is not sealed is read and
// verified by the next start after a crash.
func (b *Blobs) sealFull() {
	b.tidying.Lock()
	defer b.tidying.Unlock()
	b.mu.Lock()
	var full []*packFile
	for _, p := range b.packs {
		if p.full && !b.closed {
			full = append(full, p)
		}
	}
	b.mu.Unlock()
	for _, p := range full {
		if err := b.sealTidying(p); err != nil {
			b.log.Warn("close pack", "pack", p.name, "err", err)
		}
	}
}

// sealTidying gives a full pack its final length and name; one that has them,
// or that failed, stays as it is. The caller holds tidying. A failure leaves
// the pack as a crash would; the next start repairs it.
func (b *Blobs) sealTidying(p *packFile) error {
	name := sealedName(p.number)
	if _, _, broken := p.state(); broken != nil || p.name == name {
		return nil
	}
	err := p.file.Truncate(p.end)
	if err == nil {
		p.wrote()
		err = p.sync()
	}
	if err == nil {
		err = b.fs.Rename(b.path(p.name), b.path(name))
	}
	if err != nil {
		p.breakOff(err) // once is enough
		return err
	}
	p.name = name
	return b.fs.SyncDir(b.cfg.Dir)
}

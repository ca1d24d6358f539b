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
	"time"

	"github.com/postern-mail/postern/internal/fsx"
)

// A pack begins with fileHeader octets: magic (5), what it is filled with (1),
// zero (1), format version (1), number (8). A record is a header and data:
//
//	0  magic, "PR01" or, of compressed data, "PR02"
//	4  octets of data
//	8  CRC-32C of magic, length, data and, when compressed, what follows
//	12 octets of the body in it; zero when not compressed
//
// Of version 1, which the first release wrote, are packs of stream fresh with
// records "PR01" only.
const (
	fileHeader   = 16
	recordHeader = 16
	maxOffset    = 1 << 40
	packMagic    = "PPACK"
	packVersion  = 2
)

var (
	rawMagic        = []byte("PR01")
	compressedMagic = []byte("PR02")
	castagnoli      = crc32.MakeTable(crc32.Castagnoli)
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
	stream stream // what it is filled with
	name   string // guarded by Blobs.tidying: changes when the pack is sealed
	file   fsx.File

	// Guarded by Blobs.mu.
	end   int64     // where the next record goes
	full  bool      // nothing more goes here
	since time.Time // since when, or since the start
	users int       // staged bodies, readers and writers that need the file
	stuck bool      // something in it is damaged and cannot be moved

	syncing sync.Mutex // held by who syncs
	mu      sync.Mutex
	written uint64 // writes done
	synced  uint64 // writes known to be durable
	broken  error  // a failed write or sync: nothing more goes here
}

func openName(number uint64) string   { return fmt.Sprintf("%016x.open", number) }
func sealedName(number uint64) string { return fmt.Sprintf("%016x.pack", number) }

// packHeader returns what a pack begins with.
func packHeader(number uint64, filledWith stream) []byte {
	header := append([]byte(packMagic), byte(filledWith), 0, packVersion)
	return binary.BigEndian.AppendUint64(header, number)
}

// readHeader reads what a pack begins with, and returns what it is filled with.
func (p *packFile) readHeader() (stream, error) {
	header := make([]byte, fileHeader)
	if _, err := p.file.ReadAt(header, 0); err != nil && err != io.EOF {
		return fresh, fmt.Errorf("read pack %x: %w", p.number, err)
	}
	if string(header[:len(packMagic)]) != packMagic {
		return fresh, errHeader
	}
	version, filledWith := header[7], stream(header[5])
	switch {
	case version > packVersion:
		return fresh, fmt.Errorf("%w: format %d, this one knows %d", errNewer, version, packVersion)
	case version == 0 || header[6] != 0 || filledWith >= streams || version == 1 && filledWith != fresh:
		return fresh, errHeader
	case binary.BigEndian.Uint64(header[8:]) != p.number:
		return fresh, errOther
	}
	return filledWith, nil
}

// putRecordHeader fills in the header of a record whose data stands behind it:
// octets of a body as they are, or, when it is less, compressed.
func putRecordHeader(record []byte, octets int64) {
	data := int64(len(record) - recordHeader)
	copy(record, rawMagic)
	binary.BigEndian.PutUint32(record[4:], uint32(data))
	binary.BigEndian.PutUint32(record[12:], 0)
	if data < octets {
		copy(record, compressedMagic)
		binary.BigEndian.PutUint32(record[12:], uint32(octets))
	}
	binary.BigEndian.PutUint32(record[8:], recordSum(record))
}

func recordSum(record []byte) uint32 {
	sum := crc32.Update(crc32.Checksum(record[:8], castagnoli), castagnoli, record[recordHeader:])
	if bytes.Equal(record[:4], compressedMagic) {
		sum = crc32.Update(sum, castagnoli, record[12:recordHeader])
	}
	return sum
}

// readRecord reads and verifies one record into buf, which is grown as needed.
func (p *packFile) readRecord(at piece, buf []byte) (record []byte, err error) {
	need := int(at.room())
	if cap(buf) < need {
		buf = make([]byte, need)
	}
	buf = buf[:need]
	if _, err := p.file.ReadAt(buf, at.offset); err != nil {
		return buf, fmt.Errorf("read pack %x: %w", p.number, err)
	}
	magic, octets := rawMagic, uint32(0)
	if at.compressed() {
		magic, octets = compressedMagic, uint32(at.octets)
	}
	if !bytes.Equal(buf[:4], magic) ||
		int64(binary.BigEndian.Uint32(buf[4:])) != at.stored ||
		at.compressed() && binary.BigEndian.Uint32(buf[12:]) != octets ||
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

// Package audit keeps the record of who did what, and why it was decided so.
//
// What comes in: mail.Event values from every room. What goes out: one JSON
// line per event in an append-only file, numbered and chained: each line
// carries the SHA-256 of the one before, so that a missing, changed or
// reordered line shows (Verify). It guarantees order and one line per event;
// lines are written within milliseconds and synced once a second. It never
// sees passwords or message content, and it leaves rotation to logrotate with
// Reopen.
//
// Mail does not wait for the audit: while its disk is full, events are kept in
// memory, some 16 MiB of them, and written once there is room. What goes beyond
// that is lost; the log says so, and the chain shows it.
package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
)

// Config says where the audit is kept.
type Config struct {
	// File is the path of the audit file. Empty: events go to the log only,
	// at debug level.
	File string
	// SyncInterval is the longest time a written line waits for the disk.
	// Zero means one second.
	SyncInterval time.Duration
}

// writeDelay is how long a line waits for others, to share their write: a
// message has four.
const writeDelay = 5 * time.Millisecond

// maxPending bounds the lines that wait for Run; above it Record writes itself.
const maxPending = 1 << 20

// Log is an open audit. It is safe for concurrent use.
type Log struct {
	cfg  Config
	log  hclog.Logger
	wake chan struct{}

	mu   sync.Mutex
	file output // nil without a file
	// pending holds whole lines; written octets of the first are in the file
	// already.
	pending bytes.Buffer
	written int
	seq     uint64
	prev    [sha256.Size]byte
	broken  bool // the last write failed; said once until it works again
}

// output is what is used of an *os.File.
type output interface {
	io.Writer
	fsx.Locked
	Stat() (fs.FileInfo, error)
	Sync() error
}

// Open opens the audit and finds the end of its chain.
func Open(cfg Config, log hclog.Logger) (*Log, error) {
	if cfg.SyncInterval == 0 {
		cfg.SyncInterval = time.Second
	}
	l := &Log{cfg: cfg, log: log, wake: make(chan struct{}, 1)}
	if cfg.File == "" {
		return l, nil
	}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	if err := os.MkdirAll(filepath.Dir(l.cfg.File), 0o750); err != nil {
		return fmt.Errorf("open audit: %w", err)
	}
	f, err := os.OpenFile(l.cfg.File, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open audit: %w", err)
	}
	if err := l.takeOver(f); err != nil {
		_ = fsx.CloseLocked(f) // or not locked, for that
		return fmt.Errorf("open audit %s: %w", l.cfg.File, err)
	}
	l.file = f
	// Its lines are synced as they come; its name may be new.
	if err := fsx.OS().SyncDir(filepath.Dir(l.cfg.File)); err != nil {
		l.log.Warn("sync the directory of the audit", "file", l.cfg.File, "err", err)
	}
	return nil
}

// takeOver makes f ours alone, since two writers would break the chain, and
// finds its end.
func (l *Log) takeOver(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("another server writes to it; give each an audit file of its own")
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	end, err := findEnd(f)
	if err != nil {
		return err
	}
	if end.torn {
		// A line cut short by a crash is closed, so that the next one stands
		// alone; Verify names the place.
		if _, err := f.Write([]byte{'\n'}); err != nil {
			return err
		}
	}
	if end.line != nil {
		l.seq, l.prev = end.seq, sha256.Sum256(end.line)
	}
	return nil
}

// Record adds e. It does not wait for the disk unless the disk is far behind.
func (l *Log) Record(e mail.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	buffer := bodies.Get().(*[]byte)
	defer bodies.Put(buffer)
	body, err := appendEvent((*buffer)[:0], &e)
	if err != nil {
		l.log.Error("audit event lost", "event", e.Kind, "err", err)
		return
	}
	*buffer = body
	if l.cfg.File == "" {
		l.log.Debug("audit", "record", "{"+string(body))
		return
	}
	l.mu.Lock()
	l.appendLocked(body)
	if l.pending.Len() > maxPending {
		l.writeLocked()
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// bodies are buffers for one event each.
var bodies = sync.Pool{New: func() any { return new(make([]byte, 0, 1<<10)) }}

// appendLocked numbers and chains one event, which comes without its opening
// brace.
func (l *Log) appendLocked(body []byte) {
	l.seq++
	start := l.pending.Len()
	head := l.pending.AvailableBuffer()
	head = append(head, `{"seq":`...)
	head = strconv.AppendUint(head, l.seq, 10)
	head = append(head, `,"prev":"`...)
	head = hex.AppendEncode(head, l.prev[:])
	head = append(head, `",`...)
	l.pending.Write(head)
	l.pending.Write(body)
	l.prev = sha256.Sum256(l.pending.Bytes()[start:])
	l.pending.WriteByte('\n')
}

func (l *Log) writeLocked() {
	if l.pending.Len() == 0 || l.file == nil {
		return
	}
	n, err := l.file.Write(l.pending.Bytes()[l.written:])
	l.written += n
	if lines := bytes.LastIndexByte(l.pending.Bytes()[:l.written], '\n') + 1; lines > 0 {
		l.pending.Next(lines)
		l.written -= lines
	}
	switch {
	case err != nil && !l.broken:
		l.log.Error("audit cannot be written; events are kept in memory", "file", l.cfg.File, "err", err)
	case err == nil && l.broken:
		l.log.Warn("audit can be written again", "file", l.cfg.File)
	}
	l.broken = err != nil
	if l.broken && l.pending.Len() > 16*maxPending {
		l.dropLocked()
	}
}

// dropLocked gives up what waits, but for a line that is in the file in part.
func (l *Log) dropLocked() {
	keep := 0
	if l.written > 0 {
		keep = bytes.IndexByte(l.pending.Bytes(), '\n') + 1
	}
	lost := bytes.Count(l.pending.Bytes()[keep:], []byte{'\n'})
	l.log.Error("audit events lost: memory bound reached", "events", lost, "octets", l.pending.Len()-keep)
	l.pending.Truncate(keep)
}

// Run writes and syncs until ctx ends, then writes what is left.
func (l *Log) Run(ctx context.Context) error {
	ticker := time.NewTicker(l.cfg.SyncInterval)
	defer ticker.Stop()
	var due <-chan time.Time // of the lines that wait; nil for none
	for {
		wake := l.wake
		if due != nil {
			wake = nil
		}
		select {
		case <-ctx.Done():
			return l.Sync()
		case <-wake:
			due = time.After(writeDelay)
		case <-due:
			due = nil
			l.mu.Lock()
			l.writeLocked()
			l.mu.Unlock()
		case <-ticker.C:
			if err := l.Sync(); err != nil {
				l.log.Error("audit sync", "err", err)
			}
		}
	}
}

// Sync writes everything recorded so far to stable storage.
func (l *Log) Sync() error {
	l.mu.Lock()
	l.writeLocked()
	f := l.file
	l.mu.Unlock()
	if f == nil {
		return nil
	}
	if err := f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("sync audit: %w", err)
	}
	return nil
}

// Reopen closes the file and opens it by name again, for rotation. The chain
// goes on in the new file; so does a line that a full disk cut in the old one.
func (l *Log) Reopen() error {
	if err := l.Sync(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.isCurrent() {
		return nil
	}
	seq, prev, old := l.seq, l.prev, l.file
	if err := l.open(); err != nil {
		return err
	}
	l.seq, l.prev, l.written = seq, prev, 0
	return fsx.CloseLocked(old)
}

// isCurrent reports whether the open file still has the name.
func (l *Log) isCurrent() bool {
	named, err := os.Stat(l.cfg.File)
	if err != nil {
		return false
	}
	open, err := l.file.Stat()
	return err == nil && os.SameFile(named, open)
}

// Close syncs and closes the file.
func (l *Log) Close() error {
	err := l.Sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		err = errors.Join(err, fsx.CloseLocked(l.file))
		l.file = nil
	}
	return err
}

// end is where a chain goes on.
type end struct {
	line []byte // the last one; nil in an empty file
	torn bool   // it lacks its line end
	seq  uint64 // of the last whole record
}

// findEnd reads f backwards until it finds a whole record: behind that may be
// what a crash left.
func findEnd(f *os.File) (end, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return end{}, err
	}
	for window := int64(64 << 10); ; window *= 4 {
		window = min(window, info.Size())
		buf := make([]byte, window)
		if _, err := f.ReadAt(buf, info.Size()-window); err != nil && !errors.Is(err, io.EOF) {
			return end{}, err
		}
		if e, ok := endOf(buf, window == info.Size()); ok {
			return e, nil
		}
	}
}

// endOf looks for the end in the last octets of a file; ok is false when more
// of them are needed.
func endOf(tail []byte, whole bool) (e end, ok bool) {
	e.torn = tail[len(tail)-1] != '\n'
	rest := bytes.TrimSuffix(tail, []byte{'\n'})
	for len(rest) > 0 {
		start := bytes.LastIndexByte(rest, '\n') + 1
		if start == 0 && !whole {
			return e, false
		}
		line := rest[start:]
		if e.line == nil {
			e.line = line
		}
		var head struct {
			Seq uint64 `json:"seq"`
		}
		if json.Unmarshal(line, &head) == nil && head.Seq > 0 {
			e.seq = head.Seq
			return e, true
		}
		rest = rest[:max(start-1, 0)]
	}
	return e, whole
}

package milter

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// spoolMemory is how much of a replaced body stays in memory.
const spoolMemory = 1 << 20

// spool holds the body that a filter gives instead: in memory at first, then
// in a file that has no name any more, so that nothing is left of it after a crash.
type spool struct {
	dir    string
	limit  int64
	octets int64
	memory bytes.Buffer
	file   *os.File
}

// Write implements io.Writer. What goes beyond the limit is an error.
func (s *spool) Write(p []byte) (int, error) {
	if s.octets += int64(len(p)); s.octets > s.limit {
		return 0, protocolError("the filter's body is longer than %d octets", s.limit)
	}
	if s.file == nil && s.memory.Len()+len(p) > spoolMemory {
		if err := s.open(); err != nil {
			return 0, fmt.Errorf("%w: %w", errOurs, err)
		}
	}
	if s.file == nil {
		return s.memory.Write(p)
	}
	n, err := s.file.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errOurs, err)
	}
	return n, err
}

func (s *spool) open() error {
	if s.dir != "" {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return fmt.Errorf("spool a body: %w", err)
		}
	}
	f, err := os.CreateTemp(s.dir, "milter")
	if err != nil {
		return fmt.Errorf("spool a body: %w", err)
	}
	s.file = f
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("spool a body: %w", err)
	}
	_, err = s.memory.WriteTo(f)
	s.memory = bytes.Buffer{}
	return err
}

// reader returns the body from its beginning. It is good until close.
func (s *spool) reader() io.Reader {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.octets)
	}
	return bytes.NewReader(s.memory.Bytes())
}

// close gives back what the spool holds; nil and closed ones hold nothing.
func (s *spool) close() {
	if s == nil || s.file == nil {
		return
	}
	_ = s.file.Close() // nothing of it is wanted any more
	s.file = nil
}

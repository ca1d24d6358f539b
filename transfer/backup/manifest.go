package backup

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/transfer"
)

// maxRow bounds a line of a manifest.
const maxRow = 1 << 20

// manifestPath is where a manifest is: accounts/IDENTITY/abcd....zst.
func (r *Repository) manifestPath(account, manifest string) string {
	return filepath.Join(r.dir, accountsName, account, manifest+packed)
}

// manifestWriter writes what was in an account.
type manifestWriter struct {
	*object
	repository *Repository
	account    string
}

func (r *Repository) newManifest(account string) (*manifestWriter, error) {
	if !isHex(account, 32) {
		return nil, fmt.Errorf("malformed identity %.40q of an account", account)
	}
	o, err := r.newObject(filepath.Join(r.dir, accountsName, account, "manifest"+unfinished))
	if err != nil {
		return nil, err
	}
	return &manifestWriter{o, r, account}, nil
}

// line writes a row.
func (w *manifestWriter) line(raw []byte) error {
	if len(raw) >= maxRow {
		return fmt.Errorf("a row of %d octets is too long", len(raw))
	}
	_, err := w.Write(append(raw[:len(raw):len(raw)], '\n'))
	return err
}

func (w *manifestWriter) row(r *transfer.Row) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return w.line(raw)
}

// done gives the manifest its name, which it returns.
func (w *manifestWriter) done(err error) (name string, written int64, _ error) {
	sum := w.sum()
	name = hex.EncodeToString(sum[:])
	written, err = w.finish(err, w.repository.manifestPath(w.account, name))
	return name, written, err
}

func isHex(text string, octets int) bool {
	if len(text) != octets {
		return false
	}
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// manifestReader reads the rows of a manifest in order, and sees that they are
// whole.
type manifestReader struct {
	object *objectReader
	lines  *bufio.Reader
	name   string
	count  transfer.EndRow
	begun  bool
	end    bool
	in     *transfer.MailboxRow
	err    error
}

// Manifest opens a manifest. The caller closes it.
func (r *Repository) manifest(account, manifest string) (*manifestReader, error) {
	if !isHex(account, 32) || !isHex(manifest, 64) {
		return nil, fmt.Errorf("%w: malformed name of a manifest", ErrDamaged)
	}
	var want store.Hash
	_, _ = hex.Decode(want[:], []byte(manifest)) // isHex looked at it
	name := r.manifestPath(account, manifest)
	o, err := r.openObject(name, want, -1)
	if err != nil {
		return nil, err
	}
	m := newManifestReader(o, name)
	m.object = o
	return m, nil
}

func newManifestReader(r io.Reader, name string) *manifestReader {
	return &manifestReader{lines: bufio.NewReaderSize(r, 64<<10), name: name}
}

func (m *manifestReader) Close() error { return m.object.Close() }

func (m *manifestReader) fail(format string, args ...any) error {
	m.err = fmt.Errorf("%s, row %d: %w: %w", m.name, m.count.Rows+1, ErrDamaged, fmt.Errorf(format, args...))
	return m.err
}

// next returns the next row; io.EOF behind the last one of a manifest that is
// whole.
func (m *manifestReader) next() (*transfer.Row, error) {
	if m.err != nil {
		return nil, m.err
	}
	line, err := m.line()
	if errors.Is(err, io.EOF) && len(line) == 0 {
		if m.err = io.EOF; !m.end {
			return nil, m.fail("it ends too early")
		}
		return nil, io.EOF
	}
	if err != nil {
		return nil, m.fail("%w", err)
	}
	if m.end {
		return nil, m.fail("it goes on behind its end")
	}
	r := new(transfer.Row)
	if err := json.Unmarshal(line, r); err != nil {
		return nil, m.fail("%w", err)
	}
	if err := r.Check(); err != nil {
		return nil, m.fail("%w", err)
	}
	if err := m.follow(r); err != nil {
		return nil, m.fail("%w", err)
	}
	return r, nil
}

// follow sees that rows come in an order that makes sense.
func (m *manifestReader) follow(r *transfer.Row) error {
	switch {
	case m.begun == (r.Account != nil):
		return errors.New("the account is not the first row, or there are two")
	case r.Account != nil:
		m.begun = true
	case r.Mailbox != nil:
		m.in = r.Mailbox
		m.count.Mailboxes++
	case r.Message != nil:
		if m.in == nil {
			return errors.New("a message without a mailbox")
		}
		m.count.Messages++
		m.count.Octets += r.Message.Octets + int64(len(r.Message.Trace))
	case r.End != nil:
		m.end = true
		if *r.End != m.count {
			return fmt.Errorf("it has %d mailboxes, %d messages, %d octets in %d rows, and says %d, %d, %d in %d", m.count.Mailboxes, m.count.Messages,
				m.count.Octets, m.count.Rows, r.End.Mailboxes, r.End.Messages, r.End.Octets, r.End.Rows)
		}
	}
	m.count.Rows++
	return nil
}

// line returns the next line without its end.
func (m *manifestReader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := m.lines.ReadSlice('\n')
		switch {
		case len(line)+len(part) > maxRow:
			return nil, errors.New("a row is too long")
		case err == nil && line == nil:
			return part[:len(part)-1], nil
		case err == nil:
			return append(line, part[:len(part)-1]...), nil
		}
		line = append(line, part...)
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return nil, io.ErrUnexpectedEOF
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

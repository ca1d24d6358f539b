package mbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/utf7"
	"github.com/postern-mail/postern/transfer"
)

// Writer writes one mbox file as mboxrd: line ends are LF, a message that does
// not end with one gets it, and fields in messages that are the mbox's own
// (Status and its like) are replaced.
type Writer struct {
	file  *os.File
	bw    *bufio.Writer
	first string // the field that only the first message has
}

// Dir writes a folder of mbox files, one for each mailbox.
type Dir struct {
	root string
	file *Writer // begun last
}

var _ transfer.Sink = (*Dir)(nil)

// CreateDir makes the folder, which must not exist.
func CreateDir(root string) (*Dir, error) { return &Dir{root: root}, os.Mkdir(root, 0o700) }

// Subscribe implements transfer.Sink: mbox knows no subscriptions.
func (d *Dir) Subscribe(string) {}

// Folder implements transfer.Sink.
func (d *Dir) Folder(f transfer.Folder) error {
	if err := d.Close(); err != nil {
		return err
	}
	path := filepath.Join(d.root, FileName(f.Name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var err error
	d.file, err = Create(path, f)
	return err
}

// Add implements transfer.Sink.
func (d *Dir) Add(m transfer.Message, text io.Reader) ([]string, error) {
	return nil, d.file.Add(m, text)
}

// Close implements transfer.Sink.
func (d *Dir) Close() error {
	if d.file == nil {
		return nil
	}
	file := d.file
	d.file = nil
	return file.Close()
}

// FileName is the file of a mailbox below a folder of mbox files.
func FileName(mailbox string) string {
	levels := strings.Split(mailbox, "/")
	for i, level := range levels {
		level = strings.ReplaceAll(utf7.Encode(level), ".", "&AC4-")
		if levels[i] = level + ".sbd"; i == len(levels)-1 {
			levels[i] = level + ".mbox"
		}
	}
	return strings.Join(levels, "/")
}

// Create makes a file, which must not exist.
func Create(path string, f transfer.Folder) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	w := &Writer{file: file, bw: bufio.NewWriterSize(file, 64<<10)}
	if f.UIDValidity > 0 && f.UIDNext > 0 {
		w.first = fmt.Sprintf("X-IMAPbase: %d %010d\n", f.UIDValidity, f.UIDNext-1)
	}
	return w, nil
}

// Add writes one message.
func (w *Writer) Add(m transfer.Message, text io.Reader) error {
	fmt.Fprintf(w.bw, "From MAILER-DAEMON %s\n", m.Date.UTC().Format("Mon Jan _2 15:04:05 2006")) // bufio keeps the error for Flush
	w.bw.WriteString(w.first + fields(m))
	w.first = ""
	br := bufio.NewReaderSize(text, 64<<10)
	header, skipping, begins := true, false, true
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			if header && begins {
				header, skipping = inHeader(line, skipping)
			}
			if !skipping || !header {
				w.line(line, begins && !header)
			}
			if begins = line[len(line)-1] == '\n'; errors.Is(err, io.EOF) && !begins {
				w.bw.WriteByte('\n')
			}
		}
		if errors.Is(err, io.EOF) {
			return w.bw.WriteByte('\n')
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// inHeader tells whether a line is of the header, and of a field that is ours.
func inHeader(line []byte, skipping bool) (header, ofOurs bool) {
	bare := bytes.TrimRight(line, "\r\n")
	switch {
	case len(bare) == 0:
		return false, false
	case bare[0] == ' ' || bare[0] == '\t':
		return true, skipping
	}
	name, _, found := strings.Cut(string(bare[:min(len(bare), 64)]), ":")
	return true, found && ours[strings.ToLower(strings.TrimSpace(name))]
}

// line writes a line, or a part of a long one.
func (w *Writer) line(line []byte, quote bool) {
	if quote && bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
		w.bw.WriteByte('>')
	}
	if bare, ended := bytes.CutSuffix(line, []byte("\r\n")); ended {
		w.bw.Write(bare)
		w.bw.WriteByte('\n')
		return
	}
	w.bw.Write(line)
}

// fields writes the flags.
func fields(m transfer.Message) string {
	status, x := "O", ""
	var words []string
	for _, f := range m.Flags {
		switch f {
		case `\Seen`:
			status = "RO"
		case `\Answered`:
			x += "A"
		case `\Flagged`:
			x += "F"
		case `\Deleted`:
			x += "D"
		case `\Draft`:
			x += "T"
		default:
			words = append(words, f)
		}
	}
	text := "Status: " + status + "\n"
	if x != "" {
		text += "X-Status: " + x + "\n"
	}
	if len(words) > 0 {
		text += "X-Keywords: " + strings.Join(words, " ") + "\n"
	}
	return text + fmt.Sprintf("X-UID: %d\n", m.UID)
}

// Close makes the file durable.
func (w *Writer) Close() error {
	err := w.bw.Flush()
	if err == nil {
		err = w.file.Sync()
	}
	return errors.Join(err, w.file.Close())
}

// Package mbox reads and writes mailboxes as mbox files: mboxrd, mboxo, and
// mboxcl2, whose Content-Length is believed where a message ends there. Flags
// are in Status, X-Status and X-Keywords, which are taken out of the messages,
// as are X-UID and X-IMAPbase.
package mbox

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/utf7"
	"github.com/postern-mail/postern/transfer"
)

// Bounds.
const (
	maxFiles  = 100_000
	maxDepth  = 50
	maxHeader = 4 << 20 // what is looked at for the fields that are ours
	piece     = 500
)

// Source reads an mbox file or a folder of them.
type Source struct {
	path  string
	keys  bool
	files map[string]string // by mailbox
}

var _ transfer.Source = (*Source)(nil)

// Open takes a file, which is INBOX, or a folder whose files are mailboxes. With
// keys messages get the Key by which repeats are known.
func Open(path string, keys bool) (*Source, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return &Source{path: path, keys: keys, files: make(map[string]string)}, nil
}

// Name implements transfer.Source.
func (s *Source) Name() string { return "mbox" }

// Folders implements transfer.Source.
func (s *Source) Folders(ctx context.Context) (all []transfer.Folder, skipped []transfer.Skip, err error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, nil, err
	}
	if !info.IsDir() {
		f, ok, err := head(s.path)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			return nil, nil, fmt.Errorf(`%s is no mbox: it does not begin with "From "`, s.path)
		}
		s.files["INBOX"] = s.path
		f.Name = "INBOX"
		return []transfer.Folder{f}, nil, nil
	}
	err = filepath.WalkDir(s.path, func(path string, e os.DirEntry, err error) error {
		if stop := ctx.Err(); stop != nil {
			return stop
		}
		rel, relErr := filepath.Rel(s.path, path)
		if err != nil || relErr != nil {
			skipped = append(skipped, transfer.Skip{Folder: rel, Why: errors.Join(err, relErr).Error()})
			return nil
		}
		if rel != "." && (strings.HasPrefix(e.Name(), ".") || strings.Count(rel, "/") > maxDepth) {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() {
			return nil
		}
		if len(all) >= maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		f, ok, err := head(path)
		switch {
		case err != nil:
			skipped = append(skipped, transfer.Skip{Folder: rel, Why: err.Error()})
			return nil
		case !ok:
			skipped = append(skipped, transfer.Skip{Folder: rel, Why: "no mbox"})
			return nil
		}
		if f.Name, ok = mailboxName(rel); !ok || s.files[f.Name] != "" {
			skipped = append(skipped, transfer.Skip{Folder: rel, Why: "its name is no mailbox name, or another's"})
			return nil
		}
		s.files[f.Name] = path
		all = append(all, f)
		return nil
	})
	return all, skipped, err
}

// mailboxName turns a file's path into a mailbox's name. Thunderbird's ".sbd"
// folders and a file's ".mbox" or ".mbx" are left out of it.
func mailboxName(rel string) (string, bool) {
	levels := strings.Split(rel, "/")
	for i, level := range levels {
		if i < len(levels)-1 {
			level = strings.TrimSuffix(level, ".sbd")
		} else {
			level = strings.TrimSuffix(strings.TrimSuffix(level, ".mbox"), ".mbx")
		}
		if name, err := utf7.Decode(level); err == nil {
			level = name
		}
		if level == "" || !utf8.ValidString(level) || strings.Contains(level, "/") {
			return "", false
		}
		levels[i] = level
	}
	if strings.EqualFold(levels[0], "INBOX") {
		levels[0] = "INBOX"
	}
	return strings.Join(levels, "/"), true
}

// head looks at the first message for what it tells of the mailbox.
func head(path string) (f transfer.Folder, ok bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return f, false, err
	}
	defer file.Close()
	br := bufio.NewReaderSize(file, 64<<10)
	start, err := br.Peek(5)
	if errors.Is(err, io.EOF) && len(start) == 0 {
		return f, true, nil // an empty mailbox
	}
	if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(start, []byte("From ")) {
		return f, false, nil
	}
	for {
		line, err := br.ReadSlice('\n')
		line = bytes.TrimRight(line, "\r\n")
		if err != nil || len(line) == 0 {
			return f, true, nil
		}
		name, value, found := strings.Cut(string(line), ":")
		if found && (strings.EqualFold(name, "X-IMAPbase") || strings.EqualFold(name, "X-IMAP")) {
			fields := strings.Fields(value)
			if len(fields) >= 2 {
				validity, _ := strconv.ParseUint(fields[0], 10, 32) // 0 tells nothing
				last, _ := strconv.ParseUint(fields[1], 10, 31)
				f.UIDValidity, f.UIDNext = uint32(validity), uint32(last)+1
			}
		}
	}
}

// place is where a message's text lies in its file.
type place struct {
	from, to int64 // behind its "From " line, and its end
	quoted   bool  // ">From " stands for "From "
}

// Messages implements transfer.Source.
func (s *Source) Messages(ctx context.Context, folder string, each func([]transfer.Item) error, skip func(transfer.Skip)) error {
	file, err := os.Open(s.files[folder])
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	r := newReader(file, info.Size())
	copies := make(map[string]int)
	var items []transfer.Item
	flush := func() error {
		err := errors.Join(ctx.Err(), each(items))
		items = nil
		return err
	}
	for {
		m, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if m.internal() {
			continue
		}
		it := transfer.Item{Place: m.place, Message: m.message(s.keys)}
		copies[m.hash]++
		it.Key = m.hash + "." + strconv.Itoa(copies[m.hash])
		items = append(items, it)
		if len(items) == piece {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// Texts implements transfer.Source.
func (s *Source) Texts(ctx context.Context, folder string, items []transfer.Item, take func(*transfer.Item, io.Reader) error) error {
	file, err := os.Open(s.files[folder])
	if err != nil {
		return err
	}
	defer file.Close()
	for i := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := items[i].Place.(place)
		if err := take(&items[i], text(file, p)); err != nil {
			return err
		}
	}
	return nil
}

// found is one message of a file.
type found struct {
	place
	date   time.Time
	status string // letters of Status and X-Status
	words  []string
	uid    uint32
	id     string // Message-ID
	base   bool   // X-IMAPbase or X-IMAP: of the mailbox
	title  string // Subject
	hash   string // of the text, without the fields that are ours
	octets int64  // with CRLF
}

// internal reports the message that some servers keep their own data in.
func (m *found) internal() bool {
	return m.base && strings.Contains(m.title, "FOLDER INTERNAL DATA")
}

func (m *found) message(keys bool) transfer.Message {
	out := transfer.Message{UID: m.uid, Date: m.date, Octets: m.octets}
	for _, l := range []struct{ letter, flag string }{
		{"R", `\Seen`}, {"A", `\Answered`}, {"F", `\Flagged`}, {"D", `\Deleted`}, {"T", `\Draft`},
	} {
		if strings.Contains(m.status, l.letter) {
			out.Flags = append(out.Flags, l.flag)
		}
	}
	for _, w := range m.words {
		if transfer.Keyword(w) && !slices.Contains(out.Flags, w) {
			out.Flags = append(out.Flags, w)
		}
	}
	if keys {
		out.Key = transfer.KeyOf(m.id, m.octets, m.date)
	}
	return out
}

// reader finds the messages of a file in one pass.
type reader struct {
	file io.ReaderAt
	size int64
	at   int64 // of br
	br   *bufio.Reader
	line []byte // the "From " line of the next message
}

func newReader(file io.ReaderAt, size int64) *reader {
	r := &reader{file: file, size: size}
	r.seek(0)
	return r
}

func (r *reader) seek(at int64) {
	r.at = at
	r.br = bufio.NewReaderSize(io.NewSectionReader(r.file, at, r.size-at), 64<<10)
}

// readLine returns the beginning of a line, at most 64 KiB of it, and how long
// it is with its end.
func (r *reader) readLine() (line []byte, n int64, err error) {
	part, err := r.br.ReadSlice('\n')
	line = bytes.Clone(part)
	n = int64(len(part))
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = r.br.ReadSlice('\n')
		n += int64(len(part))
	}
	if errors.Is(err, io.EOF) && n > 0 {
		err = nil
	}
	r.at += n
	return line, n, err
}

// isFrom reports whether a line begins a message: "From ", a sender, and a date
// or at least a time. Lines of a text that look like it, unquoted as mboxcl2
// leaves them, are the reason for asking so much.
func isFrom(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("From ")) {
		return false
	}
	_, ok := fromDate(string(line))
	return ok
}

// fromDate reads the date of a "From " line: asctime, with a zone before or
// behind the year or none, which is UTC.
func fromDate(line string) (time.Time, bool) {
	fields := strings.Fields(strings.TrimPrefix(strings.TrimRight(line, "\r\n"), "From "))
	for i := range fields {
		rest := fields[i:]
		if len(rest) < 5 || len(rest) > 8 && i > 2 {
			continue
		}
		rest = rest[:min(len(rest), 6)]
		if !slices.Contains([]string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}, strings.TrimSuffix(rest[0], ",")) {
			continue
		}
		text := strings.Join(rest, " ")
		for _, layout := range []string{
			"Mon Jan 2 15:04:05 2006", "Mon Jan 2 15:04:05 2006 -0700", "Mon Jan 2 15:04:05 -0700 2006", "Mon Jan 2 15:04:05 MST 2006",
			"Mon Jan 2 15:04:05 2006 MST", "Mon, 2 Jan 2006 15:04:05 -0700", "Mon Jan 2 15:04 2006", "Mon Jan 2 15:04 MST 2006",
		} {
			if t, err := time.Parse(layout, text); err == nil {
				return t.UTC(), true
			}
		}
		if len(rest) > 5 {
			if t, err := time.Parse("Mon Jan 2 15:04:05 2006", strings.Join(rest[:5], " ")); err == nil {
				return t.UTC(), true
			}
		}
	}
	return time.Time{}, false
}

// next finds the next message, io.EOF at the end.
func (r *reader) next() (*found, error) {
	for r.line == nil {
		line, _, err := r.readLine()
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line, []byte("From ")) {
			r.line = line
		}
	}
	m := &found{}
	m.date, _ = fromDate(string(r.line))
	m.from, m.quoted = r.at, true
	r.line = nil
	length, err := r.header(m)
	if err != nil {
		return nil, err
	}
	if length >= 0 && r.endsAt(r.at+length) {
		m.to, m.quoted = r.at+length, false
		r.seek(m.to)
	} else if err := r.body(m); err != nil {
		return nil, err
	}
	return m, r.finish(m)
}

// header reads the fields that tell of the message; length is Content-Length,
// -1 without one.
func (r *reader) header(m *found) (length int64, err error) {
	length = -1
	for r.at-m.from < maxHeader {
		line, _, err := r.readLine()
		if errors.Is(err, io.EOF) {
			return length, nil
		} else if err != nil {
			return length, err
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			return length, nil
		}
		name, value, _ := strings.Cut(text, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "status":
			m.status += strings.ReplaceAll(value, "O", "")
		case "x-status":
			m.status += value
		case "x-keywords":
			m.words = append(m.words, strings.Fields(value)...)
		case "x-uid":
			if n, err := strconv.ParseUint(value, 10, 32); err == nil {
				m.uid = uint32(n)
			}
		case "x-imapbase", "x-imap":
			m.base = true
		case "subject":
			m.title = value
		case "message-id":
			m.id = value
		case "content-length":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
				length = n
			}
		}
	}
	return length, nil
}

// endsAt reports whether a message can end at an offset: the file does, or the
// next begins there, perhaps after an empty line.
func (r *reader) endsAt(at int64) bool {
	if at < r.at || at > r.size {
		return false
	}
	buf := make([]byte, 512)
	n, err := r.file.ReadAt(buf, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	rest := buf[:n]
	for range 2 {
		if rest2, ok := bytes.CutPrefix(rest, []byte("\r\n")); ok {
			rest = rest2
		} else {
			rest, _ = bytes.CutPrefix(rest, []byte("\n"))
		}
	}
	if len(rest) == 0 {
		return at+int64(n) >= r.size
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return isFrom(line)
}

// body reads up to a line that begins a message, behind an empty one.
func (r *reader) body(m *found) error {
	blank, blankOctets := true, int64(0)
	for {
		start := r.at
		line, n, err := r.readLine()
		if errors.Is(err, io.EOF) {
			m.to = r.at
			if blankOctets > 0 && r.at-m.from > blankOctets {
				m.to -= blankOctets // the empty line behind the last message
			}
			return nil
		} else if err != nil {
			return err
		}
		if blank && isFrom(line) {
			m.to, r.line = max(start-blankOctets, m.from), line
			return nil
		}
		blank = len(bytes.TrimRight(line, "\r\n")) == 0
		if blankOctets = 0; blank {
			blankOctets = n
		}
	}
}

// finish hashes the text that the message will have.
func (r *reader) finish(m *found) error {
	h := sha256.New()
	n, err := io.Copy(h, text(r.file, m.place))
	m.octets = n
	m.hash = hex.EncodeToString(h.Sum(nil)[:12])
	return err
}

// ours are fields that are about the mailbox, not of the message.
var ours = map[string]bool{
	"status": true, "x-status": true, "x-keywords": true, "x-uid": true, "x-imapbase": true, "x-imap": true, "content-length": true,
}

// text reads a message as it was before it came into the file: without our
// fields, quotes taken off, line ends CRLF.
func text(file io.ReaderAt, p place) io.Reader {
	section := bufio.NewReaderSize(io.NewSectionReader(file, p.from, p.to-p.from), 64<<10)
	return transfer.Lines(&unquoting{r: section, quoted: p.quoted, inHeader: true})
}

type unquoting struct {
	r        *bufio.Reader
	quoted   bool
	inHeader bool
	skipping bool // a field that is ours, with its continuations
	partial  bool // in the middle of a line
	rest     []byte
}

func (u *unquoting) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		line, err := u.r.ReadSlice('\n')
		if len(line) == 0 && err != nil {
			return 0, err
		}
		begins := !u.partial
		u.partial = line[len(line)-1] != '\n'
		u.rest = u.line(line, begins)
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

func (u *unquoting) line(line []byte, begins bool) []byte {
	if !begins {
		if u.skipping {
			return nil
		}
		return line
	}
	if u.inHeader {
		switch bare := bytes.TrimRight(line, "\r\n"); {
		case len(bare) == 0:
			u.inHeader, u.skipping = false, false
		case bare[0] == ' ' || bare[0] == '\t':
		default:
			name, _, found := strings.Cut(string(bare[:min(len(bare), 64)]), ":")
			u.skipping = found && ours[strings.ToLower(strings.TrimSpace(name))]
		}
		if u.skipping {
			return nil
		}
		return line
	}
	if u.quoted {
		if quotes := bytes.TrimLeft(line, ">"); len(quotes) < len(line) && bytes.HasPrefix(quotes, []byte("From ")) {
			return line[1:]
		}
	}
	return line
}

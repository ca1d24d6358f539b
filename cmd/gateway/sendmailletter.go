package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// maxLetterHeader bounds the header section, and maxLetterMemory what of a body
// is kept in memory before it goes to a file.
const (
	maxLetterHeader = 1 << 20
	maxLetterMemory = 1 << 20
)

// letterFile is a message from standard input with CRLF line ends: its header
// in memory, its body in memory or a file without a name.
type letterFile struct {
	fields     []string // each with its line ends, folded as it came
	body       bytes.Buffer
	file       *os.File // what did not fit into body
	bodyOctets int64
	eightBit   bool
}

func (l *letterFile) close() {
	if l.file != nil {
		_ = l.file.Close() // it has no name any more
	}
}

// lineReader yields lines of any length in pieces, with CRLF ends, up to the
// end of input or, unless dots are ignored, a line that is a dot.
type lineReader struct {
	in         *bufio.Reader
	ignoreDots bool
	within     bool // the next piece continues a line
	buffer     []byte
}

// next returns a piece, valid until the next call, and whether it begins a
// line. io.EOF ends.
func (r *lineReader) next() (piece []byte, begins bool, err error) {
	raw, err := r.in.ReadSlice('\n')
	begins = !r.within
	if r.within && len(raw) == 0 && errors.Is(err, io.EOF) {
		r.within = false // the last line ends with the input
		return []byte("\r\n"), begins, nil
	}
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) && (!errors.Is(err, io.EOF) || len(raw) == 0) {
		return nil, begins, err
	}
	r.within = errors.Is(err, bufio.ErrBufferFull)
	if r.within {
		if last := len(raw) - 1; raw[last] == '\r' { // it may belong to the line end
			raw = raw[:last]
			_ = r.in.UnreadByte() // the byte was just read
		}
		return raw, begins, nil
	}
	text := bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if begins && !r.ignoreDots && string(text) == "." {
		return nil, begins, io.EOF
	}
	r.buffer = append(append(r.buffer[:0], text...), '\r', '\n')
	return r.buffer, begins, nil
}

// readLetter reads a message to its end.
func readLetter(in io.Reader, o sendmailOptions) (*letterFile, error) {
	l := new(letterFile)
	lines := &lineReader{in: bufio.NewReaderSize(in, 64<<10), ignoreDots: o.ignoreDots}
	rest, err := l.readHeader(lines)
	if err == nil {
		err = l.write(rest)
	}
	for err == nil {
		var piece []byte
		if piece, _, err = lines.next(); err == nil {
			err = l.write(piece)
		}
	}
	var known *exitStatus
	switch {
	case errors.Is(err, io.EOF):
		return l, nil
	case !errors.As(err, &known):
		err = exitf(exNoInput, "read the message: %w", err)
	}
	l.close()
	return nil, err
}

// readHeader reads fields up to the empty line, or to the first line that is
// none and so begins the body.
func (l *letterFile) readHeader(lines *lineReader) (rest []byte, err error) {
	octets, first := 0, true
	var field []byte // the one under way
	end := func() {
		if len(field) > 0 {
			l.fields, field = append(l.fields, string(field)), field[:0]
		}
	}
	defer end()
	for {
		piece, begins, err := lines.next()
		if err != nil {
			return nil, err
		}
		if octets += len(piece); octets > maxLetterHeader {
			return nil, exitf(exDataErr, "the header is longer than %d octets", maxLetterHeader)
		}
		switch {
		case first && begins && bytes.HasPrefix(piece, []byte("From ")):
			// A mailbox file's separator.
		case !begins || len(field) > 0 && (piece[0] == ' ' || piece[0] == '\t'):
			if len(field) > 0 {
				field = append(field, piece...)
			}
		case string(piece) == "\r\n":
			return nil, nil
		case fieldName(string(piece)) == "":
			return piece, nil
		default:
			end()
			field = append(field, piece...)
		}
		l.noteOctets(piece)
		first = false
	}
}

// fieldName returns the name of a header field in small letters, "" for what
// is no field.
func fieldName(field string) string {
	name, _, found := strings.Cut(field, ":")
	name = strings.TrimRight(name, " \t")
	if !found || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return ""
	}
	return strings.ToLower(name)
}

func (l *letterFile) noteOctets(p []byte) {
	l.eightBit = l.eightBit || bytes.ContainsFunc(p, func(c rune) bool { return c >= 0x80 })
}

// write adds to the body.
func (l *letterFile) write(p []byte) error {
	l.noteOctets(p)
	l.bodyOctets += int64(len(p))
	if l.file == nil && l.body.Len()+len(p) <= maxLetterMemory {
		l.body.Write(p)
		return nil
	}
	if l.file == nil {
		file, err := os.CreateTemp("", "sendmail-*")
		if err != nil {
			return exitf(exTempFail, "keep the message until its end: %w", err)
		}
		l.file = file
		if err := os.Remove(file.Name()); err != nil {
			return exitf(exTempFail, "keep the message until its end: %w", err)
		}
	}
	if _, err := l.file.Write(p); err != nil {
		return exitf(exTempFail, "keep the message until its end: %w", err)
	}
	return nil
}

// values returns the values of all fields of a name.
func (l *letterFile) values(name string) (values []string) {
	for _, field := range l.fields {
		if fieldName(field) == name {
			_, value, _ := strings.Cut(field, ":")
			values = append(values, value)
		}
	}
	return values
}

// resent reports whether the header names recipients of a message that was
// sent before (RFC 5322 section 3.6.6): these then count alone.
func (l *letterFile) resent() bool {
	return len(l.values("resent-to"))+len(l.values("resent-cc"))+len(l.values("resent-bcc")) > 0
}

// recipients returns the addresses the header names.
func (l *letterFile) recipients() (paths []string) {
	prefix := ""
	if l.resent() {
		prefix = "resent-"
	}
	for _, name := range []string{"to", "cc", "bcc"} {
		for _, value := range l.values(prefix + name) {
			paths = append(paths, addressPaths(value)...)
		}
	}
	return paths
}

// secret are the fields that are not for the recipients, or for us to make.
var secret = map[string]bool{"bcc": true, "resent-bcc": true, "return-path": true, "content-length": true}

// header returns the header section with its end, with the author where it
// names none.
func (l *letterFile) header(from mail.Address, fullName string, now time.Time) string {
	var b strings.Builder
	prefix := ""
	if l.resent() {
		prefix = "resent-"
		if len(l.values("resent-date")) == 0 {
			b.WriteString("Resent-Date: " + now.Format("Mon, 2 Jan 2006 15:04:05 -0700") + "\r\n")
		}
	}
	if len(l.values(prefix+"from")) == 0 {
		b.WriteString(map[string]string{"": "From: ", "resent-": "Resent-From: "}[prefix] + author(from, fullName) + "\r\n")
	}
	for _, field := range l.fields {
		if !secret[fieldName(field)] {
			b.WriteString(field)
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// author writes an address with a name, encoded where that needs it.
func author(from mail.Address, fullName string) string {
	if from.IsNull() {
		return "MAILER-DAEMON <>"
	}
	name := mime.QEncoding.Encode("utf-8", fullName)
	switch {
	case fullName == "":
		return from.String()
	case name == fullName:
		name = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
	}
	return fmt.Sprintf("%s <%s>", name, from)
}

// content returns the message from its start.
func (l *letterFile) content(header string) (io.Reader, error) {
	parts := []io.Reader{strings.NewReader(header), bytes.NewReader(l.body.Bytes())}
	if l.file != nil {
		if _, err := l.file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		parts = append(parts, l.file)
	}
	return io.MultiReader(parts...), nil
}

// addressPaths takes the addresses out of a list as header fields have it (RFC
// 5322 section 3.4): without names, comments and groups. What it returns need
// be no address.
func addressPaths(list string) (paths []string) {
	var bare, angle strings.Builder // outside <>, and within
	inAngle, hadAngle := false, false
	flush := func() {
		path := bare.String()
		if hadAngle {
			path = angle.String()
		}
		if path = strings.Join(strings.Fields(path), " "); path != "" {
			paths = append(paths, path)
		}
		bare.Reset()
		angle.Reset()
		inAngle, hadAngle = false, false
	}
	for i := 0; i < len(list); i++ {
		out := &bare
		if inAngle {
			out = &angle
		}
		switch c := list[i]; {
		case c == '"':
			end := quotedEnd(list, i)
			out.WriteString(list[i:end])
			i = end - 1
		case c == '(':
			i = commentEnd(list, i) - 1
			out.WriteByte(' ')
		case c == '<':
			angle.Reset()
			inAngle, hadAngle = true, true
		case c == '>':
			inAngle = false
		case c == ':' && !inAngle && !strings.Contains(bare.String(), "["):
			bare.Reset() // the name of a group
		case (c == ',' || c == ';') && !inAngle:
			flush()
		case c == '\r' || c == '\n':
			out.WriteByte(' ')
		default:
			out.WriteByte(c)
		}
	}
	flush()
	return paths
}

// quotedEnd returns where a quoted string ends that begins at i.
func quotedEnd(s string, i int) int {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// commentEnd returns where a comment, with those in it, ends that begins at i.
func commentEnd(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

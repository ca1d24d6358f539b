// Package mime goes through a message as Postfix's cleanup does: header fields,
// those of its parts and of messages in it, and lines of bodies, each told once,
// in order, in bounded memory and in time that grows with the octets.
//
// What comes in: header fields, and a body with CRLF line ends. What goes out:
// calls of a Visitor. What it guarantees: nesting, the length of a boundary, of
// a field and of a piece of a line are bounded; what is no MIME (RFC 2045, RFC
// 2046) is gone through all the same, as body. What it leaves to others: to
// decode (Decoder does), and to decide.
package mime

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// Class says whose header a field is of.
type Class uint8

// The classes.
const (
	Primary Class = iota // the message's own
	Part                 // of a part of a multipart
	Nested               // of a message in the message
)

// Field is a header field with its folds joined by LF, and cut at the limit.
type Field struct {
	Class Class
	Text  []byte
	// Start and End are its octets in the body, line end included; of a primary
	// field both are its number.
	Start, End int64
}

// Line is a line of a body, or a piece of a long one, without its end.
type Line struct {
	Text []byte
	// Start is its first octet in the body; -1 for the empty line behind the
	// message's own header, which is not in it.
	Start int64
	// Offset is how much of the same body stood before it, with line ends of one
	// octet.
	Offset int64
	// Begins and Ends tell whether the piece begins and ends its line.
	Begins, Ends bool
	// Boundary tells that it divides parts; it counts as a line of the body it
	// ends.
	Boundary bool
	// Blank tells that it is the empty line behind a header.
	Blank bool
}

// Visitor is told of a message. What it gets is valid during the call. An error
// ends the walk, but ErrSkipBody, which Line may return.
type Visitor interface {
	// Field is one of a header.
	Field(Field) error
	// Body tells that a header ended and its body follows.
	Body() error
	Line(Line) error
}

// Limits bound a walk. Zero fields take Postfix's defaults.
type Limits struct {
	// Nesting is how many multiparts may stand in each other; 0 is 100.
	Nesting int
	// BoundaryOctets is how much of a boundary counts; 0 is 2048.
	BoundaryOctets int
	// FieldOctets is how much of a field is told; 0 is 102400.
	FieldOctets int
	// LineOctets is how long a piece of a line is; 0 is 2048.
	LineOctets int
	// Flat tells no parts: everything below the message's own header is body
	// (disable_mime_input_processing).
	Flat bool
	// AsPrograms goes through the message as programs that show mail do, and tells
	// a Doubter where they differ: only whole lines divide parts, boundaries may be
	// in pieces, a line that is no field does not end a header, and
	// message/partial and message/external-body are messages.
	AsPrograms bool
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Nesting, 100}, {&l.BoundaryOctets, 2048}, {&l.FieldOctets, 102400}, {&l.LineOctets, 2048}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return l
}

// ErrNesting is that multiparts stand in each other deeper than they may. The
// walk has gone on, and what was too deep is body.
var ErrNesting = errors.New("MIME nesting exceeds safety limit")

// ErrSkipBody is that no further line of the present body need be told, but those
// that may divide parts. Where no parts follow it ends the walk.
var ErrSkipBody = errors.New("skip the body")

var errNothingFollows = errors.New("nothing follows")

// state is where in a message a walk is.
type state uint8

const (
	inPrimary state = iota
	inPart
	inNested
	inBody
)

// boundary divides the parts of one multipart.
type boundary struct {
	text []byte
	kind kind // of its parts that say nothing
}

// walker is one walk.
type walker struct {
	limits Limits
	to     Visitor

	state  state
	stack  []boundary // the innermost one last
	kind   kind       // of the body that follows
	offset int64
	deep   bool

	field   []byte // the one being read; empty for none
	start   int64
	end     int64
	midLine bool // the last piece went on
	skip    bool // lines that divide nothing

	programs
}

// Walk tells to of a message: its fields, each with CRLF at its folds and without
// its end, then what r has. It looks at ctx now and then. ErrNesting is returned
// at the end of the walk; other errors are of to, r and ctx.
func Walk[F ~string](ctx context.Context, limits Limits, fields []F, r io.Reader, to Visitor) error {
	w := &walker{limits: limits.withDefaults(), to: to}
	for i, f := range fields {
		if err := w.primary(string(f), int64(i)); err != nil {
			return err
		}
	}
	if r == nil {
		return w.result(w.flush())
	}
	if err := w.blank(); err != nil {
		return w.result(err)
	}
	return w.result(w.body(ctx, r))
}

func (w *walker) result(err error) error {
	if errors.Is(err, errNothingFollows) {
		err = nil
	}
	if err == nil && w.deep {
		return ErrNesting
	}
	return err
}

// primary tells a field of the message's own header.
func (w *walker) primary(f string, number int64) error {
	w.start, w.end = number, number
	for line := range bytes.SplitSeq([]byte(f), []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(w.field) > 0 {
			w.append([]byte("\n"))
		}
		w.append(line)
	}
	if at := nameLength(w.field); at > 0 {
		w.normalize(at)
		return w.flush()
	}
	w.field = w.field[:0]
	return nil
}

// blank is the empty line behind the message's own header.
func (w *walker) blank() error {
	if w.limits.Flat {
		w.kind = kindOther
	}
	return w.endHeader(nil, -1, true, true)
}

// append adds to the field as much as it may have.
func (w *walker) append(text []byte) {
	if len(text) > w.limits.FieldOctets-len(w.field) {
		w.doubt(doubtField)
	}
	w.field = append(w.field, text[:min(len(text), max(w.limits.FieldOctets-len(w.field), 0))]...)
}

// normalize takes out the white space that may stand ahead of the colon.
func (w *walker) normalize(name int) {
	if colon := bytes.IndexByte(w.field, ':'); colon > name {
		w.field = append(w.field[:name], w.field[colon:]...)
	}
}

// flush tells the field that was read.
func (w *walker) flush() error {
	if len(w.field) == 0 {
		return nil
	}
	class := [...]Class{inPrimary: Primary, inPart: Part, inNested: Nested}[w.state]
	w.fields++
	err := w.to.Field(Field{Class: class, Text: w.field, Start: w.start, End: w.end})
	w.look()
	w.field = w.field[:0]
	return err
}

// body reads r in pieces of lines.
func (w *walker) body(ctx context.Context, r io.Reader) error {
	buf := make([]byte, max(64<<10, 4*w.limits.LineOctets))
	var at int64 // of buf in the body
	from, to := 0, 0
	for pieces := 0; ; pieces++ {
		if pieces&0xfff == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		limit := w.limits.LineOctets
		window := buf[from:to]
		end := bytes.IndexByte(window[:min(len(window), limit+2)], '\n')
		switch {
		case end >= 0 && lineOctets(window, end) < limit: // one as long as that has an empty piece behind it
			n := lineOctets(window, end)
			if err := w.piece(window[:n], at+int64(from), at+int64(from+end+1), true); err != nil {
				return err
			}
			from += end + 1
			continue
		case len(window) >= limit+2:
			if err := w.piece(window[:limit], at+int64(from), at+int64(from+limit), false); err != nil {
				return err
			}
			from += limit
			continue
		}
		at += int64(from)
		to, from = copy(buf, window), 0
		n, err := io.ReadAtLeast(r, buf[to:], 1)
		to += n
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if to > 0 {
			if to > limit { // a line end at most may be beyond
				err = w.piece(buf[:limit], at, at+int64(limit), false)
				buf, at, to = buf[limit:], at+int64(limit), to-limit
			} else {
				err = nil
			}
			if err == nil {
				err = w.piece(buf[:to], at, at+int64(to), true)
			}
			if err != nil {
				return err
			}
		}
		return w.finish(at + int64(to))
	}
}

// lineOctets is how long a line is whose LF stands at end.
func lineOctets(window []byte, end int) int {
	if end > 0 && window[end-1] == '\r' {
		return end - 1
	}
	return end
}

// finish ends the body. A header that it ends in has an empty body.
func (w *walker) finish(int64) error {
	if w.state == inBody {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.ended()
	return w.to.Body()
}

// piece takes a line or a piece of one: from start to end in the body.
func (w *walker) piece(text []byte, start, end int64, ends bool) error {
	begins := !w.midLine
	w.midLine = !ends
	if w.state == inBody {
		return w.line(text, start, begins, ends, false)
	}
	switch {
	case !begins && len(w.field) > 0:
		w.append(text)
		w.end = end
		return nil
	case len(w.field) > 0 && len(text) > 0 && (text[0] == ' ' || text[0] == '\t'):
		w.append([]byte("\n"))
		w.append(text)
		w.end = end
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	divider := -1
	if w.limits.AsPrograms {
		divider, _ = w.divides(text)
	}
	if name := nameLength(text); name > 0 && begins && divider < 0 {
		w.append(text)
		w.normalize(name)
		w.start, w.end = start, end
		return nil
	}
	if w.limits.AsPrograms && w.junk(text, begins) {
		return nil
	}
	return w.endHeader(text, start, begins, ends)
}

// endHeader takes the line that ends a header: the empty one, or one that is no
// field, which is body.
func (w *walker) endHeader(text []byte, start int64, begins, ends bool) error {
	blank := len(text) == 0
	w.ended()
	w.skip = false
	if w.state = inBody; blank {
		w.offset = 0
		switch {
		case w.limits.Flat:
		case w.kind == kindMessage, w.kind == kindFragment && w.limits.AsPrograms:
			w.state, w.kind = inNested, kindText
		case w.kind == kindMultipart:
			w.kind = kindOther
		}
	}
	if err := w.to.Body(); err != nil {
		return err
	}
	return w.line(text, start, begins, ends, blank)
}

// line looks for boundaries, and tells.
func (w *walker) line(text []byte, start int64, begins, ends, blank bool) error {
	if w.skip && (!begins || len(text) <= 2 || text[0] != '-' || text[1] != '-') {
		w.offset += int64(len(text)) + 1
		return nil
	}
	l := Line{Text: text, Start: start, Begins: begins, Ends: ends, Blank: blank}
	next := w.state
	if w.limits.AsPrograms {
		next = w.boundary(&l)
	} else if begins && len(text) > 2 && text[0] == '-' && text[1] == '-' {
		for i := len(w.stack) - 1; i >= 0; i-- {
			b := &w.stack[i]
			rest, ours := bytes.CutPrefix(text[2:], b.text)
			if !ours {
				continue
			}
			next, w.kind, l.Boundary = inPart, b.kind, true
			w.stack = w.stack[:i+1]
			if bytes.HasPrefix(rest, []byte("--")) {
				w.stack = w.stack[:i]
				next, w.kind = inBody, kindOther
			}
			break
		}
	}
	err := w.tell(l)
	if w.state = next; !errors.Is(err, ErrSkipBody) {
		return err
	}
	if w.skip = true; w.state == inBody && len(w.stack) == 0 {
		return errNothingFollows
	}
	return nil
}

// boundary finds what a line divides, as programs do, and the state behind it.
func (w *walker) boundary(l *Line) state {
	if !l.Begins || len(l.Text) <= 2 || l.Text[0] != '-' || l.Text[1] != '-' {
		return w.state
	}
	at, last := w.divides(l.Text)
	if at < 0 || !l.Ends {
		w.nearly(l.Text)
		return w.state
	}
	l.Boundary = true
	if !last {
		w.kind, w.stack = w.stack[at].kind, w.stack[:at+1]
		return inPart
	}
	if len(w.closed) < maxClosed {
		w.closed = append(w.closed, w.stack[at].text)
	}
	w.kind, w.stack = kindOther, w.stack[:at]
	return inBody
}

func (w *walker) tell(l Line) error {
	if w.headless {
		w.behind(l)
	}
	l.Offset = w.offset
	w.offset += int64(len(l.Text)) + 1
	return w.to.Line(l)
}

// nameLength is how long the name of the field is that a line begins with; 0 where
// it begins with none.
func nameLength(line []byte) int {
	n := 0
	for n < len(line) && line[n] > ' ' && line[n] < 0x7f && line[n] != ':' {
		n++
	}
	at := n
	for at < len(line) && (line[at] == ' ' || line[at] == '\t') {
		at++
	}
	if at == len(line) || line[at] != ':' {
		return 0
	}
	return n
}

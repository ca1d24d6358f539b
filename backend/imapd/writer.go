package imapd

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// flushOctets is how much output gathers before it is written on its own.
	flushOctets = 32 << 10
	// bodyStepOctets is how much of a body is read at once.
	bodyStepOctets = 64 << 10
)

var writeBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, flushOctets+4<<10)
	return &b
}}

// writer gathers responses into one buffer and writes it with a deadline.
// Errors stick: after one, everything further is dropped.
type writer struct {
	conn    net.Conn
	timeout time.Duration
	pooled  *[]byte // nil while parked
	buf     []byte
	err     error
	// utf8 says that the client reads UTF-8 in quoted strings.
	utf8 bool
}

func (w *writer) grow() {
	if w.pooled == nil {
		w.pooled = writeBuffers.Get().(*[]byte)
		w.buf = (*w.pooled)[:0]
	}
}

// flush writes everything gathered.
func (w *writer) flush() error {
	if len(w.buf) == 0 || w.err != nil {
		w.buf = w.buf[:0]
		return w.err
	}
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		w.err = err
		return err
	}
	_, w.err = w.conn.Write(w.buf)
	w.buf = w.buf[:0]
	return w.err
}

// park gives the buffer back; it must have been flushed.
func (w *writer) park() {
	if w.pooled == nil {
		return
	}
	if cap(w.buf) <= 4*flushOctets { // one that a long line made larger is let go
		*w.pooled = w.buf[:0]
		writeBuffers.Put(w.pooled)
	}
	w.pooled, w.buf = nil, nil
}

// str, num and char append to the response under way.
func (w *writer) str(s string) {
	w.grow()
	w.buf = append(w.buf, s...)
}

// raw appends what may be large: it is written in steps, so that a response of
// many items takes no more memory than its largest.
func (w *writer) raw(b []byte) {
	w.grow()
	for len(w.buf)+len(b) > flushOctets {
		n := min(len(b), max(flushOctets-len(w.buf), 0))
		w.buf = append(w.buf, b[:n]...)
		_ = w.flush() // the error sticks
		b = b[n:]
	}
	w.buf = append(w.buf, b...)
}

func (w *writer) num(n uint64) {
	w.grow()
	w.buf = strconv.AppendUint(w.buf, n, 10)
}

func (w *writer) char(c byte) {
	w.grow()
	w.buf = append(w.buf, c)
}

// line ends a response; a full buffer is written.
func (w *writer) line(s string) {
	w.grow()
	w.buf = append(w.buf, s...)
	w.buf = append(w.buf, '\r', '\n')
	if len(w.buf) >= flushOctets {
		_ = w.flush() // the error sticks
	}
}

// text appends s as a quoted string where one can hold it, else as a literal.
func (w *writer) text(s string) {
	w.grow()
	if w.utf8 && quotableUTF8(s) {
		w.buf = appendQuoted(w.buf, s)
		return
	}
	w.buf = appendText(w.buf, s)
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// astring appends s as an atom where one can hold it, else as text does.
func (w *writer) astring(s string) {
	w.grow()
	w.buf = appendAstring(w.buf, s)
}

func appendText(dst []byte, s string) []byte {
	if !quotable(s) {
		return append(appendLiteral(dst, int64(len(s))), s...)
	}
	return appendQuoted(dst, s)
}

func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}

func appendAstring(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 || !isAstringChar(s[i]) {
			return appendText(dst, s)
		}
	}
	if s == "" {
		return appendText(dst, s)
	}
	return append(dst, s...)
}

// literal announces n octets.
func (w *writer) literal(n int64) {
	w.grow()
	w.buf = appendLiteral(w.buf, n)
}

func appendLiteral(dst []byte, n int64) []byte {
	dst = append(dst, '{')
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, '}', '\r', '\n')
}

// quotable reports whether a quoted string can hold s (RFC 3501 section 9).
func quotable(s string) bool {
	if len(s) > 1000 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// quotableUTF8 reports whether a quoted string can hold s where UTF-8 may stand
// in it (RFC 9051 section 9, QUOTED-CHAR).
func quotableUTF8(s string) bool {
	return len(s) <= 1000 && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

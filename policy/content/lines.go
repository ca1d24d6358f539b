package content

import (
	"bytes"
	"io"
)

// canonical makes every line of r end in CRLF, and nothing else hold CR or LF:
// a bare LF ends a line, any other CR becomes a space, and a last line without
// its end is given one.
type canonical struct {
	r       io.Reader
	buf     [4096]byte
	rest    []byte // of buf
	err     error
	out     []byte // to be returned
	held    bool   // a CR whose meaning the next octet decides
	midLine bool
	ended   bool
}

// Canonical returns a reader of r's text with the line ends of a message.
func Canonical(r io.Reader) io.Reader { return &canonical{r: r} }

// Read implements io.Reader.
func (c *canonical) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(c.out) > 0 {
			m := copy(p[n:], c.out)
			c.out, n = c.out[m:], n+m
			continue
		}
		if !c.next() {
			break
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, c.err
	}
	return n, nil
}

var (
	crlf   = []byte("\r\n")
	spaced = []byte(" ")
)

// next finds what is returned next; false at the end.
func (c *canonical) next() bool {
	if len(c.rest) == 0 {
		if c.err == nil {
			var n int
			n, c.err = c.r.Read(c.buf[:])
			c.rest = c.buf[:n]
			return true
		}
		return c.finish()
	}
	if c.held {
		c.held = false
		if c.rest[0] == '\n' {
			c.rest, c.out, c.midLine = c.rest[1:], crlf, false
		} else {
			c.out, c.midLine = spaced, true
		}
		return true
	}
	switch at := bytes.IndexAny(c.rest, "\r\n"); {
	case at < 0:
		c.out, c.rest, c.midLine = c.rest, nil, true
	case at > 0:
		c.out, c.rest, c.midLine = c.rest[:at], c.rest[at:], true
	case c.rest[0] == '\r':
		c.held, c.rest = true, c.rest[1:]
	default:
		c.out, c.rest, c.midLine = crlf, c.rest[1:], false
	}
	return true
}

// finish ends the last line.
func (c *canonical) finish() bool {
	if c.ended || c.err != io.EOF {
		return false
	}
	c.ended = true
	switch {
	case c.held:
		c.out = []byte(" \r\n")
	case c.midLine:
		c.out = crlf
	default:
		return false
	}
	return true
}

package pop3d

import "bytes"

// text turns stored octets into the lines of a multi-line response (RFC 1939
// section 3): lines end in CRLF, and one that begins with a dot gets another.
// A line feed without a carriage return before it is a line end to most
// clients, and no line end to others; as it becomes CRLF, all of them see the
// same lines, and none sees the end of the response inside a message. All other
// octets pass as they are, NUL and lone carriage returns included.
type text struct {
	midLine bool // the last octet was not a line end
	cr      bool // the last octet was CR
	noNULs  bool // NUL becomes 0x80
	// grown is how many octets line ends have gained.
	grown int64
}

// append appends what src becomes to dst. Lines may go on in the next call.
func (t *text) append(dst, src []byte) []byte {
	base, from := len(dst), 0 // src[from:] is not copied yet
	for i := 0; i < len(src); {
		if !t.midLine && src[i] == '.' {
			dst = append(append(dst, src[from:i]...), '.')
			from = i
		}
		n := bytes.IndexByte(src[i:], '\n')
		if n < 0 {
			t.midLine, t.cr = true, src[len(src)-1] == '\r'
			break
		}
		end := i + n
		if t.bare(src, i, end) {
			dst = append(append(dst, src[from:end]...), '\r')
			from = end
			t.grown++
		}
		t.midLine, t.cr = false, false
		i = end + 1
	}
	dst = append(dst, src[from:]...)
	if t.noNULs {
		replaceNULs(dst[base:])
	}
	return dst
}

// bare reports whether the line feed at src[end], which ends the line or the
// rest of a line that begins at src[i], has no carriage return before it.
func (t *text) bare(src []byte, i, end int) bool {
	if end > i {
		return src[end-1] != '\r'
	}
	return !t.cr
}

// count is append for those who want to know how many octets are gained.
func (t *text) count(src []byte) {
	for i := 0; i < len(src); {
		n := bytes.IndexByte(src[i:], '\n')
		if n < 0 {
			t.midLine, t.cr = true, src[len(src)-1] == '\r'
			return
		}
		if t.bare(src, i, i+n) {
			t.grown++
		}
		t.midLine, t.cr = false, false
		i += n + 1
	}
}

// complete appends the line end that the last line lacks, if it does.
func (t *text) complete(dst []byte) []byte {
	if !t.midLine {
		return dst
	}
	t.midLine, t.cr = false, false
	t.grown += 2
	return append(dst, "\r\n"...)
}

func replaceNULs(b []byte) {
	for {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return
		}
		b[i] = 0x80
		b = b[i+1:]
	}
}

// excerpt finds how much of a message TOP sends: its header, the empty line
// behind it and so many lines of the body.
type excerpt struct {
	lines  uint64 // of the body that are still to come
	body   bool   // the header is over
	filled bool   // the line under way has octets other than CR
}

// take returns how many octets of src belong to it, and whether that was all.
func (e *excerpt) take(src []byte) (n int, done bool) {
	for n < len(src) {
		if e.body && e.lines == 0 {
			return n, true
		}
		length := bytes.IndexByte(src[n:], '\n')
		if length < 0 {
			e.filled = e.filled || !isCR(src[n:])
			return len(src), false
		}
		if e.body {
			e.lines--
		} else {
			e.body = !e.filled && isCR(src[n:n+length])
		}
		e.filled = false
		n += length + 1
	}
	return n, e.body && e.lines == 0
}

// isCR reports whether b holds nothing but at most one CR.
func isCR(b []byte) bool { return len(b) == 0 || len(b) == 1 && b[0] == '\r' }

package mime

import (
	"bytes"
	"slices"
)

// Doubter is a Visitor that is told where programs that show mail may see other
// parts than the walk does, with the reason. It is for Limits.AsPrograms.
type Doubter interface{ Doubt(reason string) }

// What programs differ in.
const (
	doubtField     = "a header field that is too long"
	doubtLine      = "a header with a line that is none"
	doubtNone      = "a multipart without a boundary"
	doubtSeveral   = "several boundaries"
	doubtBoundary  = "a boundary that programs read differently"
	doubtEnd       = "parts behind the last one"
	maxBoundary    = 1000 // RFC 2046 section 5.1.1 says 70
	maxClosed      = 100
	mboxLine       = "From "
	quotedMboxLine = ">From "
)

// programs is what a walk as programs do it remembers.
type programs struct {
	fields     int      // of the header that is read
	boundaries []string // that it gave
	multipart  bool     // and it is one of a multipart
	headless   bool     // the body began without a header, and its first lines go on
	closed     [][]byte // the boundaries whose last part was passed
}

func (w *walker) doubt(reason string) {
	if d, ok := w.to.(Doubter); ok && w.limits.AsPrograms {
		d.Doubt(reason)
	}
}

// divided takes the boundaries of the field that was read.
func (w *walker) divided(parts kind) {
	all, sure := boundaries(w.field)
	if !sure {
		w.doubt(doubtBoundary)
	}
	w.multipart = true
	for _, text := range all {
		if text = string(trimmed([]byte(text))); text == "" || len(text) > maxBoundary {
			w.doubt(doubtBoundary)
			continue
		}
		if len(w.boundaries) > 0 && !slices.Contains(w.boundaries, text) {
			w.doubt(doubtSeveral)
		}
		if len(w.boundaries) < maxClosed {
			w.boundaries = append(w.boundaries, text)
		}
		w.push(text, parts)
	}
}

// ended settles what a header said, which is over.
func (w *walker) ended() {
	if w.multipart && len(w.boundaries) == 0 {
		w.doubt(doubtNone)
	}
	w.fields, w.boundaries, w.multipart = 0, nil, false
}

// trimmed takes off the white space that may follow a boundary.
func trimmed(text []byte) []byte { return bytes.TrimRight(text, " \t") }

// divides finds the boundary that a line is, of those that are open: -1 for none.
func (w *walker) divides(text []byte) (at int, last bool) {
	if len(text) <= 2 || text[0] != '-' || text[1] != '-' {
		return -1, false
	}
	text = trimmed(text[2:])
	for at = len(w.stack) - 1; at >= 0; at-- {
		if rest, ours := bytes.CutPrefix(text, w.stack[at].text); ours && (len(rest) == 0 || string(rest) == "--") {
			return at, len(rest) > 0
		}
	}
	return -1, false
}

// nearly tells of a line that begins as one that divides parts does.
func (w *walker) nearly(text []byte) {
	text = text[2:]
	for i := range w.stack {
		if bytes.HasPrefix(text, w.stack[i].text) {
			w.doubt(doubtBoundary)
			return
		}
	}
	for _, b := range w.closed {
		if bytes.Equal(trimmed(text), b) {
			w.doubt(doubtEnd)
			return
		}
	}
}

// junk reports whether a line of a header is passed over: one that is no field, as
// programs do. What ends a header is none, nor is a line of a body without header.
func (w *walker) junk(text []byte, begins bool) bool {
	if len(text) == 0 && begins {
		return false
	}
	if at, _ := w.divides(text); at >= 0 && begins {
		return false
	}
	mbox := bytes.HasPrefix(text, []byte(mboxLine)) || bytes.HasPrefix(text, []byte(quotedMboxLine))
	if w.fields == 0 && begins && !mbox {
		w.headless = true
		return false
	}
	if !mbox && begins {
		w.doubt(doubtLine)
	}
	return true
}

// behind looks at the first lines of a body without a header, some programs'
// header.
func (w *walker) behind(l Line) {
	if len(l.Text) == 0 || l.Boundary {
		w.headless = false
	} else if content := []byte("content-"); l.Begins && nameLength(l.Text) > len(content) && bytes.EqualFold(l.Text[:len(content)], content) {
		w.doubt(doubtLine)
	}
}

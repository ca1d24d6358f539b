package dkim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"sync"
)

// WholeBody is the limit of a body hash without l=.
const WholeBody int64 = -1

// BodyHasher hashes a body as it goes by, for all signatures at once: the
// canonical form is made once for each canonicalization, the digest once for
// each limit. Not for concurrent use. The zero value is ready.
type BodyHasher struct {
	canons  [2]*bodyCanon
	wanted  []bodyDigest
	sums    [][sha256.Size]byte
	written [2]int64 // canonical octets, known after Close
}

// bodyDigest is one digest that somebody wants.
type bodyDigest struct {
	canon Canon
	limit int64
	left  int64 // octets that still go in; negative for all
	hash  hash.Hash
}

// Want asks for a digest and returns its number for Sum. Signatures that want
// the same share it. limit is that of l=, or WholeBody. All is wanted before
// the first Write.
func (b *BodyHasher) Want(c Canon, limit int64) int {
	for i := range b.wanted {
		if b.wanted[i].canon == c && b.wanted[i].limit == limit {
			return i
		}
	}
	if b.canons[c] == nil {
		b.canons[c] = &bodyCanon{canon: c}
	}
	d := bodyDigest{canon: c, limit: limit, left: limit, hash: digests.Get().(hash.Hash)}
	d.hash.Reset()
	b.wanted = append(b.wanted, d)
	return len(b.wanted) - 1
}

// digests keeps SHA-256 states for the next message.
var digests = sync.Pool{New: func() any { return sha256.New() }}

// Write takes the next octets of the body. It never fails.
func (b *BodyHasher) Write(p []byte) (int, error) {
	for _, c := range b.canons {
		if c != nil {
			c.write(b, p)
		}
	}
	return len(p), nil
}

// Close ends the body. After it Sum and Octets tell.
func (b *BodyHasher) Close() {
	for _, c := range b.canons {
		if c != nil {
			c.close(b)
			b.written[c.canon] = c.written
		}
	}
	b.sums = make([][sha256.Size]byte, len(b.wanted))
	for i := range b.wanted {
		b.wanted[i].hash.Sum(b.sums[i][:0])
		digests.Put(b.wanted[i].hash)
		b.wanted[i].hash = nil
	}
}

// Sum returns a digest that was wanted, after Close.
func (b *BodyHasher) Sum(number int) [sha256.Size]byte { return b.sums[number] }

// Octets is how long the body is in a canonical form that was wanted, after
// Close.
func (b *BodyHasher) Octets(c Canon) int64 { return b.written[c] }

// ReadFrom takes all of a body.
func (b *BodyHasher) ReadFrom(r io.Reader) (int64, error) {
	buffer := readBuffers.Get().(*[bodyPiece]byte)
	defer readBuffers.Put(buffer)
	var total int64
	for {
		n, err := r.Read(buffer[:])
		total += int64(n)
		_, _ = b.Write(buffer[:n]) // never fails
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// bodyPiece is how much of a body is in memory at once.
const bodyPiece = 32 << 10

var readBuffers = sync.Pool{New: func() any { return new([bodyPiece]byte) }}

func (b *BodyHasher) emit(c Canon, p []byte) {
	for i := range b.wanted {
		d := &b.wanted[i]
		switch {
		case d.canon != c || d.left == 0:
		case d.left < 0 || d.left >= int64(len(p)):
			d.hash.Write(p)
			if d.left > 0 {
				d.left -= int64(len(p))
			}
		default:
			d.hash.Write(p[:d.left])
			d.left = 0
		}
	}
}

// bodyCanon makes the canonical form of a body that comes in pieces. What may
// yet turn out to be white space at the end of a line, or empty lines at the
// end of the body, waits as a number.
type bodyCanon struct {
	canon   Canon
	written int64
	lines   int64 // CRLFs that wait
	space   bool  // white space that waits, after those lines
	cr      bool  // a CR that ended a piece
}

var (
	crlf       = []byte("\r\n")
	emptyLines = bytes.Repeat(crlf, 512)
	oneSpace   = []byte{' '}
	oneCR      = []byte{'\r'}
)

func (c *bodyCanon) out(b *BodyHasher, p []byte) {
	c.written += int64(len(p))
	b.emit(c.canon, p)
}

// flush lets out what waited, since text follows it.
func (c *bodyCanon) flush(b *BodyHasher) {
	for c.lines > 0 {
		n := min(c.lines, int64(len(emptyLines)/2))
		c.out(b, emptyLines[:2*n])
		c.lines -= n
	}
	if c.space {
		c.out(b, oneSpace)
		c.space = false
	}
}

func (c *bodyCanon) write(b *BodyHasher, p []byte) {
	if len(p) == 0 {
		return
	}
	if c.cr {
		c.cr = false
		if p[0] == '\n' {
			c.lineEnd()
			p = p[1:]
		} else {
			c.flush(b)
			c.out(b, oneCR)
		}
	}
	if n := len(p); n > 0 && p[n-1] == '\r' {
		c.cr = true
		p = p[:n-1]
	}
	if c.canon == Simple {
		c.simple(b, p)
	} else {
		c.relaxed(b, p)
	}
}

func (c *bodyCanon) lineEnd() {
	c.lines++
	c.space = false
}

// simple passes everything on but the line ends at the end.
func (c *bodyCanon) simple(b *BodyHasher, p []byte) {
	lines := int64(0)
	for bytes.HasSuffix(p, crlf) {
		p = p[:len(p)-2]
		lines++
	}
	if len(p) > 0 {
		c.flush(b)
		c.out(b, p)
	}
	c.lines += lines
}

// relaxed passes on the longest stretches that stay as they are.
func (c *bodyCanon) relaxed(b *BodyHasher, p []byte) {
	for i := 0; i < len(p); {
		switch p[i] {
		case ' ', '\t':
			c.space = true
			i++
		case '\r':
			if i+1 < len(p) && p[i+1] == '\n' {
				c.lineEnd()
				i += 2
				continue
			}
			c.flush(b)
			c.out(b, p[i:i+1])
			i++
		default:
			c.flush(b)
			end := unchanged(p, i)
			c.out(b, p[i:end])
			i = end
		}
	}
}

// unchanged returns the end of the stretch from i, which is text, that the
// relaxed form leaves as it is: single spaces and line ends between text are
// part of it.
func unchanged(p []byte, i int) int {
	for {
		for i+8 <= len(p) && allText(binary.LittleEndian.Uint64(p[i:])) {
			i += 8
		}
		for i < len(p) && isText(p[i]) {
			i++
		}
		switch {
		case i+1 < len(p) && p[i] == ' ' && isText(p[i+1]):
			i += 2
		case i+2 < len(p) && p[i] == '\r' && p[i+1] == '\n' && isText(p[i+2]):
			i += 3
		default:
			return i
		}
	}
}

// isText tells octets that the relaxed form never changes.
func isText(c byte) bool { return c > ' ' || (c != ' ' && c != '\t' && c != '\r') }

// allText tells that all eight octets are above the space.
func allText(eight uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	return (eight-ones*('!'))&^eight&highs == 0
}

// close ends the body: the last line has its CRLF, no empty line follows it. An
// empty body is one CRLF when simple, nothing when relaxed (RFC 6376 section
// 3.4.3 and 3.4.4).
func (c *bodyCanon) close(b *BodyHasher) {
	if c.cr {
		c.flush(b)
		c.out(b, oneCR)
	}
	if c.space && c.canon == Relaxed {
		// A line of white space without an end is empty once that is gone.
		c.space = false
	}
	if c.written > 0 || c.canon == Simple {
		c.out(b, crlf)
	}
}

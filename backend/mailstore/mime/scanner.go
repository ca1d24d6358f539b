package mime

import (
	"bytes"
	"io"
)

// Bounds of what a message can make us keep. What lies beyond them is counted
// and skipped, never refused.
const (
	// MaxHeaderOctets is how much of the message's own header is read.
	MaxHeaderOctets     = 256 << 10
	maxPartHeaderOctets = 64 << 10
	maxDepth            = 64
	maxParts            = 1000
	maxBoundaryOctets   = 200 // RFC 2046 allows 70
	// maxRendered bounds the strings of a structure together; after that they
	// read NIL.
	maxRendered = 512 << 10
	// linePrefix is as much of a line as tells whether it is a delimiter.
	linePrefix = maxBoundaryOctets + 56
)

// Result is what a scan found.
type Result struct {
	// Header is the message's header block with its blank line, or nil when it
	// is longer than MaxHeaderOctets; Root tells where it lies either way.
	Header []byte
	// Envelope, BodyStructure and Body are IMAP wire forms, each a
	// parenthesised list. Literals in them have no NUL, CR or LF.
	Envelope      []byte
	BodyStructure []byte
	Body          []byte
	// SentDate is the Date field's day in unix seconds, 0 when unreadable.
	SentDate int64
	// Preview is what RFC 8970 wants; see package preview.
	Preview []byte
	Root    *Part
}

// node is a part under construction: what its header said, kept until the
// structure is rendered.
type node struct {
	Part
	parent   *node
	children []*node
	content  content
	envelope []byte // of a message, rendered
	isRoot   bool   // the message itself, or the one in a message/rfc822
	opaque   bool   // too deep to look into
	inDigest bool
	// firstLine is how many lines stood before the body; lines is its length.
	firstLine, lines int64
}

// Scanner reads a message as it passes by. It is an io.Writer that never
// fails. Its memory is bounded by the constants above.
type Scanner struct {
	root, cur *node
	open      []*node // multiparts whose boundary is looked for, outermost first
	inHeader  bool
	parts     int
	rendered  int
	top       []byte // the message's own header block
	sent      int64

	header     []byte // the block being read
	headerLine int    // where its last line starts
	headerLong bool
	headerTop  bool // the message's own header was too long

	offset    int64 // of the current line's start
	lines     int64 // complete lines before it
	prevEOL   int64 // octets of the line end before it
	prevEmpty bool

	carry    []byte // the start of a line that is not complete yet
	carried  int64  // its length so far
	lastByte byte

	excerpt excerpt
}

// NewScanner returns a Scanner at the start of a message.
func NewScanner() *Scanner {
	s := &Scanner{root: &node{isRoot: true}, inHeader: true, parts: 1}
	s.cur = s.root
	s.header = make([]byte, 0, 4<<10)
	return s
}

// Scan reads a whole message. The error is the reader's.
func Scan(r io.Reader) (*Result, error) {
	s := NewScanner()
	if _, err := io.Copy(s, r); err != nil {
		return nil, err
	}
	return s.Result(), nil
}

// Write takes in the next octets of the message.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if !s.inHeader && len(s.open) == 0 && s.carried == 0 {
			rest := s.skipLines(p)
			s.takeText(p[:len(p)-len(rest)])
			p = rest
			if len(p) == 0 {
				break
			}
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.partial(p)
			break
		}
		if i > 0 {
			s.lastByte = p[i-1]
		}
		eol := int64(1)
		if s.lastByte == '\r' && (i > 0 || s.carried > 0) {
			eol = 2
		}
		if s.carried > 0 {
			s.partial(p[:i+1])
			s.line(s.carry, s.carried, eol)
			s.carry, s.carried = s.carry[:0], 0
		} else {
			if s.inHeader {
				s.keepHeader(p[:i+1])
			}
			s.excerpt.line = len(s.excerpt.taken)
			s.takeText(p[:i+1])
			s.line(p[:min(i+1, linePrefix)], int64(i+1), eol)
		}
		p = p[i+1:]
	}
	return n, nil
}

// skipLines counts the lines of a body in which no delimiter can follow.
func (s *Scanner) skipLines(p []byte) []byte {
	last := bytes.LastIndexByte(p, '\n')
	s.lines += int64(bytes.Count(p[:last+1], newline))
	s.offset += int64(last + 1)
	return p[last+1:]
}

var newline = []byte{'\n'}

// partial keeps what is needed of a line whose end has not come yet.
func (s *Scanner) partial(p []byte) {
	if s.inHeader {
		if s.carried == 0 {
			s.headerLine = len(s.header)
		}
		s.appendHeader(p)
	}
	if s.carried == 0 {
		s.excerpt.line = len(s.excerpt.taken)
	}
	s.takeText(p)
	if room := linePrefix - len(s.carry); room > 0 {
		s.carry = append(s.carry, p[:min(room, len(p))]...)
	}
	s.carried += int64(len(p))
	s.lastByte = p[len(p)-1]
}

func (s *Scanner) keepHeader(line []byte) {
	s.headerLine = len(s.header)
	s.appendHeader(line)
}

func (s *Scanner) appendHeader(p []byte) {
	limit := maxPartHeaderOctets
	if s.cur == s.root {
		limit = MaxHeaderOctets
	}
	if room := limit - len(s.header); room < len(p) {
		p = p[:max(room, 0)]
		s.headerLong = true
	}
	s.header = append(s.header, p...)
}

// line takes one line of n octets, of which the last eol are its end and
// prefix holds the first.
func (s *Scanner) line(prefix []byte, n, eol int64) {
	if len(prefix) > 2 && prefix[0] == '-' && prefix[1] == '-' {
		if i, last := s.delimiter(prefix, n); i >= 0 {
			s.atDelimiter(i, last, n)
			s.prevEOL, s.prevEmpty = eol, false
			return
		}
	}
	s.offset += n
	s.lines++
	s.prevEOL, s.prevEmpty = eol, n == eol
	if s.inHeader && n == eol && eol > 0 {
		s.endHeader(s.offset)
	}
}

// delimiter finds the innermost open multipart whose delimiter line this is,
// and whether it is the closing one; -1 for none.
func (s *Scanner) delimiter(line []byte, n int64) (index int, last bool) {
	if n > int64(len(line)) || s.parts >= maxParts {
		return -1, false
	}
	line = bytes.TrimRight(line[2:], " \t\r\n")
	for i := len(s.open) - 1; i >= 0; i-- {
		rest, ok := bytes.CutPrefix(line, s.open[i].content.boundary)
		if !ok {
			continue
		}
		if len(rest) == 0 {
			return i, false
		}
		if string(rest) == "--" {
			return i, true
		}
	}
	return -1, false
}

// atDelimiter ends what was open inside multipart i and, unless the delimiter
// is the closing one, begins its next part. The line end before a delimiter
// belongs to the delimiter (RFC 2046 section 5.1.1).
func (s *Scanner) atDelimiter(i int, last bool, n int64) {
	multipart := s.open[i]
	end := s.offset - s.prevEOL
	s.excerpt.dropLine()
	if s.inHeader {
		s.header = s.header[:min(s.headerLine, len(s.header))]
		s.endHeader(max(end, s.cur.Header.Start))
		for s.inHeader { // a message/rfc822 without anything in it
			s.endHeader(s.cur.Header.Start)
		}
	}
	for ; s.cur != multipart; s.cur = s.cur.parent {
		s.close(s.cur, end, s.prevEmpty)
	}
	s.offset += n
	s.lines++
	if last {
		s.open = s.open[:i]
		return
	}
	s.open = s.open[:i+1]
	s.begin(multipart, s.offset)
}

// begin starts a part at offset.
func (s *Scanner) begin(parent *node, offset int64) {
	child := &node{parent: parent, inDigest: parent.content.digest}
	child.Header.Start = offset
	child.isRoot = parent.Kind == Message
	parent.children = append(parent.children, child)
	s.parts++
	s.cur, s.inHeader = child, true
	s.header, s.headerLine, s.headerLong = s.header[:0], 0, false
}

// close ends a part's body at end; dropEmpty says that its last line is only
// the line end that belongs to the delimiter.
func (s *Scanner) close(n *node, end int64, dropEmpty bool) {
	if s.excerpt.from == n {
		s.endText()
	}
	n.Body.End = max(end, n.Body.Start)
	if len(n.children) > 0 {
		n.Body.End = max(n.Body.End, n.children[len(n.children)-1].Body.End)
	}
	n.lines = max(s.lines-n.firstLine, 0)
	if dropEmpty && n.lines > 0 {
		n.lines--
	}
}

// endHeader reads the header block that ends at end and decides how the part
// goes on.
func (s *Scanner) endHeader(end int64) {
	n := s.cur
	n.Header.End, n.Body.Start = end, end
	n.firstLine = s.lines
	s.inHeader = false
	n.content = s.readContent(s.header, n.inDigest)
	if n.isRoot {
		n.envelope, s.rendered = appendEnvelope(nil, s.header, s.rendered)
	}
	if n == s.root {
		s.sent = sentDate(s.header)
		s.top, s.headerTop = s.header, s.headerLong
		s.header = nil
	}
	n.Encoding = n.content.encodingKind()
	deep := s.depth(n) >= maxDepth || s.parts >= maxParts
	switch {
	case n.content.isMessage() && !deep:
		n.Kind = Message
		s.begin(n, end)
	case n.content.isMultipart() && !deep && len(n.content.boundary) > 0:
		n.Kind = Multipart
		s.open = append(s.open, n)
	case n.content.isMessage() || n.content.isMultipart():
		n.opaque = true
	default:
		s.considerText(n)
	}
}

func (s *Scanner) depth(n *node) int {
	depth := 0
	for ; n.parent != nil; n = n.parent {
		depth++
	}
	return depth
}

// Result ends the message. The Scanner cannot be used afterwards.
func (s *Scanner) Result() *Result {
	if s.carried > 0 {
		s.line(s.carry, s.carried, 0)
	}
	for s.inHeader {
		s.endHeader(s.offset)
	}
	for n := s.cur; n != nil; n = n.parent {
		s.close(n, s.offset, false)
	}
	r := &Result{SentDate: s.sent, Envelope: s.root.envelope, Root: s.root.tree(), Preview: s.excerpt.text}
	if !s.headerTop {
		r.Header = s.top
	}
	buf := make([]byte, 0, 512)
	buf = s.root.appendStructure(buf, true)
	both := len(buf)
	buf = s.root.appendStructure(buf, false)
	r.BodyStructure, r.Body = buf[:both:both], buf[both:]
	return r
}

// tree returns the parts without what was needed to render them.
func (n *node) tree() *Part {
	p := n.Part
	if len(n.children) > 0 {
		p.Parts = make([]*Part, len(n.children))
		for i, child := range n.children {
			p.Parts[i] = child.tree()
		}
	}
	return &p
}

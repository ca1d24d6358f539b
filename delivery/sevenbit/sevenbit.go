// Package sevenbit makes messages fit for servers that take seven bits only
// (RFC 6152 section 3): parts of a message that hold octets above 127 come out
// in quoted-printable or base64 (RFC 2045 section 6), the labels of the others
// are put right, and everything else stays as it is.
//
// A message is read twice: Look finds out what has to be done, and Reader does
// it. Both read as a stream; memory does not grow with the message.
//
// What is signed is never changed: a message with octets above 127 inside a
// multipart/signed or multipart/encrypted cannot be converted. Header fields
// with octets above 127 are left as they are, for SMTPUTF8 is another matter,
// and so are parts whose label says that they have none.
package sevenbit

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"strings"
)

// ErrSigned and ErrIntricate are why a message cannot be converted.
var (
	ErrSigned    = errors.New("octets above 127 in a part that is signed or encrypted")
	ErrIntricate = errors.New("octets above 127 in parts that cannot be converted")
)

// The bounds of what is understood.
const (
	maxParts     = 10000
	maxDepth     = 100
	maxField     = 16 << 10
	maxBoundary  = 256
	bufferOctets = 64 << 10
)

// action is what is done with one part.
type action byte

const (
	keep            action = iota
	relabel                // its label says more than seven bits, its content does not
	quotedPrintable        // for text
	base64Encode           // for everything else
)

// Conversion is what has to be done with one message. The zero Conversion
// leaves it as it is.
type Conversion struct {
	parts []action
	dkim  bool // the message has a DKIM signature
}

// Needed reports whether there is anything to do.
func (c Conversion) Needed() bool { return len(c.parts) > 0 }

// BreaksDKIM reports whether what has to be done breaks a DKIM signature (RFC
// 6376 section 5.3): every one covers the body.
func (c Conversion) BreaksDKIM() bool { return c.Needed() && c.dkim }

// Look reads a message, CRLF line ends, to find out what has to be done. Its
// error is ErrSigned, ErrIntricate, or the reader's.
func Look(r io.Reader) (Conversion, error) {
	s := &surveyor{}
	w := newWalker(r, s)
	for {
		err := w.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Conversion{}, err
		}
		if s.err != nil {
			return Conversion{}, s.err
		}
	}
	s.partEnds()
	switch {
	case s.err != nil:
		return Conversion{}, s.err
	case !s.eightBit:
		return Conversion{}, nil
	case s.tooMany:
		return Conversion{}, ErrIntricate
	default:
		return Conversion{s.parts, s.dkim}, nil
	}
}

// visitor is told what a walker comes across. Slices are valid during the call.
type visitor interface {
	// field is a line of a part's header, or a fragment of one; first tells that
	// it begins a field. The empty line is not one.
	field(line []byte, first bool)
	// headerEnds says what the part is, at the empty line that ends its header.
	headerEnds(p part, line []byte)
	// body is a line, or a fragment of one, of a part's content; whole tells that
	// it has its line end.
	body(line []byte, whole bool)
	// between is a line that belongs to no part: a boundary, or what stands
	// before the first and after the last one. sealed tells that it lies in
	// something signed or encrypted.
	between(line []byte, boundary, sealed bool)
}

// part is what its header says of a part.
type part struct {
	mediaType string // lower case
	encoding  string // lower case
	composite bool   // holds other parts
	sealed    bool   // lies in something signed or encrypted
}

// level is a multipart that surrounds the present place.
type level struct {
	boundary string
	within   bool // the multipart itself lies in something signed or encrypted
	digest   bool // its parts are messages unless they say otherwise
	sealed   bool
	nested   int // messages around it
}

// walker goes through a message line by line.
type walker struct {
	in       *bufio.Reader
	visitor  visitor
	levels   []level
	inHeader bool
	inBody   bool // of a part that holds no others
	lineBegs bool // the next octet begins a line
	asDigest bool // the present part is a message by default
	sealed   bool // it lies in something signed or encrypted
	around   bool // so does what stands between parts here

	nested int // messages around the present part

	name        string // of the field being read
	contentType []byte
	encoding    []byte
}

func newWalker(r io.Reader, v visitor) *walker {
	return &walker{in: bufio.NewReaderSize(r, bufferOctets), visitor: v, inHeader: true, lineBegs: true}
}

// step reads one line, or a fragment of a long one. It returns io.EOF at the end.
func (w *walker) step() error {
	line, err := w.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, io.EOF) && len(line) > 0 {
		err = nil
	}
	if err != nil {
		return err
	}
	begins := w.lineBegs
	w.lineBegs = line[len(line)-1] == '\n'
	if begins {
		if n, last, found := w.boundary(line); found {
			w.atBoundary(n, last, line)
			return nil
		}
	}
	switch {
	case w.inHeader:
		w.headerLine(line, begins)
	case w.inBody:
		w.visitor.body(line, w.lineBegs)
	default:
		w.visitor.between(line, false, w.around)
	}
	return nil
}

// boundary finds the level that a line ends a part of, the innermost first.
func (w *walker) boundary(line []byte) (at int, last, found bool) {
	if len(line) < 3 || line[0] != '-' || line[1] != '-' || len(line) > maxBoundary+80 {
		return 0, false, false
	}
	text := bytes.TrimRight(line[2:], " \t\r\n")
	for at = len(w.levels) - 1; at >= 0; at-- {
		rest, ok := bytes.CutPrefix(text, []byte(w.levels[at].boundary))
		if ok && len(rest) == 0 {
			return at, false, true
		}
		if ok && string(rest) == "--" {
			return at, true, true
		}
	}
	return 0, false, false
}

// atBoundary ends what lies below a level, and the level itself at its last
// boundary.
func (w *walker) atBoundary(at int, last bool, line []byte) {
	w.visitor.between(line, true, false)
	w.inHeader, w.inBody, w.around = false, false, w.levels[at].within
	if last {
		w.levels = w.levels[:at]
		return
	}
	w.levels = w.levels[:at+1]
	w.asDigest, w.sealed, w.nested, w.inHeader = w.levels[at].digest, w.levels[at].sealed, w.levels[at].nested, true
	w.forget()
}

func (w *walker) forget() {
	w.name, w.contentType, w.encoding = "", w.contentType[:0], w.encoding[:0]
}

func (w *walker) headerLine(line []byte, begins bool) {
	if begins && len(bytes.TrimRight(line, "\r\n")) == 0 {
		w.endHeader(line)
		return
	}
	first := begins && line[0] != ' ' && line[0] != '\t'
	if first {
		name, _, _ := bytes.Cut(line, []byte(":"))
		w.name = strings.ToLower(strings.TrimRight(string(name[:min(len(name), 40)]), " \t"))
	}
	switch {
	case w.name == "content-type" && len(w.contentType)+len(line) <= maxField:
		w.contentType = append(w.contentType, line...)
	case w.name == "content-transfer-encoding" && len(w.encoding)+len(line) <= maxField:
		w.encoding = append(w.encoding, line...)
	}
	w.visitor.field(line, first)
}

// endHeader decides what the part is.
func (w *walker) endHeader(line []byte) {
	p := part{mediaType: "text/plain", encoding: strings.ToLower(strings.TrimSpace(fieldBody(w.encoding))), sealed: w.sealed}
	if w.asDigest {
		p.mediaType = "message/rfc822"
	}
	var params map[string]string
	if text := fieldBody(w.contentType); text != "" {
		t, found, err := mime.ParseMediaType(text)
		if err == nil || errors.Is(err, mime.ErrInvalidMediaParameter) {
			p.mediaType, params = t, found
		} else if kind, _, _ := strings.Cut(text, ";"); strings.Contains(kind, "/") {
			p.mediaType = strings.ToLower(strings.TrimSpace(kind))
		}
	}
	boundary := params["boundary"]
	multipart := strings.HasPrefix(p.mediaType, "multipart/") && boundary != "" && len(boundary) <= maxBoundary && len(w.levels) < maxDepth
	message := p.mediaType == "message/rfc822" && w.nested < maxDepth
	p.composite = multipart || message
	w.visitor.headerEnds(p, line)
	w.inHeader, w.inBody, w.asDigest = false, !p.composite, false
	w.forget()
	switch {
	case multipart:
		sealed := p.sealed || p.mediaType == "multipart/signed" || p.mediaType == "multipart/encrypted"
		w.around = p.sealed
		w.levels = append(w.levels, level{boundary: boundary, within: p.sealed, digest: p.mediaType == "multipart/digest", sealed: sealed, nested: w.nested})
	case message:
		w.inHeader = true
		w.nested++
	}
}

// fieldBody is what follows the name of a field, unfolded.
func fieldBody(field []byte) string {
	_, text, _ := strings.Cut(string(field), ":")
	return strings.TrimSpace(strings.NewReplacer("\r\n", "", "\n", "").Replace(text))
}

// surveyor decides what is done with each part.
type surveyor struct {
	parts    []action
	now      part
	open     bool // a part's content is being read
	found    bool // octets above 127 in it
	eightBit bool // in any part that is converted, or between them
	tooMany  bool // there are more parts than parts holds
	inside   bool // behind the message's own header
	dkim     bool // a DKIM signature in that
	err      error
}

const dkimSignature = "DKIM-Signature:"

func (s *surveyor) field(line []byte, first bool) {
	if first && !s.inside && len(line) > len(dkimSignature) && strings.EqualFold(string(line[:len(dkimSignature)]), dkimSignature) {
		s.dkim = true
	}
}

func (s *surveyor) headerEnds(p part, _ []byte) {
	s.inside = true
	s.partEnds()
	s.now, s.open, s.found = p, true, false
}

func (s *surveyor) body(line []byte, _ bool) { s.found = s.found || hasEightBit(line) }

func (s *surveyor) between(line []byte, boundary, sealed bool) {
	switch {
	case boundary:
		s.partEnds()
	case !hasEightBit(line):
	case sealed:
		s.err = ErrSigned
	default:
		s.eightBit = true
	}
}

// partEnds takes down what has to be done with the part read so far.
func (s *surveyor) partEnds() {
	if !s.open {
		return
	}
	s.open = false
	wide := s.now.encoding == "8bit" || s.now.encoding == "binary"
	plain := wide || s.now.encoding == "7bit" || s.now.encoding == ""
	do := keep
	switch {
	case s.now.sealed:
		if s.found {
			s.err = ErrSigned
		}
	case s.found && !convertible(s.now.mediaType):
		s.err = ErrIntricate
	case s.found && plain && strings.HasPrefix(s.now.mediaType, "text/"):
		do = quotedPrintable
	case s.found && plain:
		do = base64Encode
	case wide:
		do = relabel
	}
	s.eightBit = s.eightBit || do == quotedPrintable || do == base64Encode
	if s.tooMany = len(s.parts) == maxParts; !s.tooMany {
		s.parts = append(s.parts, do)
	}
}

// convertible reports whether a part of a media type may be encoded (RFC 2046
// section 5, RFC 6532 section 3.7).
func convertible(mediaType string) bool {
	return !strings.HasPrefix(mediaType, "multipart/") && (!strings.HasPrefix(mediaType, "message/") || strings.HasPrefix(mediaType, "message/global"))
}

func hasEightBit(p []byte) bool {
	for _, c := range p {
		if c > 127 {
			return true
		}
	}
	return false
}

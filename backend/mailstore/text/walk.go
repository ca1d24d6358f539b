package text

import (
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

// Options say what counts as text beyond text/*.
type Options struct {
	// Attachments: also what is text as it stands and has another type: JSON, XML,
	// RTF and the like.
	Attachments bool
	// Documents: also what is in documents of office programs: Office Open XML and
	// OpenDocument, which are zip archives.
	Documents bool
}

// Message is what is read.
type Message struct {
	// Header is the message's own header block, and Root tells where the parts
	// lie in Body.
	Header []byte
	Root   *mime.Part
	// Body opens the message's octets. It is called when they are needed, at
	// most once, and stays the caller's to close.
	Body func() (io.ReaderAt, error)
}

// Sink takes in texts. Nothing is ever found across the border of two.
type Sink interface {
	// Begin begins another text in a track; what was before it there ended.
	// Texts in different tracks come at the same time.
	Begin(Track)
	// Add adds folded octets, whole characters. They are good until it returns.
	// It returns false when it has seen enough, of everything.
	Add(t Track, folded []byte) bool
}

// Track is one of the ways in which a part is read.
type Track uint8

// The tracks: text as it was sent, and as it is read.
const (
	AsSent Track = iota
	AsRead       // of HTML and documents
	Tracks = 2
)

const (
	// stepOctets is how much of a part is looked at once.
	stepOctets = 32 << 10
	// maxHeaderOctets bounds what is read of a part's header.
	maxHeaderOctets = 1 << 20
)

// Texts reads all that TEXT is about: every field of every header, the MIME
// fields of parts among them, and the text of every part. The error is the
// body's; what is malformed is none.
func (m *Message) Texts(o Options, sink Sink) error {
	w := newWalker(m, o, sink)
	defer w.release()
	w.fields(m.Header)
	return w.part(m.Root, m.Header, true)
}

// Bodies reads all that BODY is about: the text of every part, and no header,
// those of messages within the message neither.
func (m *Message) Bodies(o Options, sink Sink) error {
	w := newWalker(m, o, sink)
	defer w.release()
	return w.part(m.Root, m.Header, false)
}

// walker reads the texts of one message.
type walker struct {
	*buffers
	message *Message
	options Options
	sink    Sink
	enough  bool
	body    io.ReaderAt
	// unpacked is how much documents may still unpack to.
	unpacked int64
}

// buffers are what a walker needs besides.
type buffers struct {
	raw      [stepOctets]byte
	decoded  []byte
	utf8     []byte
	stripped []byte
	folded   []byte
	header   []byte
	fields   fields
	transfer transfer.Decoder
	charset  charset
	stripper stripper
	markup   markup
	folders  [Tracks]folder
}

var allBuffers = sync.Pool{New: func() any { return new(buffers) }}

func newWalker(m *Message, o Options, sink Sink) *walker {
	return &walker{buffers: allBuffers.Get().(*buffers), message: m, options: o, sink: sink, unpacked: maxUnpacked}
}

func (w *walker) release() { allBuffers.Put(w.buffers) }

func (w *walker) open() (io.ReaderAt, error) {
	if w.body == nil {
		var err error
		if w.body, err = w.message.Body(); err != nil {
			return nil, err
		}
	}
	return w.body, nil
}

// fields shows the sink each field of a header.
func (w *walker) fields(header []byte) {
	for len(header) > 0 && !w.enough {
		var field []byte
		field, header = next(header)
		w.sink.Begin(AsSent)
		w.enough = !w.sink.Add(AsSent, w.buffers.fields.fold(field))
	}
}

// part reads what is in a part whose header is given, and with headers those of
// the parts in it.
func (w *walker) part(p *mime.Part, header []byte, headers bool) error {
	if w.enough {
		return nil
	}
	if p.Kind == mime.Leaf {
		return w.leaf(p, header)
	}
	for _, kid := range p.Parts {
		header, err := w.headerOf(kid)
		if err != nil {
			return err
		}
		if headers {
			w.fields(header)
		}
		if err := w.part(kid, header, headers); err != nil || w.enough {
			return err
		}
	}
	return nil
}

// headerOf reads a part's header, or the bounded beginning of a huge one. It is
// good until the next is read.
func (w *walker) headerOf(p *mime.Part) ([]byte, error) {
	n := min(p.Header.Len(), maxHeaderOctets)
	if n <= 0 {
		return nil, nil
	}
	body, err := w.open()
	if err != nil {
		return nil, err
	}
	if int64(cap(w.header)) < n {
		w.header = make([]byte, n)
	}
	w.header = w.header[:n]
	read, err := body.ReadAt(w.header, p.Header.Start)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return w.header[:read], err
}

// leaf reads a part that has no parts, when it is text.
func (w *walker) leaf(p *mime.Part, header []byte) error {
	media, charset := contentType(header)
	switch {
	case p.Encoding == mime.OtherEncoding || p.Body.Len() == 0:
		return nil
	case strings.HasPrefix(media, "text/"), w.options.Attachments && isTextual(media):
	case w.options.Documents && isDocument(media):
		return w.document(p)
	default:
		return nil
	}
	body, err := w.open()
	if err != nil {
		return err
	}
	w.transfer = transfer.New(p.Encoding)
	w.charset.reset(charset)
	isHTML := media == "text/html"
	w.begin(AsSent)
	if isHTML {
		w.begin(AsRead)
		w.stripper.reset()
	}
	for at := p.Body; !w.enough; {
		n := min(at.Len(), stepOctets)
		read, err := body.ReadAt(w.raw[:n], at.Start)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at.Start += int64(read)
		last := at.Len() == 0 || read == 0
		text := w.raw[:read]
		if p.Encoding != mime.Identity {
			w.decoded = w.transfer.Append(w.decoded[:0], text)
			if last {
				w.decoded = w.transfer.Finish(w.decoded)
			}
			text = w.decoded
		}
		text = w.charset.add(&w.utf8, text, last)
		w.add(AsSent, text, last)
		if isHTML {
			w.stripped = w.stripper.add(w.stripped[:0], text, last)
			w.add(AsRead, w.stripped, last)
		}
		if last {
			break
		}
	}
	return nil
}

func (w *walker) begin(t Track) {
	w.folders[t].reset()
	w.sink.Begin(t)
}

// add folds text for the sink.
func (w *walker) add(t Track, text []byte, last bool) {
	w.folded = w.folders[t].add(w.folded[:0], text)
	if last {
		w.folded = w.folders[t].end(w.folded)
	}
	if len(w.folded) > 0 && !w.enough {
		w.enough = !w.sink.Add(t, w.folded)
	}
}

// isTextual reports whether what is of another type than text is text as it
// stands.
func isTextual(media string) bool {
	switch media {
	case "application/json", "application/xml", "application/x-yaml", "application/yaml", "application/javascript",
		"application/x-sh", "application/sql", "application/x-tex", "application/rtf", "application/pgp-keys":
		return true
	}
	return strings.HasSuffix(media, "+xml") || strings.HasSuffix(media, "+json")
}

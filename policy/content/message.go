package content

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Limits bound what edits may make of one message. Zero fields take the
// defaults.
type Limits struct {
	// Edits is how many there may be; 0 is 10000.
	Edits int
	// HeaderGrowth is how many octets they may add to the header; 0 is 256 KiB.
	HeaderGrowth int
	// Client is whom the message comes from: what all of that client's messages
	// hold of the spool is bounded. The zero Prefix is nobody in particular.
	Client netip.Prefix
}

// Message is a message that stages look at and change. It implements
// mail.Message, and belongs to one session.
type Message struct {
	spool   *Spool
	account *account
	limits  Limits
	state
	// before is what the header took when the message came in.
	before int
	edits  int
}

// state is what edits change.
type state struct {
	fields []mail.Field
	ours   int
	header int // octets of fields, with their line ends
	body   *Buffer
	// separated tells that an empty line follows the header even where no body
	// does.
	separated bool
	replaced  bool // the body is another one
	eightBit  bool // and has octets that are not ASCII
}

var _ mail.Message = (*Message)(nil)

// New takes a message in: the fields that this server wrote, then those of the
// message and what follows them, read from rest to its end, which begins with the
// empty line where there is one. An error of rest is returned as it is. Close ends
// the message.
func New(spool *Spool, limits Limits, ours, fields []mail.Field, rest io.Reader) (*Message, error) {
	limits.Edits, limits.HeaderGrowth = cmp.Or(limits.Edits, 10000), cmp.Or(limits.HeaderGrowth, 256<<10)
	m := &Message{spool: spool, account: spool.shares.account(limits.Client), limits: limits}
	m.fields, m.ours = slices.Concat(ours, fields), len(ours)
	m.header = octets(m.fields)
	m.before = m.header
	body, separated, err := afterSeparator(rest)
	if err == nil {
		m.separated = separated
		m.body, err = spool.keep(body, m.account)
	}
	if err != nil {
		spool.shares.close(m.account)
		return nil, err
	}
	return m, nil
}

// afterSeparator takes the empty line off that follows a header.
func afterSeparator(rest io.Reader) (body io.Reader, separated bool, err error) {
	first := make([]byte, len(crlf))
	n, err := io.ReadFull(rest, first)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return bytes.NewReader(first[:n]), false, nil
	case err != nil:
		return nil, false, err
	case bytes.Equal(first, crlf):
		return rest, true, nil
	default:
		return io.MultiReader(bytes.NewReader(first), rest), false, nil
	}
}

func octets(fields []mail.Field) (all int) {
	for _, f := range fields {
		all += len(f) + len(crlf)
	}
	return all
}

// Close gives back what the message holds. It is called once.
func (m *Message) Close() {
	m.body.Free()
	m.spool.shares.close(m.account)
}

// Fields implements mail.Message.
func (m *Message) Fields() []mail.Field { return m.fields }

// Ours implements mail.Message.
func (m *Message) Ours() int { return m.ours }

// Body implements mail.Message.
func (m *Message) Body() io.ReadSeeker { return m.body.NewReader() }

// BodyOctets implements mail.Message.
func (m *Message) BodyOctets() int64 { return m.body.Size() }

// Changed reports whether anything was changed.
func (m *Message) Changed() bool { return m.edits > 0 }

// EightBit reports whether the body took the place of the one that came, and has
// octets that are not ASCII.
func (m *Message) EightBit() bool { return m.replaced && m.eightBit }

// Octets is how long the whole message is.
func (m *Message) Octets() int64 {
	all := int64(m.header) + m.body.Size()
	if m.parted() {
		all += int64(len(crlf))
	}
	return all
}

// parted reports whether an empty line stands between header and body: always
// where there is a body, so that none of it is read as header.
func (m *Message) parted() bool { return m.separated || m.body.Size() > 0 }

// NewReader returns a reader of the whole message as it is now.
func (m *Message) NewReader() io.Reader {
	header := make([]byte, 0, m.header+len(crlf))
	for _, f := range m.fields {
		header = append(append(header, f...), crlf...)
	}
	if m.parted() {
		header = append(header, crlf...)
	}
	return io.MultiReader(bytes.NewReader(header), m.body.NewReader())
}

// Apply implements mail.Message. What it cannot do is a mistake of whoever asks,
// and senders wait for its end.
func (m *Message) Apply(e mail.Edit) error { return m.ApplyAll([]mail.Edit{e}) }

// ApplyAll applies all the edits of a verdict, in order, or none.
func (m *Message) ApplyAll(edits []mail.Edit) error {
	was, count := m.state, m.edits
	if len(edits) > 1 {
		m.fields = slices.Clone(m.fields)
	}
	for i := range edits {
		if err := m.apply(&edits[i], was.body); err != nil {
			if m.body != was.body {
				m.body.Free()
			}
			m.state, m.edits = was, count
			return err
		}
	}
	if m.body != was.body {
		was.body.Free()
	}
	return nil
}

// apply applies one edit; kept is the body that must stay readable.
func (m *Message) apply(e *mail.Edit, kept *Buffer) error {
	if e.OfEnvelope() {
		return nil
	}
	if m.edits++; m.edits > m.limits.Edits {
		return status.Errorf(status.Unknown, "more than %d edits of one message", m.limits.Edits)
	}
	switch {
	case e.PrependHeader != "":
		return m.insert(0, mail.Field(e.PrependHeader))
	case e.Insert != nil:
		return m.insert(e.Insert.At, e.Insert.Field)
	case e.Change != nil:
		return m.change(e.Change.At, e.Change.Field)
	case e.Body != nil:
		return m.replace(e.Body, kept)
	default:
		return errors.New("an edit without anything to do")
	}
}

// insert puts a field ahead of the one at a place. What stands above or among our
// own fields is ours.
func (m *Message) insert(at int, f mail.Field) error {
	if at < 0 {
		return fmt.Errorf("no field can stand at place %d", at)
	}
	f, err := Clean(f)
	if err != nil {
		return err
	}
	if err := m.grow(len(f) + len(crlf)); err != nil {
		return err
	}
	at = min(at, len(m.fields))
	if at == 0 || at < m.ours {
		m.ours++
	}
	m.fields = slices.Insert(m.fields, at, f)
	return nil
}

// change puts another field in the place of one, or takes it away.
func (m *Message) change(at int, f mail.Field) error {
	if at < 0 || at >= len(m.fields) {
		return fmt.Errorf("there is no field at place %d of %d", at, len(m.fields))
	}
	if f == "" {
		m.header -= len(m.fields[at]) + len(crlf)
		m.fields = slices.Delete(m.fields, at, at+1)
		if at < m.ours {
			m.ours--
		}
		return nil
	}
	f, err := Clean(f)
	if err != nil {
		return err
	}
	if err := m.grow(len(f) - len(m.fields[at])); err != nil {
		return err
	}
	m.fields[at] = f
	return nil
}

func (m *Message) grow(octets int) error {
	if m.header+octets > m.before+m.limits.HeaderGrowth {
		return status.Errorf(status.Unknown, "edits add more than %d octets to the header", m.limits.HeaderGrowth)
	}
	m.header += octets
	return nil
}

// replace reads another body, which may be made of the present one.
func (m *Message) replace(r io.Reader, kept *Buffer) error {
	look := &sevenBit{r: Canonical(r)}
	body, err := m.spool.keep(look, m.account)
	if err != nil {
		return err
	}
	if m.body != kept {
		m.body.Free()
	}
	m.body, m.replaced, m.eightBit = body, true, look.eightBit
	return nil
}

// sevenBit notes whether what is read is ASCII.
type sevenBit struct {
	r        io.Reader
	eightBit bool
}

// Read implements io.Reader.
func (s *sevenBit) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	for _, c := range p[:n] {
		if c >= 0x80 {
			s.eightBit = true
			break
		}
	}
	return n, err
}

// Clean returns a field as it may stand in a header: with CRLF at its folds, each
// followed by white space and something else, and CR and LF nowhere else. The
// error says that it is no field (RFC 5322 section 2.2).
func Clean(f mail.Field) (mail.Field, error) {
	if !isField(string(f)) {
		return "", fmt.Errorf("%.60q is no header field", string(f))
	}
	if !strings.ContainsAny(string(f), "\r\n\x00") {
		return f, nil
	}
	var b strings.Builder
	b.Grow(len(f) + 8)
	for i, line := range strings.Split(strings.ReplaceAll(string(f), "\r\n", "\n"), "\n") {
		line = strings.NewReplacer("\r", " ", "\x00", " ").Replace(line)
		switch {
		case i == 0:
		case strings.Trim(line, " \t") == "":
			continue
		case line[0] == ' ' || line[0] == '\t':
			b.WriteString("\r\n")
		default:
			b.WriteString("\r\n\t")
		}
		b.WriteString(line)
	}
	return mail.Field(b.String()), nil
}

// Keep reads what a stage takes out of the message into the same spool, where it
// counts as its client's. Whoever asks frees it. ErrTooLarge is that it never fits.
func (m *Message) Keep(r io.Reader) (*Buffer, error) { return m.spool.keep(r, m.account) }

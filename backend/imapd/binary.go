package imapd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/backend/mailstore/transfer"
	"github.com/postern-mail/postern/store"
)

// binaryStepOctets is how much of a body is decoded at once.
const binaryStepOctets = 32 << 10

// binaryItem reads the section of BINARY, BINARY.PEEK and BINARY.SIZE (RFC 3516
// section 4): a part number, or nothing for the whole message.
func (p *parser) binaryItem(a *fetchArgs, name string) error {
	if p.peek() != '[' {
		return syntax("expected a section")
	}
	p.i++
	item := fetchItem{kind: fetchBinary}
	sec := &item.section
	if err := p.sectionPath(sec); err != nil {
		return err
	}
	if err := p.want(']'); err != nil {
		return err
	}
	response := "BINARY"
	if name == "BINARY.SIZE" {
		item.kind, sec.peek, response = fetchBinarySize, true, name
	} else {
		sec.peek = name == "BINARY.PEEK"
		if p.peek() == '<' {
			if err := p.partial(sec); err != nil {
				return err
			}
		}
	}
	sec.response = sec.name(response)
	a.items = append(a.items, item)
	return nil
}

// encoded is where the octets of a section lie, and how they are encoded.
type encoded struct {
	at       mime.Span
	encoding mime.Encoding
}

// binaryPart finds the section in a message; false when it has none. The whole
// message, and parts made of parts, are as they stand: the encoding of what is
// in them is their parts' own (RFC 2045 section 6.4).
func (sec *section) binaryPart(root *mime.Part) (encoded, bool) {
	part, ok := root.Find(sec.path)
	if !ok {
		return encoded{}, false
	}
	if len(sec.path) == 0 {
		return encoded{at: mime.Span{Start: part.Header.Start, End: part.Body.End}}, true
	}
	e := encoded{at: part.Body}
	if part.Kind == mime.Leaf {
		e.encoding = part.Encoding
	}
	return e, true
}

// decodable reports whether every BINARY item can be answered for a message.
func (f *fetchPlan) decodable(meta *mailstore.Meta) bool {
	return !f.binary || !slices.ContainsFunc(f.items, func(it fetchItem) bool {
		if it.kind != fetchBinary && it.kind != fetchBinarySize {
			return false
		}
		e, ok := it.section.binaryPart(meta.Root)
		return ok && e.encoding == mime.OtherEncoding
	})
}

// decoded is what is known of a section that was decoded last, so that a client
// that asks for its size and then for piece after piece has it decoded once, or
// twice, and not over and over.
type decoded struct {
	uid  imap.UID
	at   mime.Span
	size int64
	nul  bool // there are NUL octets in it
	// A place on the way: decoder stands there, with read octets behind it that
	// became made octets.
	decoder    transfer.Decoder
	read, made int64
}

// measure works out the size of a section when decoded.
func (s *session) measure(ctx context.Context, m *mailstore.Message, e encoded, body store.Body) (*decoded, error) {
	if last := s.box.decoded; last != nil && last.uid == m.UID && last.at == e.at {
		return last, nil
	}
	d := &decoded{uid: m.UID, at: e.at, decoder: transfer.New(e.encoding)}
	counted := *d
	err := counted.each(ctx, body, func(b []byte) bool {
		d.nul = d.nul || bytes.IndexByte(b, 0) >= 0
		return true
	})
	if err != nil {
		return nil, err
	}
	d.size = counted.made
	s.box.decoded = d
	return d, nil
}

// each calls take with what is decoded from d's place on, piece by piece, until
// that says false or all is done. It leaves d before the last piece it took.
func (d *decoded) each(ctx context.Context, body store.Body, take func([]byte) bool) error {
	left := d.at.Len() - d.read
	step := min(left, binaryStepOctets)
	raw, out := make([]byte, step), make([]byte, 0, step+transfer.MaxHeldOctets)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(left, binaryStepOctets)
		if got, err := body.ReadAt(raw[:n], d.at.Start+d.read); err != nil && (!errors.Is(err, io.EOF) || int64(got) < n) {
			return err
		}
		before := d.decoder
		out = d.decoder.Append(out[:0], raw[:n])
		if left -= n; left == 0 {
			out = d.decoder.Finish(out)
		}
		if !take(out) {
			d.decoder = before
			return nil
		}
		d.read, d.made = d.read+n, d.made+int64(len(out))
		if left == 0 {
			return nil
		}
	}
}

// fetchBinary writes a BINARY item. NUL octets need a literal8.
func (s *session) fetchBinary(ctx context.Context, sec *section, m *mailstore.Message, meta *mailstore.Meta, body store.Body) error {
	s.w.str(sec.response)
	s.w.char(' ')
	e, ok := sec.binaryPart(meta.Root)
	if !ok {
		s.w.str("NIL")
		return nil
	}
	d, err := s.measure(ctx, m, e, body)
	if err != nil {
		return s.streamFailed(err)
	}
	from, to := int64(0), d.size
	if sec.partial {
		from = min(sec.offset, d.size)
		to = from + min(sec.octets, d.size-from)
	}
	if d.nul {
		s.w.char('~')
	}
	s.w.literal(to - from)
	if from == to {
		return nil
	}
	if d.made > from {
		d.decoder, d.read, d.made = transfer.New(e.encoding), 0, 0
	}
	err = d.each(ctx, body, func(b []byte) bool {
		end := d.made + int64(len(b))
		if end > from {
			s.w.raw(b[max(from-d.made, 0) : min(to, end)-d.made])
		}
		return end < to && s.w.err == nil
	})
	if s.w.err != nil {
		return &connError{s.w.err}
	}
	if err != nil {
		return s.streamFailed(err)
	}
	return nil
}

// fetchBinarySize writes a BINARY.SIZE item, 0 for a part that there is not.
func (s *session) fetchBinarySize(ctx context.Context, sec *section, m *mailstore.Message, meta *mailstore.Meta, body store.Body) error {
	s.w.str(sec.response)
	s.w.char(' ')
	e, ok := sec.binaryPart(meta.Root)
	size := e.at.Len()
	if ok && e.encoding != mime.Identity {
		d, err := s.measure(ctx, m, e, body)
		if err != nil {
			return s.streamFailed(err)
		}
		size = d.size
	}
	s.w.num(uint64(size))
	return nil
}

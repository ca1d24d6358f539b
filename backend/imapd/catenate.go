package imapd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd/imapurl"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// maxCatenateParts bounds the parts of all messages of one command.
const maxCatenateParts = 1000

// catenation is the message that CATENATE makes of parts (RFC 4469): text that
// the client sends, and messages or parts of messages that are there already.
// It is read as the command is: each part is looked at when those before it are
// stored.
type catenation struct {
	in     *intake
	ctx    context.Context // of the command that reads it
	part   io.Reader       // the part that is being read, nil between parts
	open   io.Closer       // what part reads from, nil for none
	octets int64
	begun  bool // there was a part
	err    error
}

// Read returns errors of the command as they are to be answered.
func (c *catenation) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.err == nil {
		if c.part == nil {
			if c.err = c.next(); c.err != nil {
				break
			}
		}
		n, err := c.part.Read(p)
		if errors.Is(err, io.EOF) {
			err = c.endPart()
		} else if err != nil && c.in.literal == nil {
			err = status.Errorf(status.StoreDown, "read a part of a message: %w", err)
		}
		c.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, c.err
}

// close gives back what the part under way reads from.
func (c *catenation) close() {
	if c.open != nil {
		_ = c.open.Close()
		c.open = nil
	}
}

// endPart goes on behind a part.
func (c *catenation) endPart() error {
	c.part = nil
	c.close()
	if c.in.literal != nil {
		return c.in.nextLine()
	}
	return nil
}

// next begins the next part; io.EOF when there are no more.
func (c *catenation) next() error {
	in := c.in
	if c.begun {
		if in.p.take(')') {
			return c.end()
		}
		if err := in.p.sp(); err != nil {
			return err
		}
	}
	c.begun = true
	if in.parts++; in.parts > maxCatenateParts {
		return refuse("LIMIT", "Too many parts in one command")
	}
	word, err := in.p.word()
	if err != nil {
		return err
	}
	if err := in.p.sp(); err != nil {
		return err
	}
	switch word {
	case "TEXT":
		return c.text()
	case "URL":
		return c.url()
	}
	return syntax("expected TEXT or URL")
}

// end is the end of the parts.
func (c *catenation) end() error {
	if c.octets == 0 {
		return refuse("", "Message is empty")
	}
	return io.EOF
}

// grow counts a part.
func (c *catenation) grow(octets int64) error {
	err := c.in.grow(octets, c.octets)
	c.octets += octets
	return err
}

func (c *catenation) text() error {
	in := c.in
	if err := in.p.atLiteral(); err != nil || in.mark == nil {
		return orSyntax(err, "expected a literal")
	}
	if err := c.grow(in.mark.octets); err != nil {
		return err
	}
	c.part = in.begin()
	return nil
}

func (c *catenation) url() error {
	text, err := c.in.astring(imapurl.MaxOctets)
	if err != nil {
		return err
	}
	part, err := c.in.s.openURL(c.ctx, text)
	switch {
	case errors.Is(err, errBadURL):
		return refuse("BADURL "+urlText(text), "URL cannot be read")
	case err != nil:
		return err
	}
	c.part, c.open = part.Reader, part.Closer
	return c.grow(part.octets)
}

// urlText is a URL as the code BADURL may have it: without what ends a response
// code, or a line.
func urlText(url string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || r == ']' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, url[:min(len(url), 500)])
}

// errBadURL is a URL that is malformed, names nothing, or nothing that the
// client may read: who asks is not told which.
var errBadURL = errors.New("bad URL")

// urlPart is what a URL names.
type urlPart struct {
	io.Reader
	io.Closer
	octets int64
}

// openURL opens what a URL names. It is relative to this server, or to the
// selected mailbox; absolute URLs would lead elsewhere.
func (s *session) openURL(ctx context.Context, text string) (urlPart, error) {
	u, err := imapurl.Parse(text)
	if err != nil || u.Server != "" || u.Auth != "" {
		return urlPart{}, errBadURL
	}
	sec, err := urlSection(&u)
	if err != nil {
		return urlPart{}, errBadURL
	}
	mailbox, done, err := s.urlMailbox(ctx, &u)
	if err != nil {
		return urlPart{}, err
	}
	defer done()
	v := mailbox.View()
	i, ok := v.Find(imap.UID(u.UID))
	if !ok || u.UIDValidity != 0 && u.UIDValidity != v.UIDValidity() {
		return urlPart{}, errBadURL
	}
	return s.openSection(ctx, mailbox, v.At(i), &sec)
}

// urlSection is the section of a URL, as FETCH BODY[] reads it.
func urlSection(u *imapurl.URL) (section, error) {
	p := &parser{b: []byte("[" + u.Section + "]")}
	sec, err := p.section()
	if err != nil || p.i != len(p.b) {
		return sec, errBadURL
	}
	if sec.partial = u.Partial; u.Partial {
		if sec.offset, sec.octets = u.Offset, u.Octets; u.Octets < 0 {
			sec.octets = tooManyOctets
		}
	}
	return sec, nil
}

// urlMailbox opens the mailbox of a URL; done gives it back.
func (s *session) urlMailbox(ctx context.Context, u *imapurl.URL) (box mailbox, done func(), err error) {
	if u.Mailbox == "" {
		if s.box == nil || s.box.readable() != nil {
			return nil, nil, errBadURL
		}
		return s.box.mailbox, func() {}, nil
	}
	p := s.parserOf(nil)
	p.utf8 = true // as a URL has it
	name, err := p.decode(u.Mailbox)
	if err == nil {
		name, err = levels(name)
	}
	if err != nil {
		return nil, nil, errBadURL
	}
	from, err := s.open(ctx, name, toRead)
	var no *refusal
	if errors.Is(err, mailstore.ErrNoMailbox) || errors.As(err, &no) {
		err = errBadURL
	}
	if err != nil {
		return nil, nil, err
	}
	return from.shown, from.close, nil
}

// openSection opens a section of a message, to be copied.
func (s *session) openSection(ctx context.Context, mailbox mailbox, m *mailstore.Message, sec *section) (part urlPart, err error) {
	body, err := mailbox.Body(ctx, m)
	if errors.Is(err, mailstore.ErrNoMessage) {
		return part, errBadURL
	}
	if err != nil {
		return part, err
	}
	defer func() {
		if err != nil {
			_ = body.Close()
		}
	}()
	at := mime.Span{End: body.Size()}
	if !sec.whole() {
		meta, err := mailbox.Meta(ctx, m)
		if errors.Is(err, mailstore.ErrNoMessage) {
			err = errBadURL
		}
		if err != nil {
			return part, err
		}
		var ok bool
		if at, ok = meta.Root.Section(sec.path, sec.specifier); !ok {
			return part, errBadURL
		}
	}
	if len(sec.fields) > 0 {
		return sec.openFields(body, at)
	}
	if sec.partial {
		at.Start = min(at.Start+min(sec.offset, at.Len()), at.End)
		at.End = at.Start + min(sec.octets, at.Len())
	}
	return urlPart{io.NewSectionReader(body, at.Start, at.Len()), body, at.Len()}, nil
}

// openFields is openSection for HEADER.FIELDS.
func (sec *section) openFields(body store.Body, at mime.Span) (urlPart, error) {
	header, err := readHeader(body, at)
	if err != nil {
		return urlPart{}, err
	}
	b := sec.cut(mime.Fields(header, sec.fields, sec.not))
	return urlPart{bytes.NewReader(b), body, int64(len(b))}, nil
}

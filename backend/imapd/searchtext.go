package imapd

import (
	"io"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/store"
)

// maxSearchHeaderOctets bounds what is read of a header that the index does not
// keep.
const maxSearchHeaderOctets = 1 << 20

// isUTF8 reports whether text of that charset is UTF-8 as it stands.
func isUTF8(name string) bool {
	return name == "" || strings.EqualFold(name, "utf-8") || strings.EqualFold(name, "us-ascii")
}

// headerContains reports whether a field of that name has the needle in it; with
// an empty one, whether there is such a field.
func headerContains(header []byte, name string, n needle) bool {
	return text.HeaderContains(header, name, n)
}

// header returns the message's header block; one too long for the index is
// read from the body.
func (c *candidate) header() ([]byte, error) {
	if err := c.watch.see(len(c.meta.Header)); err != nil {
		return nil, err
	}
	at := c.meta.Root.Header
	if c.meta.Header != nil || at.Len() == 0 {
		return c.meta.Header, nil
	}
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	return readHeader(body, at)
}

// readHeader reads a header block, or the bounded beginning of a huge one.
func readHeader(body store.Body, at mime.Span) ([]byte, error) {
	at.End = min(at.End, at.Start+maxSearchHeaderOctets)
	return readSpan(body, at)
}

// textContains is the key TEXT: any header, or text of the body.
func (c *candidate) textContains(n needle) (bool, error) {
	m, err := c.texts()
	if err != nil {
		return false, err
	}
	return m.Contains(c.options, n)
}

// bodyContains is the key BODY: the text of every part that has text, decoded.
func (c *candidate) bodyContains(n needle) (bool, error) {
	m, err := c.texts()
	if err != nil {
		return false, err
	}
	return m.BodyContains(c.options, n)
}

// texts is what the candidate has to be read.
func (c *candidate) texts() (*text.Message, error) {
	header, err := c.header()
	return &text.Message{
		Header: header, Root: c.meta.Root, Body: func() (io.ReaderAt, error) {
			body, err := c.body()
			return watched{body, c.watch}, err
		},
	}, err
}

// watch is told how many octets are about to be examined, and may end that with
// an error.
type watch func(octets int) error

func (w watch) see(octets int) error {
	if w == nil {
		return nil
	}
	return w(octets)
}

// watched is a body whose reading may be ended.
type watched struct {
	io.ReaderAt
	watch watch
}

// ReadAt implements io.ReaderAt.
func (w watched) ReadAt(p []byte, at int64) (int, error) {
	if err := w.watch.see(len(p)); err != nil {
		return 0, err
	}
	return w.ReaderAt.ReadAt(p, at)
}

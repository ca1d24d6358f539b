package dsn

import (
	"bytes"
	"errors"
	"io"

	"github.com/postern-mail/postern/mail"
)

// original is what is returned of the message reported on; octets is nil when
// it could not be read.
type original struct {
	octets []byte
	whole  bool
}

func (o original) eightBit() bool { return !isASCII(o.octets) }

func (o original) description() string {
	if o.whole {
		return "Undelivered message"
	}
	return "Message header"
}

func (o original) mediaType(utf8 bool) string {
	switch {
	case o.whole && utf8:
		return "message/global"
	case o.whole:
		return "message/rfc822"
	case utf8:
		return "message/global-headers"
	default:
		return "text/rfc822-headers"
	}
}

// readOriginal reads what is to be returned: all of a small message that
// failed, unless the sender asked for less (RFC 3461 section 4.3) or for
// REQUIRETLS (RFC 8689 section 5); else the header. Only as much as is returned is ever held.
func (p *report) readOriginal() original {
	if p.Open == nil {
		return original{}
	}
	content, err := p.Open()
	if err != nil {
		return original{}
	}
	defer content.Close()
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return original{}
	}
	whole := p.Kind == mail.ReportFailed && p.Envelope.Return != mail.ReturnHeaders && !p.Envelope.RequireTLS && size <= p.returned
	limit := size
	if !whole {
		limit = min(size, maxHeader)
	}
	octets := make([]byte, limit)
	if n, err := content.ReadAt(octets, 0); err != nil && !(errors.Is(err, io.EOF) && int64(n) == limit) {
		return original{}
	}
	if !whole {
		octets = headerOf(octets, limit < size)
	}
	return original{octets: octets, whole: whole}
}

// headerOf returns the header at the beginning of p without the empty line.
// Of a header that p does not hold to its end, the last line is dropped when
// p was cut: it may be half a field.
func headerOf(p []byte, cut bool) []byte {
	if bytes.HasPrefix(p, []byte("\r\n")) {
		return p[:0]
	}
	if i := bytes.Index(p, []byte("\r\n\r\n")); i >= 0 {
		return p[:i+2]
	}
	if cut {
		return p[:bytes.LastIndexByte(p, '\n')+1]
	}
	return p
}

package text

import (
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/transform"
)

// charset turns text into UTF-8, piece by piece. Text of a charset that is not
// known goes through as it stands.
type charset struct {
	decoder transform.Transformer // nil: nothing to do
	// ascii: octets below 128 stand for themselves where no character is open.
	ascii bool
	rest  []byte
	src   []byte
}

func (c *charset) reset(name string) {
	c.rest = c.rest[:0]
	c.decoder, c.ascii = nil, false
	e := encodingOf(name)
	if e == nil {
		return
	}
	c.decoder = e.NewDecoder()
	switch name, _ := htmlindex.Name(e); name {
	case "utf-16be", "utf-16le", "iso-2022-jp", "":
	default:
		c.ascii = true
	}
}

// encodingOf finds a charset; nil for UTF-8, which text is made of anyway, and
// for what nobody knows.
func encodingOf(name string) encoding.Encoding {
	name = strings.TrimSpace(name)
	switch strings.ToLower(name) {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return nil
	}
	e, err := htmlindex.Get(name)
	if err == nil {
		if known, _ := htmlindex.Name(e); known == "utf-8" || known == "replacement" {
			return nil
		}
		return e
	}
	if e, err = ianaindex.MIME.Encoding(name); err != nil || e == nil || e == encoding.Nop {
		return nil
	}
	return e
}

// add returns src in UTF-8: src itself, or what it made in buf. last is the end
// of the text.
func (c *charset) add(buf *[]byte, src []byte, last bool) []byte {
	if c.decoder == nil || c.ascii && len(c.rest) == 0 && isASCII(src) {
		return src
	}
	*buf = c.decode((*buf)[:0], src, last)
	return *buf
}

func (c *charset) decode(dst, src []byte, last bool) []byte {
	if len(c.rest) > 0 {
		c.src = append(append(c.src[:0], c.rest...), src...)
		src, c.rest = c.src, c.rest[:0]
	}
	for {
		if cap(dst)-len(dst) < 1<<10 {
			dst = append(make([]byte, 0, 2*cap(dst)+4<<10), dst...)
		}
		nDst, nSrc, err := c.decoder.Transform(dst[len(dst):cap(dst)], src, last)
		dst, src = dst[:len(dst)+nDst], src[nSrc:]
		switch {
		case err == transform.ErrShortDst:
			continue
		case err == transform.ErrShortSrc && !last:
			c.rest = append(c.rest, src...)
		case err != nil && len(src) > 0: // nothing that decoders of charsets tell
			src = src[1:]
			continue
		}
		return dst
	}
}

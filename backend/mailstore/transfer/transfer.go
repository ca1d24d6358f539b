// Package transfer undoes the Content-Transfer-Encodings of RFC 2045, as octets
// pass by and in constant memory.
//
// What goes in: any octets at all. What comes out: what they stand for, as far
// as that can be told; nothing is an error. Octets that are not of base64's
// alphabet are passed over (section 6.8), padding ends a group and not the
// whole, and what is no quoted-printable stands for itself (section 6.7). The
// output is never longer than the input.
package transfer

import "bytes"

// Encoding is a Content-Transfer-Encoding.
type Encoding uint8

// The transfer encodings. Identity covers 7bit, 8bit and binary; Other is
// everything that nobody here knows how to undo.
const (
	Identity Encoding = iota
	Base64
	QuotedPrintable
	Other
)

// Parse returns the encoding that a field's token names, in any letter case;
// no token means Identity.
func Parse(token []byte) Encoding {
	for _, known := range [...]struct {
		name     string
		encoding Encoding
	}{
		{"7bit", Identity}, {"8bit", Identity}, {"binary", Identity}, {"base64", Base64}, {"quoted-printable", QuotedPrintable},
	} {
		if bytes.EqualFold(token, []byte(known.name)) {
			return known.encoding
		}
	}
	if len(token) == 0 {
		return Identity
	}
	return Other
}

// Decoder decodes one part. It is a plain value: a copy goes on from where the
// original stood. The zero Decoder is that of Identity, and Other is left as it
// is.
type Decoder struct {
	encoding Encoding
	bits     uint32 // of a base64 group that is not complete
	sextets  uint8  // how many it has
	state    state  // of quoted-printable
	held     [MaxHeldOctets]byte
	holds    uint8
}

// New returns a Decoder at the start of a part.
func New(e Encoding) Decoder { return Decoder{encoding: e} }

// Append decodes src, which goes on where the last src ended, and appends what
// is certain by now to dst.
func (d *Decoder) Append(dst, src []byte) []byte {
	switch d.encoding {
	case Base64:
		return d.base64(dst, src)
	case QuotedPrintable:
		return d.quotedPrintable(dst, src)
	}
	return append(dst, src...)
}

// Finish appends what is left at the end of the part.
func (d *Decoder) Finish(dst []byte) []byte {
	switch d.encoding {
	case Base64:
		return d.endGroup(dst)
	case QuotedPrintable:
		return d.endText(dst)
	}
	return dst
}

const (
	notBase64 = 0xff
	padding   = 0xfe
)

var sextet = func() (t [256]byte) {
	for i := range t {
		t[i] = notBase64
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i)
	}
	t['='] = padding
	return t
}()

func (d *Decoder) base64(dst, src []byte) []byte {
	for i := 0; i < len(src); i++ {
		if d.sextets == 0 {
			// Whole groups, as nearly all are.
			for i+4 <= len(src) {
				a, b, c, e := sextet[src[i]], sextet[src[i+1]], sextet[src[i+2]], sextet[src[i+3]]
				if (a|b|c|e)&0xc0 != 0 {
					break
				}
				dst = append(dst, a<<2|b>>4, b<<4|c>>2, c<<6|e)
				i += 4
			}
			if i == len(src) {
				break
			}
		}
		switch v := sextet[src[i]]; v {
		case notBase64:
		case padding:
			dst = d.endGroup(dst)
		default:
			d.bits = d.bits<<6 | uint32(v)
			if d.sextets++; d.sextets == 4 {
				dst = append(dst, byte(d.bits>>16), byte(d.bits>>8), byte(d.bits))
				d.bits, d.sextets = 0, 0
			}
		}
	}
	return dst
}

// endGroup appends the octets of a group that padding, or the end, cuts short.
func (d *Decoder) endGroup(dst []byte) []byte {
	switch d.sextets {
	case 2:
		dst = append(dst, byte(d.bits>>4))
	case 3:
		dst = append(dst, byte(d.bits>>10), byte(d.bits>>2))
	}
	d.bits, d.sextets = 0, 0
	return dst
}

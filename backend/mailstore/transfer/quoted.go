package transfer

import "bytes"

// MaxHeldOctets is how much is held back at most until it is clear what it is:
// more than a line of quoted-printable may have (76).
const MaxHeldOctets = 80

// state is what the octets held back may become.
type state uint8

const (
	inText      state = iota
	afterBlank        // blanks, which do not count at the end of a line
	afterBlanks       // blanks and a CR
	afterEqual        // "="
	afterHex          // "=" and a hexadecimal digit
	afterSoft         // "=" and blanks
	afterSoftCR       // "=", blanks and a CR
)

func (d *Decoder) quotedPrintable(dst, src []byte) []byte {
	for i := 0; i < len(src); {
		if d.state == inText {
			n := bytes.IndexAny(src[i:], "= \t")
			if n < 0 {
				return append(dst, src[i:]...)
			}
			dst = append(dst, src[i:i+n]...)
			i += n
		}
		var taken bool
		if dst, taken = d.step(dst, src[i]); taken {
			i++
		}
	}
	return dst
}

// step takes one octet, or with taken false only decides about those before it.
func (d *Decoder) step(dst []byte, c byte) (out []byte, taken bool) {
	switch d.state {
	case inText:
		d.hold(c)
		if d.state = afterBlank; c == '=' {
			d.state = afterEqual
		}
		return dst, true
	case afterBlank:
		switch {
		case c == ' ' || c == '\t':
			return d.more(dst, c), true
		case c == '\r':
			d.hold(c)
			d.state = afterBlanks
			return dst, true
		case c == '\n':
			d.drop()
			return append(dst, c), true
		}
	case afterBlanks:
		if c == '\n' {
			d.drop()
			return append(dst, '\r', '\n'), true
		}
	case afterEqual, afterHex:
		return d.escape(dst, c)
	case afterSoft:
		switch {
		case c == ' ' || c == '\t':
			return d.more(dst, c), true
		case c == '\r':
			d.state = afterSoftCR
			return dst, true
		case c == '\n':
			d.drop()
			return dst, true
		}
	case afterSoftCR: // a bare CR ends the line, too
		d.drop()
		return dst, c == '\n'
	}
	return d.release(dst), false
}

// escape is what comes behind "=".
func (d *Decoder) escape(dst []byte, c byte) (out []byte, taken bool) {
	v, isHex := hexValue(c)
	switch {
	case d.state == afterHex && isHex:
		high, _ := hexValue(d.held[1])
		d.drop()
		return append(dst, high<<4|v), true
	case d.state == afterHex:
	case isHex:
		d.hold(c)
		d.state = afterHex
		return dst, true
	case c == ' ' || c == '\t':
		d.hold(c)
		d.state = afterSoft
		return dst, true
	case c == '\r':
		d.state = afterSoftCR
		return dst, true
	case c == '\n':
		d.drop()
		return dst, true
	}
	return d.release(dst), false
}

func hexValue(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

func (d *Decoder) hold(c byte) {
	d.held[d.holds] = c
	d.holds++
}

// more holds one more blank. Room is left for a CR behind the last; in a line
// that is too long to be one of quoted-printable they stand for themselves.
func (d *Decoder) more(dst []byte, c byte) []byte {
	if d.holds < MaxHeldOctets-1 {
		d.hold(c)
		return dst
	}
	return append(d.release(dst), c)
}

// release appends what is held: it stands for itself.
func (d *Decoder) release(dst []byte) []byte {
	dst = append(dst, d.held[:d.holds]...)
	d.drop()
	return dst
}

func (d *Decoder) drop() { d.holds, d.state = 0, inText }

// endText decides at the end, which ends the line as well.
func (d *Decoder) endText(dst []byte) []byte {
	if d.state == afterHex {
		return d.release(dst)
	}
	d.drop()
	return dst
}

package smtp

import "bytes"

// lineEnds turns the line ends of message text into CRLF, whatever was sent:
//
//	CR LF     a line end
//	LF        a line end, passed on as CR LF, and remembered
//	CR        not a line end: passed on as a space, like Postfix does
//	CR CR LF  a space and a line end: one CR belongs to the LF
//
// All other octets pass, NUL included. The output holds CR and LF in pairs
// only, so no next hop can see a line end where this one saw none.
type lineEnds struct {
	midLine bool // the last octet was not a line end
	afterLF bool // the last line end was a bare LF
	heldCR  bool // the last octet was a CR whose meaning the next one decides
	sawLF   bool // a bare LF was ever seen
}

// What scan may ask to insert. Never written to.
var (
	insertCRLF  = []byte("\r\n")
	insertSpace = []byte(" ")
)

// scan takes text off the start of buf, which must not be empty. It returns
// the stretch to pass on, in place in buf, then what must follow it, and how
// many octets of buf that covers. It always makes progress, though after a
// held CR perhaps without using an octet. With stopAtDot it ends after a line
// end that a dot follows, or that nothing follows yet.
func (e *lineEnds) scan(buf []byte, stopAtDot bool) (text, insert []byte, used int) {
	if e.heldCR {
		e.heldCR = false
		if buf[0] == '\n' {
			e.endLine(false)
			return nil, insertCRLF, 1
		}
		return nil, insertSpace, 0 // the CR itself was used when it was held
	}
	for i := 0; i < len(buf); {
		length := bytes.IndexByte(buf[i:], '\n')
		if length < 0 {
			return e.scanFragment(buf, i)
		}
		end := i + length
		if end == i || buf[end-1] != '\r' {
			replaceCR(buf[i:end])
			e.endLine(true)
			return buf[:end], insertCRLF, end + 1
		}
		replaceCR(buf[i : end-1])
		e.endLine(false)
		i = end + 1
		if stopAtDot && (i == len(buf) || buf[i] == '.') {
			return buf[:i], nil, i
		}
	}
	return buf, nil, len(buf)
}

// scanFragment handles the unfinished line at buf[i:]. A CR at its end waits
// for the octet after it.
func (e *lineEnds) scanFragment(buf []byte, i int) (text, insert []byte, used int) {
	e.midLine = true
	text = buf
	if buf[len(buf)-1] == '\r' {
		e.heldCR = true
		text = buf[:len(buf)-1]
	}
	replaceCR(text[i:])
	return text, nil, len(buf)
}

// finish returns what completes text that ended, so that its last line has a
// line end.
func (e *lineEnds) finish() []byte {
	held, midLine := e.heldCR, e.midLine
	e.heldCR, e.midLine = false, false
	switch {
	case held:
		return []byte(" \r\n")
	case midLine:
		return insertCRLF
	default:
		return nil
	}
}

func (e *lineEnds) endLine(bareLF bool) {
	e.midLine, e.afterLF = false, bareLF
	e.sawLF = e.sawLF || bareLF
}

func replaceCR(text []byte) {
	for {
		i := bytes.IndexByte(text, '\r')
		if i < 0 {
			return
		}
		text[i] = ' '
		text = text[i+1:]
	}
}

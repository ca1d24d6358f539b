package smtp

import (
	"errors"
	"io"
	"os"

	"github.com/postern-mail/postern/status"
)

// textSource is message text as it comes off the wire: of DATA, or of a
// sequence of BDAT commands.
type textSource interface {
	// stretch returns the next octets with their line ends normalised, which
	// stay valid until the next call. It ends with errEndOfText. Unless
	// mayWait it returns errMustWait instead of waiting for input. Any other
	// error is final.
	stretch(mayWait bool) ([]byte, error)
	// sawBareLF reports whether any line so far ended in LF without CR.
	sawBareLF() bool
	// announced is how many octets the client said it will send before it
	// waits; 0 when it did not say.
	announced() int64
	// replyDue reports whether the client waits for a reply before it goes on.
	replyDue() bool
}

var (
	errEndOfText = errors.New("end of message text")
	errMustWait  = errors.New("more input is needed")
	errAborted   = errors.New("transaction given up by the client")
	errTooMuch   = errors.New("client sends on far beyond the size limit")
)

// contentReader is the reader a Transaction's Content gets: text within the
// limits, then io.EOF. When the text breaks a limit, Read fails with that
// refusal while the wire stays in step, and drain can go on. When the wire
// breaks, there is nothing left to go on with.
type contentReader struct {
	src      textSource
	left     int64 // octets until the message is too big
	surplus  int64 // octets drain may still throw away
	rejectLF bool

	rest  []byte // of the last stretch
	end   error  // what every further Read returns; nil while there is text
	shown bool   // Read has returned end
	ended bool   // the source has no more text
	fault error  // why the source broke; nil while it works
}

func newContentReader(src textSource, set *settings) *contentReader {
	c := &contentReader{src: src, left: set.MaxMessageOctets, surplus: unlimited, rejectLF: set.BareNewline == BareNewlineReject}
	if c.left < unlimited {
		// A client somewhat over the limit gets its 552; one far over it is
		// not worth the bandwidth.
		c.surplus = c.left + drainAllowance
	}
	return c
}

// Read implements io.Reader. It waits only while it has nothing to return.
func (c *contentReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(c.rest) == 0 && !c.next(n == 0) {
			break
		}
		m := copy(p[n:], c.rest)
		c.rest = c.rest[m:]
		n += m
	}
	if n == 0 && len(p) > 0 && c.end != nil {
		c.shown = true
		return 0, c.end
	}
	return n, nil
}

// next gets another stretch; false at the end, or when it would have to wait
// and may not.
func (c *contentReader) next(mayWait bool) bool {
	if c.end != nil {
		return false
	}
	text, err := c.advance(mayWait)
	switch {
	case errors.Is(err, errMustWait):
	case err != nil:
		c.end = err
	case c.ended:
		c.end = io.EOF
	}
	if c.left -= int64(len(text)); c.left < 0 {
		c.end = status.New(status.MessageTooBig, nil)
	}
	if c.rejectLF && c.src.sawBareLF() && c.fault == nil {
		c.end = status.New(status.BareNewline, nil)
	}
	if c.end != nil {
		return false
	}
	c.rest = text
	return len(text) > 0
}

// advance reads on and keeps note of the source's end and faults.
func (c *contentReader) advance(mayWait bool) ([]byte, error) {
	text, err := c.src.stretch(mayWait)
	switch {
	case errors.Is(err, errEndOfText):
		c.ended = true
		return nil, nil
	case err != nil && !errors.Is(err, errMustWait):
		c.fault = wireFault(err)
		return nil, c.fault
	}
	return text, err
}

// refusal returns why Read failed, if it did: then nothing of what the handler
// made of the text counts.
func (c *contentReader) refusal() error {
	if c.shown && !errors.Is(c.end, io.EOF) {
		return c.end
	}
	return nil
}

// drain throws away what the handler left unread: up to the next reply when
// the message is refused, else all of it. An error means that nothing more can
// be read in step.
func (c *contentReader) drain(refused bool) error {
	c.rest = nil
	for c.fault == nil && !c.ended {
		if refused && c.src.replyDue() {
			return nil
		}
		if c.src.announced() > c.surplus {
			c.fault = errTooMuch
			break
		}
		text, err := c.advance(true)
		if err != nil {
			return err
		}
		if c.surplus -= int64(len(text)); c.surplus < 0 {
			c.fault = errTooMuch
		}
	}
	return c.fault
}

// wireFault classes an error of the connection, for the handler's log and for
// the last reply.
func wireFault(err error) error {
	var known *status.Error
	var closing errClosing
	switch {
	case errors.Is(err, errAborted), errors.Is(err, errStopping), errors.Is(err, errLineEndless):
		return err
	case errors.As(err, &known), errors.As(err, &closing):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return status.New(status.Timeout, err)
	default:
		return status.New(status.ConnectionLost, err)
	}
}

package smtp

import (
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/status"
)

// chunk is the argument of a BDAT command (RFC 3030 section 2).
type chunk struct {
	octets int64
	last   bool
}

// parseChunk reads "size [LAST]". When it fails, nobody knows where the next
// command starts.
func parseChunk(arg string) (chunk, error) {
	size, rest, more := strings.Cut(strings.TrimRight(arg, " "), " ")
	if size == "" || len(size) > 18 || strings.Trim(size, "0123456789") != "" {
		return chunk{}, status.Errorf(status.SyntaxError, "chunk size %q", size)
	}
	octets, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return chunk{}, status.New(status.SyntaxError, err)
	}
	if more && !strings.EqualFold(strings.TrimLeft(rest, " "), "LAST") {
		return chunk{}, status.Errorf(status.SyntaxError, "chunk end marker %q", rest)
	}
	return chunk{octets: octets, last: more}, nil
}

// chunkText is the text of a sequence of BDAT commands. Its octets need no
// dots undone; line ends are normalised as everywhere, for BINARYMIME is not
// on offer. Text whose last line has no line end is given one: the message
// may travel on in a DATA command.
type chunkText struct {
	wire   *wire
	ends   lineEnds
	insert []byte
	now    chunk // what is left of the present chunk
	timer  messageTimer
	// more answers the chunk that was read and waits for the next one, at
	// most until the given time.
	more func(until time.Time) (chunk, error)
}

// stretch implements textSource.
func (c *chunkText) stretch(mayWait bool) ([]byte, error) {
	for {
		if text := c.insert; text != nil {
			c.insert = nil
			return text, nil
		}
		if c.now.octets == 0 {
			if c.now.last {
				if c.insert = c.ends.finish(); c.insert != nil {
					continue
				}
				return nil, errEndOfText
			}
			if !mayWait {
				return nil, errMustWait
			}
			next, err := c.more(c.timer.total)
			if err != nil {
				return nil, err
			}
			c.now = next
			continue
		}
		buf := c.wire.unread()
		if int64(len(buf)) > c.now.octets {
			buf = buf[:c.now.octets]
		}
		switch {
		case len(buf) > 0:
			text, insert, used := c.ends.scan(buf, false)
			c.wire.consume(used)
			c.now.octets -= int64(used)
			c.insert = insert
			if len(text) > 0 {
				return text, nil
			}
		case !mayWait:
			return nil, errMustWait
		default:
			if err := c.timer.fill(c.wire); err != nil {
				return nil, err
			}
		}
	}
}

// announced implements textSource.
func (c *chunkText) announced() int64 { return c.now.octets }

func (c *chunkText) sawBareLF() bool { return c.ends.sawLF }

// replyDue implements textSource: each chunk is answered, the last one as the
// end of the message.
func (c *chunkText) replyDue() bool { return c.now.octets == 0 && !c.now.last }

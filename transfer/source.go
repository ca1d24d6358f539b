package transfer

import (
	"bufio"
	"bytes"
	"context"
	"io"
)

// Source is where messages come from. It is used by one goroutine.
type Source interface {
	// Name tells sources apart, the same each time: an import is taken up by it.
	Name() string
	// Folders lists what there is, subscriptions without a mailbox too. skipped
	// names those that cannot be had, with the reason.
	Folders(ctx context.Context) (all []Folder, skipped []Skip, err error)
	// Messages tells of the messages of a folder in pieces of bounded size, in
	// the order in which they are to be stored. skip takes those it cannot read.
	Messages(ctx context.Context, folder string, each func([]Item) error, skip func(Skip)) error
	// Texts hands the texts of some of these to take, with CRLF line ends, in any
	// order. An error of take ends it and is returned. Those that are gone are
	// left out. It may be called from within each.
	Texts(ctx context.Context, folder string, items []Item, take func(*Item, io.Reader) error) error
}

// Item is a message of a Source.
type Item struct {
	// Key names the message within its folder, the same each time.
	Key string
	Message
	// Place is the source's own: where the message is.
	Place any
}

// Skip is something that was left out, and why.
type Skip struct {
	Folder, Message string
	Why             string
}

// Lines reads r with line ends made CRLF. Where its first line ends with CRLF
// all of it is taken as it is: it is as it was on the wire.
func Lines(r io.Reader) io.Reader {
	br := bufio.NewReaderSize(r, 32<<10)
	head, _ := br.Peek(32 << 10) // an error shows when reading
	if i := bytes.IndexByte(head, '\n'); i > 0 && head[i-1] == '\r' {
		return br
	}
	return &lines{r: br}
}

// lines puts a CR before each LF that has none.
type lines struct {
	r    *bufio.Reader
	cr   bool // the last octet was CR
	owed bool // an LF is to come: its CR went out
}

func (l *lines) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if l.owed {
			p[n] = '\n'
			n++
			l.owed, l.cr = false, false
			continue
		}
		if n > 0 && l.r.Buffered() == 0 {
			return n, nil
		}
		c, err := l.r.ReadByte()
		if err != nil {
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		if c == '\n' && !l.cr {
			c, l.owed = '\r', true
		}
		p[n] = c
		n++
		l.cr = c == '\r'
	}
	return n, nil
}

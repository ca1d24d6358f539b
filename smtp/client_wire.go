package smtp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/status"
)

// Limits of what a peer may say (RFC 5321 section 4.5.3.1.5 asks for 512
// octets a line; peers in the field are wordier).
const (
	clientMaxReplyLine   = 4096
	clientMaxReplyLines  = 128
	clientMaxReplyOctets = 16 << 10
)

var (
	errClientReplySyntax = errors.New("malformed reply")
	errClientReplyLong   = errors.New("reply too long")
	errClientClosed      = errors.New("connection closed")
)

// clientWire reads replies and writes commands, each under a deadline.
type clientWire struct {
	conn   net.Conn
	reader *bufio.Reader
	out    []byte

	mu          sync.Mutex // for interrupt, which comes from another goroutine
	deadline    net.Conn   // where deadlines are set
	interrupted bool
}

func (w *clientWire) attach(conn net.Conn) {
	w.conn = conn
	w.reader = bufio.NewReaderSize(conn, clientMaxReplyLine)
	w.mu.Lock()
	w.deadline = conn
	w.mu.Unlock()
}

// arm sets the deadline of the next read or write. An interrupt stays in
// force: it came because the operation's context had ended.
func (w *clientWire) arm(ctx context.Context, timeout time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.interrupted {
		return context.Cause(ctx)
	}
	return w.deadline.SetDeadline(time.Now().Add(timeout))
}

// interrupt ends what blocks now and whatever would block later.
func (w *clientWire) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.interrupted = true
	// An error means that the connection is closed: nothing blocks on it.
	_ = w.deadline.SetDeadline(time.Unix(1, 0))
}

func (w *clientWire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// append adds a command to the next flush.
func (w *clientWire) append(command string) {
	w.out = append(append(w.out, command...), "\r\n"...)
}

// flush writes what was appended, in one write.
func (w *clientWire) flush(ctx context.Context, timeout time.Duration) error {
	if len(w.out) == 0 {
		return nil
	}
	err := w.write(ctx, w.out, timeout)
	w.out = w.out[:0]
	return err
}

func (w *clientWire) write(ctx context.Context, p []byte, timeout time.Duration) error {
	if err := w.arm(ctx, timeout); err != nil {
		return clientLost("send", err)
	}
	if _, err := w.conn.Write(p); err != nil {
		return clientLost("send", err)
	}
	return nil
}

// readReply reads one reply, all its lines under one deadline, so that a peer
// that trickles gains nothing.
func (w *clientWire) readReply(ctx context.Context, timeout time.Duration) (status.Reply, error) {
	if err := w.arm(ctx, timeout); err != nil {
		return status.Reply{}, clientLost("read reply", err)
	}
	reply, err := clientReadReply(w.reader)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errClientClosed
		}
		return status.Reply{}, clientLost("read reply", err)
	}
	return reply, nil
}

// quiet reports whether the idle connection is still open and silent.
func (w *clientWire) quiet() bool {
	return w.reader.Buffered() == 0 && clientConnQuiet(w.conn)
}

// clientReadReply reads and checks a reply of one or more lines (RFC 5321
// section 4.2). All lines must carry the same code: a peer of which one line
// says yes and another no is not understood, and so not believed.
func clientReadReply(r *bufio.Reader) (status.Reply, error) {
	var reply status.Reply
	var text strings.Builder
	total := 0
	for n := 0; ; n++ {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return reply, errClientReplyLong
		}
		if err != nil {
			return reply, err
		}
		if total += len(line); n >= clientMaxReplyLines || total > clientMaxReplyOctets {
			return reply, errClientReplyLong
		}
		code, rest, last, ok := clientParseReplyLine(line)
		if !ok || n > 0 && code != reply.Code {
			return reply, errClientReplySyntax
		}
		reply.Code = code
		enhanced, words := clientCutEnhanced(code, rest)
		if n == 0 {
			reply.Enhanced = enhanced
		} else {
			text.WriteByte('\n')
			if enhanced != reply.Enhanced {
				words = rest
			}
		}
		text.WriteString(clientPrintable(words))
		if last {
			reply.Text = text.String()
			return reply, nil
		}
	}
}

// clientParseReplyLine splits "250-text" and "250 text", line end included.
// The line end may be a bare LF; who sends replies so gains nothing by it.
func clientParseReplyLine(line []byte) (code int, text string, last, ok bool) {
	line = line[:len(line)-1]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, "", false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, "", false, false
		}
		code = code*10 + int(c-'0')
	}
	if len(line) == 3 {
		return code, "", true, true
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, "", false, false
	}
	return code, string(line[4:]), line[3] == ' ', true
}

// clientCutEnhanced takes the enhanced status code (RFC 3463) off the text. A
// code of another class than the reply's is a part of the text.
func clientCutEnhanced(code int, text string) (enhanced [3]int, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	if len(word) < 5 || len(word) > 9 || int(word[0]-'0') != code/100 || word[1] != '.' {
		return enhanced, text
	}
	subject, detail, found := strings.Cut(word[2:], ".")
	s, okSubject := clientNumber(subject)
	d, okDetail := clientNumber(detail)
	if !found || !okSubject || !okDetail {
		return enhanced, text
	}
	return [3]int{code / 100, s, d}, rest
}

// clientNumber reads one to three digits without a leading zero.
func clientNumber(s string) (n int, ok bool) {
	if s == "" || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// clientPrintable returns s with control characters and invalid UTF-8
// replaced: replies go into logs, reports and other replies.
func clientPrintable(s string) string {
	clean := utf8.ValidString(s)
	for i := 0; clean && i < len(s); i++ {
		clean = s[i] >= ' ' && s[i] != 0x7f || s[i] == '\t'
	}
	if clean {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

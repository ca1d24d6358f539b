package imap

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Error is a command's NO or BAD, or a BYE. Text is the server's.
type Error struct {
	Status string // NO, BAD or BYE
	Code   string // the response code, such as OVERQUOTA; "" without one
	Text   string
}

func (e *Error) Error() string { return e.Status + " " + e.Text }

// Refused reports whether err is a NO or BAD to a command: the connection goes
// on, only this was not done. Its code is returned.
func Refused(err error) (code string, refused bool) {
	var e *Error
	if errors.As(err, &e) && e.Status != "BYE" {
		return e.Code, true
	}
	return "", false
}

// Client is a connection to a server. It is not safe for concurrent use.
type Client struct {
	conn    net.Conn
	br      *bufio.Reader
	bw      *bufio.Writer
	timeout time.Duration
	ctx     context.Context // of the command under way
	tag     int
	broken  error
	caps    map[string]bool
	xguid   bool

	// what the server told by itself since Events was asked
	events     Events
	onUntagged func(*untagged) error // the command's under way
	sink       sink                  // of message texts, while one is fetched
	reading    *reader               // of the response under way

	waking   sync.Mutex
	woken    bool // by Wake
	awaiting bool // nothing but the next octet is waited for
}

// Events is what a server told without being asked.
type Events struct {
	Mailboxes map[string]bool // names, as the server writes them, in which something happened
	Selected  bool            // something happened in the selected mailbox
	List      bool            // the list of mailboxes or of subscriptions changed
	Lost      bool            // the server could not tell everything: look at everything
}

// Any reports whether anything was told.
func (e Events) Any() bool { return len(e.Mailboxes) > 0 || e.Selected || e.List || e.Lost }

// untagged is a response that answers no command by itself.
type untagged struct {
	name   string // in capitals: FETCH, LIST, OK, ...
	number uint64
	values []value
	text   string // of OK, NO, BAD, BYE, PREAUTH
	taken  bool   // the command under way had asked for it: no event
}

// Dial reaches a server at address and reads its greeting. With secure the
// connection is TLS from the first octet. timeout bounds every wait for the
// server, not a whole command.
func Dial(ctx context.Context, address string, secure *tls.Config, timeout time.Duration) (*Client, error) {
	dialer := &net.Dialer{Timeout: timeout}
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		conn = tls.Client(conn, secure)
	}
	c, err := newClient(ctx, conn, timeout)
	if err != nil {
		_ = conn.Close() // it is of no use
		return nil, err
	}
	return c, nil
}

func newClient(ctx context.Context, conn net.Conn, timeout time.Duration) (*Client, error) {
	c := &Client{conn: conn, timeout: timeout}
	c.wrap(conn)
	stop := c.begin(ctx)
	defer stop()
	u, _, err := c.response()
	if err != nil {
		return nil, c.fail(fmt.Errorf("greeting: %w", err))
	}
	switch {
	case u == nil:
		return nil, fmt.Errorf("greeting: %w", errMalformed)
	case u.name == "BYE":
		return nil, &Error{Status: "BYE", Text: u.text}
	case u.name != "OK" && u.name != "PREAUTH":
		return nil, fmt.Errorf("greeting: %w", errMalformed)
	}
	return c, nil
}

func (c *Client) wrap(conn net.Conn) {
	c.conn = conn
	c.br = bufio.NewReaderSize(conn, 32<<10)
	c.bw = bufio.NewWriterSize(conn, 32<<10)
}

// Close ends the connection without a word.
func (c *Client) Close() error {
	c.broken = cmpErr(c.broken, net.ErrClosed)
	return c.conn.Close()
}

// Logout says goodbye and closes.
func (c *Client) Logout(ctx context.Context) {
	_ = c.do(ctx, nil, "LOGOUT") // it ends either way
	_ = c.Close()                // and so here
}

// Events returns what the server told by itself since the last call.
func (c *Client) Events() Events {
	e := c.events
	c.events = Events{}
	return e
}

// Has reports whether the server said it can do name, in capitals.
func (c *Client) Has(name string) bool { return c.caps[name] }

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// fail makes the connection unusable.
func (c *Client) fail(err error) error {
	if c.ctx != nil && c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	c.broken = cmpErr(c.broken, err)
	_ = c.conn.Close() // it is of no use
	return c.broken
}

// begin lets the end of ctx end what the connection waits for.
func (c *Client) begin(ctx context.Context) (end func()) {
	c.ctx = ctx
	c.extend()
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop(); c.ctx = nil }
}

// extend gives the server the whole time again: it made progress.
func (c *Client) extend() {
	_ = c.conn.SetDeadline(time.Now().Add(c.timeout)) // an error shows when reading
	if c.ctx != nil && c.ctx.Err() != nil {
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	}
}

// literal is an argument that is sent as a literal.
type literal struct {
	size int64
	r    io.Reader
}

// do sends a command and reads up to its end. Each response that comes before
// goes to on, whose error ends the connection. parts are strings, sent as they
// are, and literals.
func (c *Client) do(ctx context.Context, on func(*untagged) error, parts ...any) error {
	_, err := c.ask(ctx, on, parts...)
	return err
}

// ask is do that also returns the text of the command's OK.
func (c *Client) ask(ctx context.Context, on func(*untagged) error, parts ...any) (string, error) {
	if c.broken != nil {
		return "", c.broken
	}
	defer c.begin(ctx)()
	c.onUntagged = on
	defer func() { c.onUntagged = nil }()
	tag := c.nextTag()
	if refused, err := c.send(tag, parts); err != nil {
		return "", c.fail(err)
	} else if refused != nil {
		return "", c.asError(refused)
	}
	for {
		final, err := c.step(tag)
		if err != nil {
			return "", c.fail(err)
		}
		if final != nil {
			return final.text, c.asError(final)
		}
	}
}

func (c *Client) nextTag() string {
	c.tag++
	return "p" + strconv.Itoa(c.tag)
}

// send writes a command; final is its end where the server refused it instead
// of asking for a literal.
func (c *Client) send(tag string, parts []any) (final *untagged, err error) {
	_, _ = c.bw.WriteString(tag + " ") // bufio keeps the error for Flush
	for _, part := range parts {
		switch p := part.(type) {
		case string:
			_, _ = c.bw.WriteString(p)
		case literal:
			if final, err := c.announce(tag, p); final != nil || err != nil {
				return final, err
			}
			if err := c.copy(p); err != nil {
				return nil, err
			}
		}
	}
	_, _ = c.bw.WriteString("\r\n")
	return nil, c.bw.Flush()
}

// announce sends a literal's head and waits for the server to ask for it.
func (c *Client) announce(tag string, p literal) (*untagged, error) {
	fmt.Fprintf(c.bw, "{%d}\r\n", p.size)
	if err := c.bw.Flush(); err != nil {
		return nil, err
	}
	for {
		u, final, err := c.response()
		if err != nil {
			return nil, err
		}
		switch {
		case u == nil && final == nil:
			return nil, nil // a continuation
		case final != nil && final.tag == tag:
			return &final.untagged, nil
		case final != nil:
			return nil, errMalformed
		}
		if err := c.untagged(u); err != nil {
			return nil, err
		}
	}
}

// copy sends a literal's octets, with time for each piece.
func (c *Client) copy(p literal) error {
	buf := make([]byte, 32<<10)
	for left := p.size; left > 0; {
		n, err := p.r.Read(buf[:min(left, int64(len(buf)))])
		if n > 0 {
			c.extend()
			if _, err := c.bw.Write(buf[:n]); err != nil {
				return err
			}
			left -= int64(n)
		}
		if err != nil && left > 0 {
			return fmt.Errorf("the message's text ended %d octets early: %w", left, err)
		}
	}
	return nil
}

// step reads one response; final is the end of the command with tag.
func (c *Client) step(tag string) (*untagged, error) {
	u, final, err := c.response()
	switch {
	case err != nil:
		return nil, err
	case final != nil && final.tag == tag:
		return &final.untagged, nil
	case u == nil:
		return nil, errMalformed
	}
	return nil, c.untagged(u)
}

type tagged struct {
	untagged
	tag string
}

// response reads one response: untagged, tagged, or neither for a continuation.
func (c *Client) response() (*untagged, *tagged, error) {
	c.extend()
	p := newReader(c.br)
	p.sink, c.reading = c.sink, p
	head, err := p.atomOnly()
	if err != nil {
		return nil, nil, err
	}
	switch head {
	case "+":
		_, err := p.line()
		return nil, nil, err
	case "*":
		u, err := c.untaggedResponse(p)
		return u, nil, err
	}
	word, err := p.atomOnly()
	if err != nil {
		return nil, nil, err
	}
	t := &tagged{tag: head, untagged: untagged{name: strings.ToUpper(word)}}
	t.text, err = p.line()
	return nil, t, err
}

func (c *Client) untaggedResponse(p *reader) (*untagged, error) {
	word, err := p.atomOnly()
	if err != nil {
		return nil, err
	}
	u := &untagged{}
	if n, err := strconv.ParseUint(word, 10, 32); err == nil {
		u.number = n
		if word, err = p.atomOnly(); err != nil {
			return nil, err
		}
	}
	u.name = strings.ToUpper(word)
	switch u.name {
	case "OK", "NO", "BAD", "BYE", "PREAUTH":
		u.text, err = p.line()
	default:
		u.values, err = p.rest()
	}
	return u, err
}

// atomOnly reads an atom and the space behind it. Only a line of a single word,
// such as a bare continuation, has none.
func (p *reader) atomOnly() (string, error) {
	v, err := p.atom()
	if err != nil {
		return "", err
	}
	if c, err := p.peek(); err != nil {
		return "", err
	} else if c == ' ' {
		_, _ = p.byte() // peeked
	}
	return v.text, nil
}

func (c *Client) asError(u *untagged) error {
	code, _ := parseCode(u.text)
	switch u.name {
	case "OK":
		return nil
	case "NO", "BAD":
		return &Error{Status: u.name, Code: code, Text: u.text}
	default:
		return c.fail(fmt.Errorf("%w: %s as a command's end", errMalformed, u.name))
	}
}

// untagged files one response: for the command under way, and as an event.
func (c *Client) untagged(u *untagged) error {
	switch u.name {
	case "BYE":
		return &Error{Status: "BYE", Text: u.text}
	case "CAPABILITY":
		c.learn(u.values)
	case "OK", "NO":
		if code, _ := parseCode(u.text); code == "NOTIFICATIONOVERFLOW" {
			c.events.Lost = true
		}
	}
	if c.onUntagged != nil {
		if err := c.onUntagged(u); err != nil {
			return err
		}
	}
	if !u.taken {
		c.note(u)
	}
	return nil
}

// note keeps what a server tells by itself.
func (c *Client) note(u *untagged) {
	switch u.name {
	case "EXISTS", "EXPUNGE", "VANISHED", "FETCH":
		c.events.Selected = true
	case "LIST", "LSUB":
		c.events.List = true
	case "STATUS":
		if len(u.values) > 0 {
			if c.events.Mailboxes == nil {
				c.events.Mailboxes = make(map[string]bool)
			}
			c.events.Mailboxes[u.values[0].text] = true
		}
	}
}

func (c *Client) learn(values []value) {
	c.caps = make(map[string]bool, len(values))
	for _, v := range values {
		c.caps[strings.ToUpper(v.text)] = true
	}
}

// quote writes an argument: quoted where that can carry it, else as a literal.
func quote(text string) any {
	for i := range len(text) {
		if b := text[i]; b < ' ' || b > '~' {
			return literal{int64(len(text)), strings.NewReader(text)}
		}
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

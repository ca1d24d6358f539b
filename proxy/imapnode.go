package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// errAnswer is an answer of a node that makes no sense.
var errAnswer = errors.New("the node's answer is malformed")

var errNoTLS = errors.New(`the node offers no STARTTLS: give its listener a certificate, or write tls = "implicit" or "none" in the cell`)

// maxAnswerLines bounds what a node says before it answers a command.
const maxAnswerLines = 100

// readAnswer reads one line of a node.
func (b *backend) readAnswer() (string, error) {
	line, err := b.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("%w: a line too long", errAnswer)
	}
	if err != nil {
		return "", err
	}
	return string(bytes.TrimRight(line, "\r\n")), nil
}

// send writes to a node.
func (b *backend) send(text string) error {
	_, err := io.WriteString(b.Conn, text)
	return err
}

// imapAnswer reads up to the tagged response to a command. A node that asks for
// more, by "+", gets more. The rest of an OK is returned; NO and BAD are a
// loginError, BYE is errRefused.
func (b *backend) imapAnswer(tag, more string) (string, error) {
	for range maxAnswerLines {
		line, err := b.readAnswer()
		if err != nil {
			return "", err
		}
		if rest, ok := strings.CutPrefix(line, "* "); ok {
			if err := b.untagged(rest); err != nil {
				return "", err
			}
			continue
		}
		if strings.HasPrefix(line, "+") {
			if err := b.send(more + "\r\n"); err != nil {
				return "", err
			}
			more = "*" // it asked for nothing else
			continue
		}
		rest, ok := strings.CutPrefix(line, tag+" ")
		if !ok {
			return "", fmt.Errorf("%w: %q", errAnswer, line)
		}
		word, text, _ := strings.Cut(rest, " ")
		if !strings.EqualFold(word, "OK") {
			return "", refusalOf(text)
		}
		b.noteCapabilities(text)
		return text, nil
	}
	return "", fmt.Errorf("%w: too many lines", errAnswer)
}

// refusalOf tells a node that cannot serve now from one that does not want to.
func refusalOf(text string) error {
	code, _, _ := strings.Cut(strings.TrimPrefix(text, "["), "]")
	switch strings.ToUpper(code) {
	case "UNAVAILABLE", "SERVERBUG", "CONTACTADMIN", "INUSE":
		return fmt.Errorf("%w: %s", errUnavailable, text)
	}
	return &loginError{said: text, limit: strings.EqualFold(code, "LIMIT")}
}

// errUnavailable is a node's word that it cannot serve this account now.
var errUnavailable = errors.New("the node cannot serve the account now")

func (b *backend) untagged(rest string) error {
	word, text, _ := strings.Cut(rest, " ")
	switch strings.ToUpper(word) {
	case "BYE":
		return fmt.Errorf("%w: %s", errRefused, text)
	case "CAPABILITY":
		b.capabilities = text
	case "OK":
		b.noteCapabilities(text)
	}
	return nil
}

// noteCapabilities takes them out of a response code.
func (b *backend) noteCapabilities(text string) {
	if code, ok := strings.CutPrefix(text, "[CAPABILITY "); ok {
		code, _, _ = strings.Cut(code, "]")
		b.capabilities = code
	}
}

func (b *backend) offers(capability string) bool {
	for word := range strings.FieldsSeq(b.capabilities) {
		if strings.EqualFold(word, capability) {
			return true
		}
	}
	return false
}

// hail implements Dialect.
func (imapDialect) hail(b *backend) error {
	line, err := b.readAnswer()
	if err != nil {
		return err
	}
	switch rest, ok := strings.CutPrefix(line, "* "); {
	case ok && strings.HasPrefix(strings.ToUpper(rest), "OK"):
		return b.untagged(rest)
	case ok && strings.HasPrefix(strings.ToUpper(rest), "BYE"):
		return b.untagged(rest)
	default:
		return fmt.Errorf("%w: greeting %q", errAnswer, line)
	}
}

// leave implements Dialect.
func (imapDialect) leave(b *backend) {
	_ = b.SetWriteDeadline(time.Now().Add(byeTime))
	_ = b.send("z LOGOUT\r\n") // the connection is closed in any case
}

// login implements Dialect: STARTTLS where it is asked for, ID with the
// client's address, AUTHENTICATE as the user. The server believes that address,
// and lets the proxy in as anybody, because of who the proxy is.
func (d imapDialect) login(ctx context.Context, b *backend, s *session, login string) error {
	if b.node.level() == CellStartTLS {
		if b.capabilities != "" && !b.offers("STARTTLS") {
			return asOutage(errNoTLS)
		}
		if err := b.command("p1 STARTTLS"); err != nil {
			return asOutage(err)
		}
		if _, err := b.imapAnswer("p1", "*"); err != nil {
			return asOutage(err)
		}
		if err := b.protect(ctx); err != nil {
			return err
		}
		b.capabilities = ""
	}
	if b.capabilities == "" {
		if err := b.learn("p2"); err != nil {
			return asOutage(err)
		}
	}
	if b.offers("ID") {
		if err := b.command("p3 ID " + originID(s)); err != nil {
			return err
		}
		if _, err := b.imapAnswer("p3", "*"); err != nil {
			return asOutage(err)
		}
	}
	b.capabilities = ""
	if err := b.authenticate(login); err != nil {
		return err
	}
	if b.capabilities == "" {
		return asOutage(b.learn("p5"))
	}
	return nil
}

// asOutage keeps a refusal that is not the login's from being taken for one.
func asOutage(err error) error {
	var refused *loginError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %s", errAnswer, refused.said)
	}
	return err
}

func (b *backend) command(line string) error { return b.send(line + "\r\n") }

// learn asks for the capabilities.
func (b *backend) learn(tag string) error {
	if err := b.command(tag + " CAPABILITY"); err != nil {
		return err
	}
	_, err := b.imapAnswer(tag, "*")
	return err
}

// credentials are those of a login as somebody else: PLAIN with the proxy's own
// name and secret (RFC 4616), or what the certificate proves (EXTERNAL, RFC
// 4422).
func (b *backend) credentials(login string) (mechanism, message string) {
	cfg := &b.node.cell.cfg
	if cfg.User == "" {
		return "EXTERNAL", login
	}
	return "PLAIN", login + "\x00" + cfg.User + "\x00" + cfg.Secret
}

// authenticate logs in as somebody else.
func (b *backend) authenticate(login string) error {
	mechanism, message := b.credentials(login)
	// Always in an answer of its own: servers without SASL-IR exist, and the
	// round trip is within the machine room.
	encoded := base64.StdEncoding.EncodeToString([]byte(message))
	if err := b.command("p4 AUTHENTICATE " + mechanism); err != nil {
		return err
	}
	_, err := b.imapAnswer("p4", encoded)
	return err
}

// originPrefix begins the fields of ID that tell of the client, which nobody
// but a proxy may set.
const originPrefix = "x-"

// originID is what the node is told of the client: where it comes from and the
// session's name here, in the fields that Dovecot knows, and what it said of
// itself.
func originID(s *session) string {
	fields := []string{"x-session-id", string(s.client.Session), "x-proxy-ttl", "1"}
	if s.client.Remote.IsValid() {
		fields = append(fields, "x-originating-ip", addressOf(s), "x-originating-port", strconv.Itoa(int(s.client.Remote.Port())))
	}
	if s.client.Local.IsValid() {
		fields = append(fields, "x-connected-ip", s.client.Local.Addr().String(), "x-connected-port", strconv.Itoa(int(s.client.Local.Port())))
	}
	own := s.imap().id
	for i := 0; i+1 < len(own) && len(fields) < 2*maxIDFields; i += 2 {
		if !strings.HasPrefix(strings.ToLower(own[i]), originPrefix) {
			fields = append(fields, own[i], own[i+1])
		}
	}
	var b strings.Builder
	b.WriteByte('(')
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(quote(f))
	}
	b.WriteByte(')')
	return b.String()
}

// addressOf is the client's address as a node understands it: zones are this
// machine's own.
func addressOf(s *session) string { return s.client.Remote.Addr().Unmap().WithZone("").String() }

// quote writes a quoted string; what cannot stand in one becomes a question
// mark.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= 0x7f:
			b.WriteByte('?')
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

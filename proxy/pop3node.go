package proxy

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/sessions"
)

// pop3Answer reads the one line that answers a command. What follows +OK or +
// is returned, and whether it was the latter; -ERR is a loginError, or an outage
// where its code says so.
func (b *backend) pop3Answer() (text string, more bool, err error) {
	line, err := b.readAnswer()
	if err != nil {
		return "", false, err
	}
	word, text, _ := strings.Cut(line, " ")
	switch strings.ToUpper(word) {
	case "+OK":
		return text, false, nil
	case "+":
		return text, true, nil
	case "-ERR":
		return "", false, pop3Refusal(text)
	}
	return "", false, fmt.Errorf("%w: %q", errAnswer, line)
}

// pop3Refusal tells, by the response code (RFC 2449 section 8, RFC 3206), a
// node that cannot serve now, and what concerns the maildrop rather than the
// node, from a refused login.
func pop3Refusal(text string) error {
	said := sessions.OneLine(text)
	code, _, _ := strings.Cut(strings.TrimPrefix(said, "["), "]")
	switch strings.ToUpper(code) {
	case "SYS/TEMP", "SYS/PERM":
		return fmt.Errorf("%w: %s", errUnavailable, said)
	case "IN-USE", "LOGIN-DELAY":
		return &loginError{said: said, final: true}
	}
	return &loginError{said: said}
}

// hail implements Dialect.
func (pop3Dialect) hail(b *backend) error {
	line, err := b.readAnswer()
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(line, "-ERR"):
		return fmt.Errorf("%w: %s", errRefused, sessions.OneLine(line))
	case !strings.HasPrefix(line, "+OK"):
		return fmt.Errorf("%w: greeting %q", errAnswer, line)
	}
	b.capabilities = strings.TrimSpace(strings.TrimPrefix(line, "+OK"))
	return nil
}

// leave implements Dialect.
func (pop3Dialect) leave(b *backend) {
	_ = b.SetWriteDeadline(time.Now().Add(byeTime))
	_ = b.send("QUIT\r\n") // the connection is closed in any case
}

// listensToProxies begins the greeting of a node, ours or Dovecot's, that
// believes us when we say for whom we come.
const listensToProxies = "[XCLIENT]"

// login implements Dialect: STLS where it is asked for, XCLIENT with the
// client's address where the node listens to it, AUTH as the user.
func (d pop3Dialect) login(ctx context.Context, b *backend, s *session, login string) error {
	trusts := strings.HasPrefix(b.capabilities, listensToProxies)
	if b.node.level() == CellStartTLS {
		if err := b.command("STLS"); err != nil {
			return err
		}
		if _, _, err := b.pop3Answer(); err != nil {
			return fmt.Errorf("%w: %w", errNoTLS, asOutage(err))
		}
		if err := b.protect(ctx); err != nil {
			return err
		}
	}
	if trusts {
		if err := b.command("XCLIENT " + originPOP3(s)); err != nil {
			return err
		}
		if _, _, err := b.pop3Answer(); err != nil {
			return asOutage(err)
		}
	}
	mechanism, message := b.credentials(login)
	if err := b.command("AUTH " + mechanism); err != nil {
		return err
	}
	switch _, more, err := b.pop3Answer(); {
	case err != nil:
		return err
	case !more:
		return fmt.Errorf("%w: a login without a word of who", errAnswer)
	}
	if err := b.command(base64.StdEncoding.EncodeToString([]byte(message))); err != nil {
		return err
	}
	switch text, more, err := b.pop3Answer(); {
	case err != nil:
		return err
	case more:
		return fmt.Errorf("%w: %q after the login", errAnswer, text)
	}
	return nil
}

// originPOP3 is what a node is told of the client: where it comes from and the
// session's name here.
func originPOP3(s *session) string {
	words := []string{"SESSION=" + string(s.client.Session), "TTL=1"}
	if s.client.Remote.IsValid() {
		words = append(words, "ADDR="+addressOf(s), "PORT="+strconv.Itoa(int(s.client.Remote.Port())))
	}
	return strings.Join(words, " ")
}

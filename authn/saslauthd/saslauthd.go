// Package saslauthd verifies passwords by Cyrus SASL's saslauthd: four counted
// strings go to its socket (login, password, service, realm), one comes back
// that begins with OK or NO.
//
// Most of saslauthd's mechanisms answer an outage of what they ask with the same
// bare NO as a wrong password; so it cannot be told from one, and that is why a
// directory is better asked directly. Where the words behind the NO tell of an
// outage or of the account, they count. A socket that cannot be reached, and an
// answer that does not come, are not known.
package saslauthd

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of a Verifier.
type Config struct {
	// Name of the verifier in logs and audit; default "saslauthd".
	Name string
	// Socket of saslauthd; default "/run/saslauthd/mux".
	Socket string
	// Service is the name saslauthd is told, a PAM service for some of its
	// mechanisms; default "imap", "pop3" and "sieve" for these and "smtp" for
	// all else.
	Service string
	// Realm is told with each login. Default: an address is split into login
	// and realm, as Cyrus SASL does; saslauthd -r joins them again.
	Realm string
	// Timeout bounds one question; default 30 s.
	Timeout time.Duration
}

// maxFieldOctets bounds each string, as saslauthd does.
const maxFieldOctets = 1024

// Verifier asks saslauthd, on a connection of its own each time: saslauthd
// closes it after the answer. Safe for concurrent use.
type Verifier struct{ cfg Config }

// New returns a verifier. It asks and opens nothing.
func New(cfg Config) (*Verifier, error) {
	cfg.Name = cmp.Or(cfg.Name, "saslauthd")
	cfg.Socket = cmp.Or(cfg.Socket, "/run/saslauthd/mux")
	cfg.Timeout = cmp.Or(cfg.Timeout, 30*time.Second)
	if cfg.Timeout < 0 {
		return nil, errors.New("authn saslauthd: the timeout must not be negative")
	}
	if len(cfg.Service) > maxFieldOctets || len(cfg.Realm) > maxFieldOctets || strings.ContainsRune(cfg.Service+cfg.Realm, 0) {
		return nil, errors.New("authn saslauthd: service or realm too long, or with a NUL")
	}
	return &Verifier{cfg}, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Verify implements authn.Verifier. saslauthd names nobody: the identity is the
// login.
func (v *Verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	if err := authn.CheckPassword(a.Password); err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	if len(a.Login) > maxFieldOctets || strings.ContainsRune(a.Login, 0) {
		return mail.Identity{}, authn.ErrUnknownLogin
	}
	login, realm := v.split(a.Login)
	question := make([]byte, 0, 256)
	for _, field := range []string{login, a.Password, v.service(a.Service), realm} {
		question = binary.BigEndian.AppendUint16(question, uint16(len(field)))
		question = append(question, field...)
	}
	defer clear(question)
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	answer, err := v.ask(ctx, question)
	if err == nil {
		err = judge(answer)
	}
	if err != nil {
		return mail.Identity{}, fmt.Errorf("ask saslauthd at %s: %w", v.cfg.Socket, err)
	}
	return mail.Identity{Authentication: a.Login, Authorization: a.Login}, nil
}

// split makes login and realm of what was typed.
func (v *Verifier) split(typed string) (login, realm string) {
	if at := strings.LastIndexByte(typed, '@'); v.cfg.Realm == "" && at > 0 {
		return typed[:at], typed[at+1:]
	}
	return typed, v.cfg.Realm
}

// service is saslauthd's word for one of ours.
func (v *Verifier) service(ours string) string {
	for _, known := range []string{"imap", "pop3", "sieve"} {
		if v.cfg.Service == "" && strings.Contains(ours, known) {
			return known
		}
	}
	return cmp.Or(v.cfg.Service, "smtp")
}

func (v *Verifier) ask(ctx context.Context, question []byte) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", v.cfg.Socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// Expiring the deadline ends a read or write under way.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(question); err != nil {
		return "", errors.Join(err, ctx.Err())
	}
	answer, err := readAnswer(conn)
	if err != nil {
		return "", errors.Join(err, ctx.Err())
	}
	return answer, nil
}

// readAnswer reads one counted string.
func readAnswer(r io.Reader) (string, error) {
	var count [2]byte
	if _, err := io.ReadFull(r, count[:]); err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	n := binary.BigEndian.Uint16(count[:])
	if n < 2 || n > maxFieldOctets {
		return "", fmt.Errorf("an answer of %d octets", n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(r, answer); err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return string(answer), nil
}

// outages are words of saslauthd's mechanisms behind a NO that say nothing of
// the password; aboutAccount those that say it of the account.
var (
	outages = []string{
		"[alert]", "internal", "unavailable", "unknown error", "insufficient permission", "pam start error",
		"krb5_verify_init_creds failed", "principal name error", "couldn't contact", "lookup failure",
	}
	aboutAccount = []string{"account expired", "password expired", "pam acct error"}
)

// judge reads what follows OK and NO. A NO whose words are not known is a
// definite one.
func judge(answer string) error {
	word, rest, _ := strings.Cut(strings.TrimRight(answer, "\x00\r\n"), " ")
	said := strings.ToLower(rest)
	has := func(words []string) bool {
		for _, w := range words {
			if strings.Contains(said, w) {
				return true
			}
		}
		return false
	}
	switch {
	case word == "OK":
		return nil
	case word != "NO":
		return fmt.Errorf("answer %.64q is neither OK nor NO", answer)
	case has(outages):
		return fmt.Errorf("saslauthd cannot know: %.200q", rest)
	case has(aboutAccount):
		return status.Errorf(status.AuthFailed, "%.200q: %w", rest, authn.ErrRefused)
	}
	return status.Errorf(status.AuthFailed, "wrong password or unknown login %.200q", rest)
}

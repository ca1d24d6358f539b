package sessions

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"github.com/postern-mail/postern/mail"
)

// Authenticator says who a client is. Its errors are judged by status.Of:
// AuthFailed and its like are a clear no, everything else an outage. It is
// called concurrently and may block.
type Authenticator interface {
	// Mechanisms lists the SASL mechanisms on offer to a client. The protocol's
	// own login, such as LOGIN of IMAP, is on offer where TakesPasswords says so.
	Mechanisms(client *mail.Client) []string
	// Start begins a SASL exchange. It is closed, where it can be, when it has
	// ended or the client leaves it.
	Start(ctx context.Context, mechanism string, client mail.Client) (Authentication, error)
	// Login verifies a login name and password, neither with a NUL in it.
	Login(ctx context.Context, login, password string, client mail.Client) (mail.Identity, error)
}

// Authentication is the server side of one SASL exchange. Identity is valid
// once Next reported done without an error. Response is nil when the client
// gave no initial response, and empty when it gave an empty one.
type Authentication interface {
	Next(response []byte) (challenge []byte, done bool, err error)
	Identity() mail.Identity
}

// Accounts finds where an identity's mail lives. Its errors are judged like
// Authenticator's.
type Accounts interface {
	Account(ctx context.Context, login string) (mail.Account, error)
}

// TakesPasswords tells whether a protocol's own login may be used: it is PLAIN
// in other words.
func TakesPasswords(mechanisms []string) bool {
	return slices.Contains(mechanisms, "PLAIN") || slices.Contains(mechanisms, "LOGIN")
}

// What a client sends in an exchange that cannot be used.
var (
	ErrCancelled = errors.New("authentication was cancelled")
	ErrBase64    = errors.New("invalid base64")
)

// Exchange carries challenges and responses until the mechanism is done. ask
// sends a challenge, in base64, and returns the client's line, without its end.
// The error is one of ask, of the mechanism, ErrCancelled or ErrBase64.
func Exchange(exchange Authentication, response []byte, ask func(challenge string) ([]byte, error)) error {
	for {
		challenge, done, err := exchange.Next(response)
		if done || err != nil {
			return err
		}
		line, err := ask(base64.StdEncoding.EncodeToString(challenge))
		if err != nil {
			return err
		}
		if string(bytes.TrimSpace(line)) == "*" {
			return ErrCancelled
		}
		if response, err = DecodeResponse(line); err != nil {
			return err
		}
	}
}

// DecodeResponse decodes a response of an exchange, or reports ErrBase64.
// Clients that know the "=" of initial responses (RFC 4959) write it for every
// empty one.
func DecodeResponse(line []byte) ([]byte, error) {
	if string(line) == "=" {
		return []byte{}, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Decode(out, line)
	if err != nil {
		return nil, ErrBase64
	}
	return out[:n], nil
}

// Penance makes guessing slow: each failure on a connection waits twice as long
// as the one before, up to 8 times the first. It ends early with the session.
func (s *Session) Penance(ctx context.Context, first time.Duration, failures int) {
	delay := first << min(failures-1, 3)
	if delay <= 0 {
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.Ending():
	case <-ctx.Done():
	}
}

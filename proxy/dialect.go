package proxy

import (
	"context"

	"github.com/postern-mail/postern/mail"
)

// Dialect is a protocol from the greeting to the login, towards the client and
// towards a node. What comes behind it is the same octets on both sides. A
// Dialect is safe for concurrent use: what it has to remember stands in the
// session.
type Dialect interface {
	// service names the protocol to verifiers and in the audit.
	service() string

	// greet tells the client that somebody is here.
	greet(s *session)
	// command reads one of the client's commands and carries it out. done tells
	// that the client proved to be identity, which admit or answer answers. It
	// returns errLogout and its like when the conversation is over; other errors
	// are answered by answer.
	command(ctx context.Context, s *session) (identity mail.Identity, done bool, err error)
	// admit answers a login with what the node offers.
	admit(s *session, b *backend)
	// answer answers a command that was not carried out.
	answer(s *session, v verdict)
	// bye is the line that ends a conversation before the login.
	bye(text string) string
	// parting is the line that ends one behind the login, "" where the protocol
	// has none; farewell how the node's own begins, "" the same.
	parting(text string) string
	farewell() string
	// leaves reports whether octets to a node end with the client's goodbye.
	leaves(p []byte) bool

	// hail reads a node's greeting. An error that wraps errRefused is its own
	// word.
	hail(b *backend) error
	// login logs in at a node that was hailed, for the client of s.
	login(ctx context.Context, b *backend, s *session, login string) error
	// leave says goodbye to a node, without waiting for its answer.
	leave(b *backend)
}

// IMAP is the dialect of RFC 3501 and RFC 9051.
func IMAP() Dialect { return imapDialect{} }

// POP3 is the dialect of RFC 1939 and RFC 2449.
func POP3() Dialect { return pop3Dialect{} }

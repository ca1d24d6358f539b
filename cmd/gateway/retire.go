package main

import (
	"context"
	"sync"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
)

// users counts the sessions that began under a generation. A replaced
// generation's helpers run on for as long as there is one: sessions live for
// hours, and one whose directory pool was closed could take no mail.
type users struct {
	mu      sync.Mutex
	count   int
	retired func() // stops the generation's helpers; nil while it is wanted
}

func (u *users) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count++
}

func (u *users) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count--; u.count == 0 && u.retired != nil {
		u.retired()
	}
}

// retire has stop called, once or more, when no session is left.
func (u *users) retire(stop func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.retired = stop; u.count == 0 {
		stop()
	}
}

// counted is a handler whose sessions are users of a generation.
type counted struct {
	smtp.Handler
	users *users
}

// NewSession implements smtp.Handler.
func (c counted) NewSession(ctx context.Context, client *mail.Client) (smtp.Session, error) {
	c.users.begin()
	s, err := c.Handler.NewSession(ctx, client)
	if err != nil {
		c.users.end() // the engine has no session to close
		return nil, err
	}
	return countedSession{s, c.users}, nil
}

type countedSession struct {
	smtp.Session
	users *users
}

// Close implements smtp.Session.
func (s countedSession) Close(cause error) {
	defer s.users.end()
	s.Session.Close(cause)
}

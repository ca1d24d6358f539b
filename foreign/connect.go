package foreign

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/foreign/imap"
)

// link is a connection to one side as one account.
type link struct {
	*imap.Client
	side     Side
	space    space
	watch    watch
	selected *imap.Selected // nil for none
}

// watch is how a server tells what happens.
type watch uint8

const (
	watchPoll watch = iota
	watchIdle
	watchNotify
)

func (w watch) String() string { return [3]string{"poll", "idle", "notify"}[w] }

// needed are the capabilities without which nothing here is safe.
var needed = []string{"UIDPLUS", "QRESYNC"}

// refusal is an account or server that cannot be mirrored as it is: trying
// again soon does not help.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// sideError says on which side something failed.
type sideError struct {
	side Side
	err  error
}

func (e *sideError) Error() string { return e.side.String() + ": " + e.err.Error() }
func (e *sideError) Unwrap() error { return e.err }

func on(side Side, err error) error {
	var already *sideError
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &sideError{side, err}
}

// connect logs an account in to one side and finds out what it can do.
func connect(ctx context.Context, server Server, side Side, login Login) (*link, error) {
	l, err := dial(ctx, server, side, login)
	return l, on(side, err)
}

func dial(ctx context.Context, server Server, side Side, login Login) (*link, error) {
	secure := server.TLS
	if server.Protection != ImplicitTLS {
		secure = nil
	}
	c, err := imap.Dial(ctx, server.Address, secure, server.Timeout)
	if err != nil {
		return nil, err
	}
	l := &link{Client: c, side: side}
	if err := l.prepare(ctx, server, login); err != nil {
		_ = c.Close() // it is of no use
		return nil, err
	}
	return l, nil
}

func (l *link) prepare(ctx context.Context, server Server, login Login) error {
	if server.Protection == StartTLS {
		if err := l.StartTLS(ctx, server.TLS); err != nil {
			return err
		}
	}
	user, account, password := login.Name, "", login.Password
	if server.User != "" {
		user, account, password = server.User, login.Name, server.Password
	}
	if password == "" {
		return refusal{fmt.Errorf("there is no password for %s", login.Name)}
	}
	if err := l.Login(ctx, user, account, password); err != nil {
		return fmt.Errorf("login of %s: %w", login.Name, err)
	}
	for _, name := range needed {
		if !l.Has(name) {
			return refusal{fmt.Errorf("the server has no %s, without which messages cannot be told apart for certain", name)}
		}
	}
	if err := l.Enable(ctx); err != nil {
		return fmt.Errorf("ENABLE QRESYNC: %w", err)
	}
	if err := l.Probe(ctx); err != nil {
		return err
	}
	var err error
	if l.space.prefix, l.space.delimiter, err = l.Namespace(ctx); err != nil {
		return fmt.Errorf("NAMESPACE: %w", err)
	}
	return l.listen(ctx)
}

// listen chooses how to hear of changes.
func (l *link) listen(ctx context.Context) error {
	if l.Has("NOTIFY") {
		err := l.Notify(ctx)
		if _, refused := imap.Refused(err); !refused {
			l.watch = watchNotify
			return err
		}
	}
	if l.Has("IDLE") {
		l.watch = watchIdle
	}
	return nil
}

// use selects a mailbox where it is not selected already.
func (l *link) use(ctx context.Context, raw string) (*imap.Selected, error) {
	if l.selected != nil && l.selected.Name == raw {
		return l.selected, nil
	}
	return l.open(ctx, raw, nil)
}

// open selects a mailbox anew.
func (l *link) open(ctx context.Context, raw string, since *imap.Position) (*imap.Selected, error) {
	l.selected = nil
	s, err := l.Select(ctx, raw, since)
	if err != nil {
		return nil, on(l.side, fmt.Errorf("SELECT %s: %w", raw, err))
	}
	l.selected = s
	return s, nil
}

// leave has no mailbox selected, or INBOX for IDLE.
func (l *link) leave(ctx context.Context) error {
	if l.watch == watchIdle {
		_, err := l.use(ctx, "INBOX")
		return err
	}
	if l.selected == nil {
		return nil
	}
	l.selected = nil
	return on(l.side, l.Unselect(ctx))
}

package mailstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// staged is content that was parsed while it came in.
type staged struct {
	store.Staged
	found *mime.Result
}

// Stage takes in a message and parses it on the way. It is durable only once
// Append or Deliver stored it; the caller discards it in any case. An error of
// r is returned as it is; otherwise MailSystemFull or StoreDown.
func (s *Store) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	scanner := mime.NewScanner()
	source := &source{Reader: r}
	content, err := s.blobs.Stage(ctx, io.TeeReader(source, scanner))
	switch {
	case err == nil:
		return &staged{Staged: content, found: scanner.Result()}, nil
	case source.err != nil:
		return nil, source.err
	}
	return nil, s.failure("stage message", err)
}

// source remembers a reader's own error, to tell it from the store's.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// content returns the engine's staged body and what a scan finds in it.
func (s *Store) content(c store.Staged) (store.Staged, *mime.Result, error) {
	if parsed, ok := c.(*staged); ok {
		return parsed.Staged, parsed.found, nil
	}
	body, err := c.Open()
	if err != nil {
		return nil, nil, s.failure("open staged message", err)
	}
	defer body.Close()
	found, err := mime.Scan(body)
	if err != nil {
		return nil, nil, s.failure("scan staged message", err)
	}
	return c, found, nil
}

// failure classes an error of the store for the peer. Errors of ours and of
// the context stay what they are.
func (s *Store) failure(doing string, err error) error {
	var known *status.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known), isOurs(err):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, store.ErrFull):
		return status.Errorf(status.MailSystemFull, "%s: %w", doing, err)
	}
	return status.Errorf(status.StoreDown, "%s: %w", doing, err)
}

func isOurs(err error) bool {
	for _, ours := range []error{ErrNoMailbox, ErrMailboxExists, ErrBadName, ErrInbox, ErrTooMany, ErrSpecialUse, ErrNoMessage, ErrEntry, ErrNoAccount, ErrKept, ErrRestoring, ErrNotRestorable} {
		if errors.Is(err, ours) {
			return true
		}
	}
	return false
}

// CheckSpace refuses what octets more would leave too little room for:
// MailSystemFull. It is an early answer; Stage and the commit ask again.
func (s *Store) CheckSpace(octets int64) error {
	for _, engine := range []any{s.kv, s.blobs} {
		if space, ok := engine.(store.Space); ok {
			if err := space.CheckSpace(octets); err != nil {
				return s.failure("check space", err)
			}
		}
	}
	return nil
}

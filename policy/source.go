package policy

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// maxActions bounds the memory of a table's actions.
const maxActions = 10000

// source is the table of an access restriction, whose values are actions.
type source struct {
	table  table.Opened
	reader reader

	mu      sync.RWMutex
	actions map[string]*action // by their text
}

// newSource opens a table. What is wrong with its actions is told when it is
// read, but for those that only the answer to a key shows.
func newSource(opener *table.Opener, name string, reader reader) (*source, error) {
	s := &source{reader: reader, actions: make(map[string]*action)}
	var err error
	s.table, err = opener.Open(name, table.Use{Value: func(text string) ([]string, error) {
		a, mistake := reader.action(Pos{}, text)
		if mistake == nil && reader.at.noPermit && a.verdict == mail.Permit {
			mistake = &Mistake{Problem: text + " would permit what strangers name in the DNS themselves", Remedy: "use DUNNO for exceptions"}
		}
		if mistake != nil {
			return nil, mistake
		}
		return []string{text}, nil
	}})
	return s, err
}

// lookup returns what the table says for a subject's keys, or nil.
func (s *source) lookup(ctx context.Context, keys keys) (*action, error) {
	if s == nil {
		return nil, status.Errorf(status.ConfigurationError, "a table is not loaded")
	}
	values, by, err := table.FindIn(ctx, s.table, keys.whole, keys.forms)
	if err != nil {
		return nil, status.Errorf(tableReason(err), "table %s: %s: %w", s.table.Name(), by.Key, err)
	}
	if len(values) == 0 {
		return nil, nil
	}
	return s.action(table.Join(values))
}

// tableReason is what the client is told of a table that does not answer.
func tableReason(err error) status.Reason {
	if status.Of(err) == status.DirectoryDown {
		return status.DirectoryDown
	}
	return status.ConfigurationError
}

// action reads an action, or remembers having done so.
func (s *source) action(text string) (*action, error) {
	s.mu.RLock()
	known := s.actions[text]
	s.mu.RUnlock()
	if known != nil {
		return known, nil
	}
	a, mistake := s.reader.action(Pos{File: s.table.Name()}, text)
	if mistake != nil {
		return nil, status.New(status.ConfigurationError, mistake)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.actions) >= maxActions {
		clear(s.actions)
	}
	s.actions[text] = a
	return a, nil
}

// Run looks for changed tables until ctx ends. A changed one is read when it
// has come to rest; one with mistakes keeps its former content.
func (c *Chain) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, s := range c.tables {
		g.Go(func() error { return s.table.Run(ctx) })
	}
	for _, t := range c.watched {
		g.Go(func() error { return t.Run(ctx) })
	}
	g.Go(func() error { <-ctx.Done(); return nil })
	return g.Wait()
}

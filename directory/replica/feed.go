package replica

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
)

// Feed brings what a directory's servers hold, and their changes.
type Feed interface {
	// Follow tells s of everything until ctx ends, the servers are lost or say
	// what makes no sense. It is called again after a pause, and goes on from
	// s.Position where that is possible.
	//
	// ErrNotOffered means that the servers have no means for it.
	Follow(ctx context.Context, s *Session) error
}

// ErrNotOffered means that a directory's servers tell nobody of changes.
var ErrNotOffered = errors.New("the servers offer neither content synchronization (RFC 4533) nor DirSync to this account")

// errEmpty is a refresh that brought nothing where there was nothing before.
var errEmpty = errors.New("the servers show not one entry to this account below the base: its rights, base or filter are wrong")

// ErrUnknownEntry means that a feed spoke of an entry that should be here and
// is not: what is held and what the servers think is held have parted.
var ErrUnknownEntry = errors.New("the servers speak of an entry that is not held here")

// Position is from where a feed can go on.
type Position struct {
	// Server is the one that gave the cookie. Another takes it for something
	// else.
	Server string `json:"server"`
	Cookie []byte `json:"cookie"`
}

// Session is one conversation of a feed with its servers, for the feed's sole
// use by one goroutine, but for Alive.
//
// It begins with a refresh: Begin, then what there is, then End, which brings
// it into use as a whole or not at all. After it each change counts at once, and
// Commit notes how far it is.
type Session struct {
	r *Replica

	staged    *index.Set            // nil but during a refresh
	mentioned map[index.ID]struct{} // of a refresh that goes on from what is held
	touched   map[index.ID]struct{} // changed by it
	refreshed atomic.Bool           // one refresh ended well
}

// Position is where the last session ended; the zero Position when everything
// must be brought anew.
func (s *Session) Position() Position {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.r.pending != nil {
		return s.r.pendingPosition
	}
	return s.r.position
}

// StartOver forgets the position: the servers do not go on from it.
func (s *Session) StartOver() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.position, s.r.pendingPosition = Position{}, Position{}
}

// Using tells who is spoken to and how, for operators.
func (s *Session) Using(server, mode string) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.status.Server, s.r.status.Mode = server, mode
}

// Begin starts a refresh. A full one starts from nothing; another from what is
// held, of which what is not mentioned stays unless Sweep is called.
func (s *Session) Begin(full bool) {
	s.staged, s.mentioned, s.touched = index.New(), nil, nil
	if !full {
		s.staged = s.r.basis().Clone()
		s.mentioned, s.touched = map[index.ID]struct{}{}, map[index.ID]struct{}{}
	}
	s.r.refreshing(true)
}

// Put tells of an entry as it is now.
func (s *Session) Put(id index.ID, e directory.Entry) error {
	if s.staged == nil {
		return s.r.change(id, &e)
	}
	if s.staged.Len() >= s.r.cfg.MaxEntries && !s.staged.Has(id) {
		return errTooMany
	}
	if other, gone := s.staged.Put(id, e); gone {
		s.mention(other, true)
	}
	s.mention(id, true)
	return nil
}

// Delete tells that an entry is gone.
func (s *Session) Delete(id index.ID) {
	if s.staged == nil {
		_ = s.r.change(id, nil) // only an addition is refused
		return
	}
	s.staged.Delete(id)
	s.mention(id, true)
}

// Present tells that an entry is as it was.
func (s *Session) Present(id index.ID) error {
	if !s.target().Has(id) {
		return ErrUnknownEntry
	}
	s.mention(id, false)
	return nil
}

func (s *Session) mention(id index.ID, changed bool) {
	if s.mentioned == nil {
		return
	}
	s.mentioned[id] = struct{}{}
	if changed {
		s.touched[id] = struct{}{}
	}
}

// Sweep removes what a refresh that goes on from what is held has not
// mentioned since Begin: it is gone (RFC 4533 section 3.3.2).
func (s *Session) Sweep() {
	if s.mentioned == nil {
		return
	}
	for _, id := range s.staged.IDs() {
		if _, there := s.mentioned[id]; !there {
			s.staged.Delete(id)
			s.touched[id] = struct{}{}
		}
	}
}

// Get returns an entry as it is known now, for a feed that is told of parts of
// entries.
func (s *Session) Get(id index.ID) (directory.Entry, bool) { return s.target().Get(id) }

// IDs returns the identities of all entries known now.
func (s *Session) IDs() []index.ID { return s.target().IDs() }

// HasBelow reports whether entries lie below a name.
func (s *Session) HasBelow(dn directory.DN) bool { return s.target().HasBelow(dn) }

func (s *Session) target() *index.Set {
	if s.staged != nil {
		return s.staged
	}
	return s.r.basis()
}

// End ends a refresh. What it brought is used from now on, unless so much is
// gone that an operator must say whether that is meant.
func (s *Session) End(p Position) error {
	staged, touched := s.staged, s.touched
	s.staged, s.mentioned, s.touched = nil, nil, nil
	err := s.r.take(staged, touched, p)
	if err == nil {
		s.refreshed.Store(true)
	}
	return err
}

// Commit notes how far the changes told of are. A zero cookie changes nothing.
func (s *Session) Commit(p Position) {
	if len(p.Cookie) > 0 {
		s.r.reached(p)
	}
}

// Alive tells that everything the servers know by now is known here.
func (s *Session) Alive() {
	if s.refreshed.Load() {
		s.r.alive()
	}
}

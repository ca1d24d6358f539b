package directory_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/testdata/ldif"
)

// farAway answers no search before so many are under way, and fails those of
// one half of the tree if told to.
type farAway struct {
	underWay  atomic.Int64
	wanted    int64
	both      chan struct{}
	failUsers bool
}

func (s *farAway) Distant() bool { return true }

func (s *farAway) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if s.failUsers && req.Base == "ou=people,dc=example,dc=com" {
		return nil, errors.New("no answer")
	}
	if s.underWay.Add(1) == s.wanted {
		close(s.both)
	}
	select {
	case <-s.both:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestServersAreAskedAtOnce: the searches for people and for groups do not wait
// for each other, and one that fails ends the other.
func TestServersAreAskedAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	address := mail.Address{Local: "nobody", Domain: "example.com"}
	for _, c := range []struct {
		searcher *farAway
		want     status.Reason
	}{
		{&farAway{wanted: 2, both: make(chan struct{})}, status.NoSuchUser},
		{&farAway{wanted: 2, both: make(chan struct{}), failUsers: true}, status.DirectoryDown},
	} {
		d := directorytest.Open(t, directorytest.Config(ldif.OpenLDAP()), c.searcher)
		if _, err := d.Resolve(ctx, address); status.Of(err) != c.want {
			t.Errorf("fails for people %t: %v, want %v", c.searcher.failUsers, err, c.want)
		}
	}
	if ctx.Err() != nil {
		t.Error("a search waited for one that nobody had begun")
	}
}

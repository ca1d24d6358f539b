package directory_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// aged is a searcher that finds nothing, tells of changes and doubts itself.
type aged struct {
	directory.NoEntries
	live    directory.Searcher
	unknown error
	changed chan struct{}
}

func (a *aged) Doubt() (directory.Searcher, error) { return a.live, a.unknown }
func (a *aged) Changed() <-chan struct{}           { return a.changed }

type entries []directory.Entry

func (e entries) Search(_ context.Context, req directory.Request) ([]directory.Entry, error) {
	var found []directory.Entry
	for _, one := range e {
		if directory.Match(req.Filter, one) {
			found = append(found, one)
		}
	}
	return found, nil
}

type broken struct{}

func (broken) Search(context.Context, directory.Request) ([]directory.Entry, error) {
	return nil, status.Errorf(status.DirectoryDown, "down")
}

func TestANoOfOldContentIsNotBelieved(t *testing.T) {
	t.Parallel()
	hired := entries{directory.NewEntry("uid=new,ou=people,dc=example,dc=com", map[string][]string{
		"objectClass": {"inetOrgPerson"}, "uid": {"new"}, "mail": {"new@example.com"},
	})}
	old := status.Errorf(status.DirectoryDown, "20 minutes old")
	for _, c := range []struct {
		name    string
		live    directory.Searcher
		unknown error
		want    status.Reason
	}{
		{"fresh", nil, nil, status.NoSuchUser},
		{"aged, a server knows better", hired, nil, status.OK},
		{"aged, a server says no as well", entries{}, nil, status.NoSuchUser},
		{"aged, no server answers", broken{}, nil, status.NoSuchUser},
		{"too old, a server knows better", hired, old, status.OK},
		{"too old, a server says no", entries{}, old, status.NoSuchUser},
		{"too old, no server answers", broken{}, old, status.DirectoryDown},
		{"too old, nobody to ask", nil, old, status.DirectoryDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, err := directory.New(directory.Config{BaseDN: "dc=example,dc=com", Domains: []mail.Domain{"example.com"}},
				&aged{live: c.live, unknown: c.unknown}, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			a, _ := mail.ParseAddress("new@example.com")
			if _, err := d.Resolve(t.Context(), a); status.Of(err) != c.want {
				t.Errorf("Resolve: %v, want %v", err, c.want)
			}
			if _, err := d.Account(t.Context(), "new"); status.Of(err) != c.want {
				t.Errorf("Account: %v, want %v", err, c.want)
			}
			x, _ := d.Explain(t.Context(), "new@example.com")
			if x.Reason != c.want {
				t.Errorf("Explain: %v, want %v", x.Reason, c.want)
			}
		})
	}
}

func TestChangedTellsOfAnySource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &aged{changed: make(chan struct{})}
		table := &noticed{changed: make(chan struct{})}
		d, err := directory.New(directory.Config{BaseDN: "dc=example"}, s, hclog.NewNullLogger(), table)
		if err != nil {
			t.Fatal(err)
		}
		told := d.Changed()
		synctest.Wait()
		select {
		case <-told:
			t.Fatal("told of a change before there was one")
		default:
		}
		close(table.changed)
		<-told
		table.changed = make(chan struct{})
		again := d.Changed()
		close(s.changed)
		<-again
	})
}

func TestChangedOfServersThatDoNotTell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, err := directory.New(directory.Config{BaseDN: "dc=example", Cache: directory.CacheConfig{PositiveTTL: time.Minute}}, entries{}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-d.Changed()
		if took := time.Since(began); took != time.Minute {
			t.Errorf("told after %v, want a minute: answers may be that old", took)
		}
	})
}

type noticed struct{ changed chan struct{} }

func (*noticed) Name() string                                     { return "noticed" }
func (*noticed) Lookup(context.Context, string) ([]string, error) { return nil, nil }
func (n *noticed) Changed() <-chan struct{}                       { return n.changed }

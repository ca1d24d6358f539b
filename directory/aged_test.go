package directory_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// copied is a searcher that answers from what it holds and can be told that it
// is too old.
type copied struct {
	directory.Searcher
	live       directory.Searcher // behind it, once it doubts itself
	old        bool
	generation atomic.Uint64
}

func (c *copied) Generation() uint64 { return c.generation.Load() }

func (c *copied) Doubt() (directory.Searcher, error) {
	if !c.old {
		return nil, nil
	}
	return c.live, status.Errorf(status.DirectoryDown, "20 minutes old")
}

// keptLists are groups that not everybody may send to, with the members given,
// and people of whom dora is disabled.
func keptLists(t *testing.T, members ...string) directory.Searcher {
	content := listBase + person("dora", "description: off", "mail: dora@x.example")
	team := []string{"businessCategory: members"}
	for _, uid := range members {
		content += person(uid, "mail: "+uid+"@x.example")
		team = append(team, "member: "+dnOf(uid))
	}
	return tree(t, content+list("team", team...)+list("shared", team...))
}

func kept() directory.Config {
	return directory.Config{
		Name: "x", Domains: []mail.Domain{"x.example"}, DisabledReceive: "reject",
		Mapping: directory.Mapping{MembersOnlyFilter: "(businessCategory=members)", DisabledFilter: "(description=off)", SharedFilter: "(cn=shared)"},
	}
}

// TestEveryNoOfOldContentIsDoubted: whatever the no is about, content that is
// too old says it of nobody for good: who was hired, or became a member, since.
func TestEveryNoOfOldContentIsDoubted(t *testing.T) {
	t.Parallel()
	ann := mail.Identity{Authentication: "ann", Authorization: "ann", Source: "x"}
	cem := mail.Identity{Authentication: "cem", Authorization: "cem", Source: "x"}
	// May somebody send as an address? "yes", "no" or why nobody knows.
	may := func(d *directory.Directory, id mail.Identity, address string) string {
		switch ok, err := d.MaySendAs(t.Context(), id, mail.MustAddress(address)); {
		case err != nil:
			return status.Of(err).String()
		case ok:
			return "yes"
		default:
			return "no"
		}
	}
	posts := func(d *directory.Directory, id mail.Identity) string {
		_, err := d.ResolveFor(t.Context(), mail.MustAddress("team@x.example"), mail.Poster{Identity: &id})
		return status.Of(err).String()
	}
	receives := func(d *directory.Directory, uid string) string {
		_, err := d.Resolve(t.Context(), mail.MustAddress(uid+"@x.example"))
		return status.Of(err).String()
	}
	before, after := keptLists(t, "ann", "bob"), keptLists(t, "ann", "bob", "cem")
	for _, c := range []struct {
		name string
		live directory.Searcher
		// What is said of cem, who was hired since, and of ann, who was there.
		owner, shares, poster, annAsBob, annAsAnn, disabled string
	}{
		{"fresh", nil, "no", "no", "GroupRestricted", "no", "yes", "AccountDisabled"},
		{"old, servers dead", broken{}, "DirectoryDown", "DirectoryDown", "DirectoryDown", "DirectoryDown", "yes", "DirectoryDown"},
		{"old, servers answer", after, "yes", "yes", "OK", "no", "yes", "AccountDisabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source := &copied{Searcher: before, live: c.live}
			d := open(t, kept(), source)
			// Who may send to the team is remembered from when it was not old.
			if got := posts(d, ann); got != "OK" {
				t.Fatalf("ann sends to her team: %s", got)
			}
			source.old = c.live != nil
			for what, row := range map[string][2]string{
				"cem sends as cem":         {may(d, cem, "cem@x.example"), c.owner},
				"cem sends as a team":      {may(d, cem, "shared@x.example"), c.shares},
				"cem sends to his team":    {posts(d, cem), c.poster},
				"ann sends as bob":         {may(d, ann, "bob@x.example"), c.annAsBob},
				"ann sends as ann":         {may(d, ann, "ann@x.example"), c.annAsAnn},
				"ann sends to her team":    {posts(d, ann), "OK"},
				"mail to disabled account": {receives(d, "dora"), c.disabled},
				"mail to ann":              {receives(d, "ann"), "OK"},
			} {
				if row[0] != row[1] {
					t.Errorf("%s: %s, want %s", what, row[0], row[1])
				}
			}
			_, err := d.Owners(t.Context(), mail.MustAddress("cem@x.example"))
			if want := source.old && c.live == (broken{}); (err != nil) != want {
				t.Errorf("owners of an address that nobody has: %v", err)
			}
		})
	}
}

// TestOldNoBringsNobodyBack: a yes from before somebody left is not served
// because what knows that he left has become old.
func TestOldNoBringsNobodyBack(t *testing.T) {
	t.Parallel()
	source := &copied{Searcher: keptLists(t, "ann", "bob"), live: broken{}}
	d := open(t, kept(), source)
	if got := resolved(t, d, "bob@x.example"); got != "bob@x.example" {
		t.Fatal(got)
	}
	source.Searcher = keptLists(t, "ann")
	source.generation.Add(1)
	source.old = true
	if got := resolved(t, d, "bob@x.example"); got != "DirectoryDown" {
		t.Errorf("mail for somebody who left: %s", got)
	}
}

// slowly answers after a while.
type slowly struct {
	directory.Searcher
	after time.Duration
}

func (s slowly) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	select {
	case <-time.After(s.after):
		return s.Searcher.Search(ctx, req)
	case <-ctx.Done():
		return nil, status.New(status.DirectoryDown, ctx.Err())
	}
}

// TestManyWhoSendToGroupsAtOnce: finding out who sends takes no place that
// those who decide wait for.
func TestManyWhoSendToGroupsAtOnce(t *testing.T) {
	t.Parallel()
	people := keptLists(t, "ann", "bob")
	synctest.Test(t, func(t *testing.T) {
		cfg := kept()
		cfg.BaseDN, cfg.Cache.Disabled = "dc=x", true
		d, err := directory.New(cfg, slowly{people, 10 * time.Millisecond}, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		began := time.Now()
		for range 200 {
			all.Go(func() {
				from := mail.Poster{Address: mail.MustAddress("ann@x.example"), Trusted: true}
				if _, err := d.ResolveFor(t.Context(), mail.MustAddress("team@x.example"), from); err != nil {
					t.Errorf("ann sends to her team: %v", err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("200 messages took %v", took)
		}
	})
}

// TestNobodyJoinsAQuestionFromBeforeAChange: who asks after a change is not
// answered by a lookup that began before it, whichever ends first.
func TestNobodyJoinsAQuestionFromBeforeAChange(t *testing.T) {
	t.Parallel()
	with, without := keptLists(t, "ann", "bob"), keptLists(t, "ann")
	synctest.Test(t, func(t *testing.T) {
		source := &copied{Searcher: slowly{with, time.Second}}
		cfg := kept()
		cfg.BaseDN = "dc=x"
		d, err := directory.New(cfg, source, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		early := make(chan struct{})
		go func() {
			defer close(early)
			_, _ = d.AccountNamed(t.Context(), "bob")
		}()
		synctest.Wait()
		source.Searcher = without
		source.generation.Add(1)
		for _, when := range []string{"while the old one goes on", "after it"} {
			if _, err := d.AccountNamed(t.Context(), "bob"); status.Of(err) != status.NoSuchUser {
				t.Errorf("%s: %v", when, err)
			}
			<-early
		}
	})
}

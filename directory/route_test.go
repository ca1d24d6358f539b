package directory_test

import (
	"context"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// TestRoutes: where the directory says mail for an account goes.
func TestRoutes(t *testing.T) {
	t.Parallel()
	content := person("a", "mail: a@x.example", "mailHost: One.example") +
		person("b", "mail: b@x.example", "mailHost: two.example") +
		person("c", "mail: c@x.example") +
		person("d", "mail: d@x.example", "mailHost: two.example", "mailTransport: lmtp:unix:/run/lmtp") +
		person("e", "mail: e@x.example", "mailTransport: cell2") +
		person("f", "mail: f@x.example", "mailTransport: :[192.0.2.1]:24") +
		person("g", "mail: g@x.example", "mailHost: here.example")
	hosts := map[string]string{"one.example": "cell1", "here.example": ""}
	for mode, unknown := range map[string]mail.Route{
		"":        {},
		"domain":  {},
		"connect": {NextHop: "two.example"},
		"defer":   {Transport: "host two.example"},
	} {
		cfg := directory.Config{Hosts: hosts, UnknownHost: mode, Mapping: directory.Mapping{TransportAttribute: "mailTransport"}}
		d := open(t, cfg, tree(t, content))
		for address, want := range map[string]mail.Route{
			"a@x.example": {Transport: "cell1"},
			"b@x.example": unknown,
			"c@x.example": {},
			"d@x.example": {Transport: "lmtp", NextHop: "unix:/run/lmtp"},
			"e@x.example": {Transport: "cell2"},
			"f@x.example": {NextHop: "[192.0.2.1]:24"},
			"g@x.example": {},
		} {
			got, err := d.Resolve(t.Context(), mail.MustAddress(address))
			if err != nil || len(got) != 1 || got[0].Route != want {
				t.Errorf("%q: Resolve(%s) = %+v, %v; want %+v", mode, address, got, err, want)
			}
		}
	}
}

// TestHomes: recipients that are accounts know where they are at home, where
// anybody asks; others never do.
func TestHomes(t *testing.T) {
	t.Parallel()
	content := person("kim", "mail: kim@x.example") + person("pat", "mail: pat@x.example") +
		person("lee", "mail: lee@x.example", "mailHost: Two.example") +
		person("gone", "mail: gone@x.example", "mailHost: three.example")
	for _, homes := range []map[string]mail.Home{nil, {"two.example": "two.example"}} {
		d := open(t, directory.Config{Homes: homes}, tree(t, content))
		for address, want := range map[string]mail.Home{
			"kim@x.example": "0", "pat@x.example": "1", "lee@x.example": "two.example",
			"gone@x.example": mail.HomeOf(mail.Account{Name: "gone"}.HomeClass()),
		} {
			if homes == nil {
				want = ""
			}
			got, err := d.Resolve(t.Context(), mail.MustAddress(address))
			if err != nil || len(got) != 1 || got[0].Home != want {
				t.Errorf("Resolve(%s) = %+v, %v; want it at home on %q", address, got, err, want)
			}
		}
	}
}

// TestUnknownHostMode: a word that means nothing is refused.
func TestUnknownHostMode(t *testing.T) {
	t.Parallel()
	if _, err := directory.New(directory.Config{BaseDN: "dc=x", UnknownHost: "bounce"}, directory.NoEntries{}, nil); err == nil {
		t.Error("accepted")
	}
}

// mortal is a searcher that can die.
type mortal struct {
	directory.Searcher
	dead bool
}

func (m *mortal) Search(ctx context.Context, r directory.Request) ([]directory.Entry, error) {
	if m.dead {
		return nil, status.Errorf(status.DirectoryDown, "dead")
	}
	return m.Searcher.Search(ctx, r)
}

// TestAccountOfAfterResolve: when the directory dies between the question who
// gets mail for an address and the one whose mailbox that is, the second has
// its answer from the first.
func TestAccountOfAfterResolve(t *testing.T) {
	t.Parallel()
	s := &mortal{Searcher: tree(t, person("a", "mail: a@x.example", "mail: alias@x.example")+person("b", "mail: b@x.example"))}
	d := open(t, directory.Config{}, s)
	got, err := d.Resolve(t.Context(), mail.MustAddress("alias+lists@x.example"))
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	s.dead = true
	if account, err := d.AccountOf(t.Context(), got[0].Address); err != nil || account.Name != "a" {
		t.Errorf("AccountOf(%s) = %+v, %v", got[0].Address, account, err)
	}
	if _, err := d.AccountOf(t.Context(), mail.MustAddress("b@x.example")); status.Of(err) != status.DirectoryDown {
		t.Errorf("somebody nobody asked about: %v", err)
	}
}

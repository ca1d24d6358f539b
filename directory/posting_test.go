package directory_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// lists is a directory of groups that not everybody may send to.
const listBase = "dn: ou=lists,dc=x\nobjectClass: organizationalUnit\nou: lists\n\n"

func list(cn string, more ...string) string {
	return "dn: cn=" + cn + ",ou=lists,dc=x\nobjectClass: groupOfNames\ncn: " + cn + "\nmail: " + cn + "@x.example\n" + strings.Join(more, "\n") + "\n\n"
}

func dnOf(uid string) string { return "uid=" + uid + ",ou=people,dc=x" }

func lists(t *testing.T) *directory.Directory {
	t.Helper()
	content := listBase
	for _, uid := range []string{"ann", "bob", "cem", "dora"} {
		content += person(uid, "mail: "+uid+"@x.example")
	}
	content += list("open", "member: "+dnOf("ann"), "member: "+dnOf("bob")) +
		list("team", "businessCategory: members", "member: "+dnOf("ann"), "member: "+dnOf("bob"), "mgrpRFC822MailMember: guest@partner.example") +
		list("staff", "businessCategory: login", "member: "+dnOf("ann"), "member: "+dnOf("bob")) +
		list("news", "member: "+dnOf("bob"), "mgrpAllowedBroadcaster: mailto:press%40agency.example",
			"mgrpAllowedBroadcaster: "+dnOf("ann"), "mgrpAllowedDomain: partner.example", "mgrpDenied: bob@x.example") +
		list("board", "member: "+dnOf("ann"), "member: "+dnOf("bob"), "mgrpModerator: "+dnOf("cem"), "mgrpModerator: mailto:dora@x.example") +
		list("lost", "member: "+dnOf("ann"), "mgrpModerator: uid=gone,ou=people,dc=x") +
		list("writers", "mgrpAllowedBroadcaster: cn=open,ou=lists,dc=x", "member: "+dnOf("cem")) +
		list("wide", "member: "+dnOf("dora"), "member: cn=team,ou=lists,dc=x") +
		list("roof", "businessCategory: members", "member: "+dnOf("dora"), "member: cn=board,ou=lists,dc=x") +
		list("porch", "member: "+dnOf("ann"), "member: cn=board,ou=lists,dc=x")
	return open(t, directory.Config{
		Name: "x", Domains: []mail.Domain{"x.example"},
		Mapping: directory.Mapping{
			MembersOnlyFilter: "(businessCategory=members)", LoginOnlyFilter: "(businessCategory=login)",
			PosterAttributes: []string{"mgrpAllowedBroadcaster"}, PosterDomainAttributes: []string{"mgrpAllowedDomain"},
			DeniedPosterAttributes: []string{"mgrpDenied"}, ModeratorAttributes: []string{"mgrpModerator"},
		},
	}, tree(t, content))
}

// from is a sender: a reverse-path, "login" of the directory that must have
// proved itself, or both; a leading "!" trusts the client.
func from(text string) mail.Poster {
	var p mail.Poster
	text, p.Trusted = strings.TrimPrefix(text, "!"), strings.HasPrefix(text, "!")
	for _, part := range strings.Fields(text) {
		if strings.Contains(part, "@") {
			p.Address = mail.MustAddress(part)
		} else {
			p.Identity = &mail.Identity{Authentication: part, Authorization: part, Source: "x"}
		}
	}
	return p
}

func TestWhoMaySendToGroups(t *testing.T) {
	t.Parallel()
	d := lists(t)
	const members, moderators = "ann@x.example bob@x.example", "cem@x.example dora@x.example"
	for _, c := range []struct{ list, sender, want string }{
		{"open", "stranger@far.example", members},

		{"team", "ann ann@x.example", members + " guest@partner.example"},
		{"team", "ann", members + " guest@partner.example"},
		{"team", "cem cem@x.example", "GroupRestricted"},
		{"team", "ann@x.example", "GroupRestricted"}, // anybody can write that
		{"team", "!ann@x.example", members + " guest@partner.example"},
		{"team", "!cem@x.example", "GroupRestricted"},
		{"team", "cem ann@x.example", "GroupRestricted"},
		{"team", "GUEST@partner.example", members + " guest@partner.example"},
		{"team", "other@partner.example", "GroupRestricted"},
		{"team", "", "GroupRestricted"}, // a report

		{"staff", "cem cem@x.example", members},
		{"staff", "stranger@far.example", "GroupRestricted"},

		{"news", "ann", "bob@x.example"},
		{"news", "press@agency.example", "bob@x.example"},
		{"news", "anybody@partner.example", "bob@x.example"},
		{"news", "bob", "GroupRestricted"},
		{"news", "cem", "GroupRestricted"},
		{"news", "stranger@far.example", "GroupRestricted"},

		{"board", "cem", members},
		{"board", "dora", members},
		{"board", "ann", moderators},
		{"board", "stranger@far.example", moderators},
		{"board", "cem@x.example", moderators}, // forged
		{"lost", "ann", "ConfigurationError"},

		{"writers", "bob", "cem@x.example"}, // a member of the group that may
		{"writers", "dora", "GroupRestricted"},

		// A group that anybody may send to lets nobody into one that is kept.
		{"wide", "stranger@far.example", "GroupRestricted"},
		{"wide", "bob", "ann@x.example bob@x.example dora@x.example guest@partner.example"},
		// One that is kept speaks for those in it.
		{"roof", "dora", "ann@x.example bob@x.example dora@x.example"},
		{"roof", "cem", "GroupRestricted"},
		{"porch", "stranger@far.example", "ann@x.example " + moderators},
	} {
		got, err := d.ResolveFor(t.Context(), mail.MustAddress(c.list+"@x.example"), from(c.sender))
		var names []string
		for _, r := range got {
			names = append(names, r.Address.String())
		}
		slices.Sort(names)
		text := strings.Join(names, " ")
		if err != nil {
			text = status.Of(err).String()
		}
		if text != c.want {
			t.Errorf("%s from %q: %s; want %s (%v)", c.list, c.sender, text, c.want, err)
		}
	}
	if got := resolved(t, d, "team@x.example"); got != members+" guest@partner.example" {
		t.Errorf("team for anybody: %s", got)
	}
}

// An account of another directory is a stranger, whatever its name.
func TestNamesOfOtherDirectoriesMayNotSend(t *testing.T) {
	t.Parallel()
	d := lists(t)
	other := mail.Poster{Identity: &mail.Identity{Authentication: "ann", Source: "y"}}
	if _, err := d.ResolveFor(t.Context(), mail.MustAddress("team@x.example"), other); status.Of(err) != status.GroupRestricted {
		t.Errorf("ann of another directory: %v", err)
	}
	unnamed := mail.Poster{Identity: &mail.Identity{Authentication: "ann@x.example"}}
	if _, err := d.ResolveFor(t.Context(), mail.MustAddress("team@x.example"), unnamed); err != nil {
		t.Errorf("ann by her address, from a verifier without a directory: %v", err)
	}
}

// While the directory is down it is not known who may send.
func TestOutageRefusesNoSender(t *testing.T) {
	t.Parallel()
	f := &failing{after: 100, err: errors.New("gone"), Searcher: tree(t, listBase+person("ann", "mail: ann@x.example")+
		list("team", "businessCategory: members", "member: "+dnOf("ann")))}
	d := open(t, directory.Config{Name: "x", Domains: []mail.Domain{"x.example"},
		Mapping: directory.Mapping{MembersOnlyFilter: "(businessCategory=members)"}}, f)
	to := mail.MustAddress("team@x.example")
	if _, err := d.Resolve(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	f.after = 0
	if _, err := d.ResolveFor(t.Context(), to, from("cem")); status.Of(err) != status.DirectoryDown {
		t.Errorf("a stranger while the directory is down: %v", err)
	}
}

func TestExplainTellsWhoMaySend(t *testing.T) {
	t.Parallel()
	d := lists(t)
	x, err := d.Explain(t.Context(), "team@x.example")
	if err != nil || !strings.Contains(x.String(), "depends on the sender") {
		t.Errorf("for anybody: %v\n%s", err, x)
	}
	who := from("cem")
	x, err = d.ExplainFor(t.Context(), "team@x.example", &who)
	if err != nil || x.Reason != status.GroupRestricted || !strings.Contains(x.String(), "may not send to this group") {
		t.Errorf("for cem: %v\n%s", err, x)
	}
}

// TestBelongs: membership counts through groups in groups, whatever the group
// lets who send to it, and only of those who proved who they are.
func TestBelongs(t *testing.T) {
	t.Parallel()
	d := lists(t)
	for _, tt := range []struct {
		who, group string
		want       bool
	}{
		{"ann", "open", true},
		{"cem", "open", false},
		{"ann@x.example", "open", false}, // anybody can write that
		{"!ann@x.example", "open", true},
		{"guest@partner.example", "team", true},
		{"dora", "roof", true},
		{"ann", "roof", true}, // by way of the board, which is moderated
		{"cem", "roof", false},
		{"ann", "ann", true},
		{"", "open", false},
	} {
		got, err := d.Belongs(t.Context(), from(tt.who), mail.MustAddress(tt.group+"@x.example"))
		if err != nil || got != tt.want {
			t.Errorf("%q in %s: %t, %v", tt.who, tt.group, got, err)
		}
	}
	for _, group := range []string{"nobody@x.example", "open@elsewhere.example"} {
		if _, err := d.Belongs(t.Context(), from("ann"), mail.MustAddress(group)); status.Of(err) != status.NoSuchUser {
			t.Errorf("%s: %v", group, err)
		}
	}
}

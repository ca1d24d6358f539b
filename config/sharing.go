package config

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
)

// Sharing says where mailboxes that are not one's own lie.
type Sharing struct {
	block
	Others         string             `conf:"others" doc:"The name above other people's mailboxes, such as \"Other Users\". Empty: people share nothing with each other."`
	GroupAttribute string             `conf:"group_attribute" doc:"Attribute of the directory, one of policy_attributes, with the names of the groups somebody belongs to, which SETACL names as $NAME. Empty: no groups."`
	Seen           string             `conf:"seen" default:"own" oneof:"own shared" doc:"Who has read what in mailboxes of others and public ones. own: everybody for themselves; shared: what one reads is read for all."`
	Public         []*PublicNamespace `conf:"public,block" example:"public \"Shared\" { account = \"shared\" }" doc:"Mailboxes that belong to nobody. Label: the name above them."`
}

// PublicNamespace is an account that belongs to nobody.
type PublicNamespace struct {
	block
	Name string `conf:"name,label"`

	Account  string   `conf:"account" required:"the account that holds its mailboxes, such as \"shared\"" doc:"The account that holds the mailboxes. It is made when it is first used; nobody has to be able to log in to it."`
	Quota    Octets   `conf:"quota" default:"0" doc:"What it may hold. 0: any amount."`
	Messages int      `conf:"quota_messages" default:"0" doc:"How many messages it may hold. 0: any number."`
	Grants   []*Grant `conf:"grant,block" example:"grant \"anyone\" { rights = \"lrs\" }" doc:"Who may do what, where a mailbox's own list says nothing about them. Label: a login, anyone, or $GROUP."`
}

// Grant is what somebody may do.
type Grant struct {
	block
	Identifier string `conf:"identifier,label"`
	Rights     string `conf:"rights" required:"letters of RFC 4314, such as \"lrs\"" doc:"Rights by the letters of RFC 4314: l see, r read, s mark as read, w other flags, i add, p post, k create below, x delete, t mark as deleted, e expunge, a administer. Those with a keep it in every mailbox."`
}

// Room returns the namespaces of others; s may be nil.
func (s *Sharing) Room() imapd.Sharing {
	if s == nil {
		return imapd.Sharing{}
	}
	room := imapd.Sharing{Others: s.Others, GroupAttribute: s.GroupAttribute, SeenShared: s.Seen == "shared"}
	for _, p := range s.Public {
		public := imapd.Public{Name: p.Name, Account: p.Account, QuotaOctets: int64(p.Quota), QuotaMessages: int64(p.Messages)}
		for _, g := range p.Grants {
			rights, _ := acl.Parse(g.Rights) // was checked
			public.Access = append(public.Access, acl.Grant{Identifier: g.Identifier, Rights: rights})
		}
		room.Public = append(room.Public, public)
	}
	return room
}

func (c checker) sharing(s *Sharing) {
	if s == nil {
		return
	}
	if s.Others == "" && len(s.Public) == 0 {
		c.errorf(s.at, "Nothing to share", `A sharing block needs others = "Other Users", public blocks, or both.`)
	}
	if a := s.GroupAttribute; a != "" && !slices.ContainsFunc(c.file.Directories, func(d *Directory) bool {
		return slices.ContainsFunc(d.PolicyAttrs, func(name string) bool { return strings.EqualFold(name, a) })
	}) {
		c.errorf(s.rangeOf("group_attribute"), "Unknown attribute", "No directory tells of %q: name it in policy_attributes of the directory.", a)
	}
	for _, p := range s.Public {
		if p.Messages < 0 {
			c.errorf(p.rangeOf("quota_messages"), "Wrong value", "quota_messages is %d; write a number above 0, or 0 for any number.", p.Messages)
		}
		seen := make(map[string]bool)
		for _, g := range p.Grants {
			if acl.Check(g.Identifier) != nil {
				c.errorf(g.at, "Wrong name", "%q is no login, group or anyone.", g.Identifier)
			}
			if seen[g.Identifier] {
				c.errorf(g.at, "Repeated name", "%q has two grant blocks.", g.Identifier)
			}
			seen[g.Identifier] = true
			if _, err := acl.Parse(g.Rights); err != nil {
				c.errorf(g.rangeOf("rights"), "Wrong value", "%q has a letter that is none of lrswipkxtea.", g.Rights)
			}
		}
	}
	room := s.Room()
	if err := room.Check(); err != nil {
		c.errorf(s.at, "Namespaces do not fit", "%s.", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// summary is what both servers of a pair should have alike.
func (s *Sharing) summary() string {
	if s == nil {
		return ""
	}
	words := []string{s.Others}
	for _, p := range s.Public {
		word := p.Name + "=" + p.Account
		for _, g := range p.Grants {
			word += "," + g.Identifier + ":" + g.Rights
		}
		words = append(words, word)
	}
	if s.Seen == "shared" {
		words = append(words, "seen=shared")
	}
	return strings.Join(words, " ")
}

// publicAccess is what the configuration grants in each public account.
func (b *Backend) publicAccess() map[string]acl.List {
	access := make(map[string]acl.List)
	for _, p := range b.sharing().Public {
		access[p.Account] = p.Access
	}
	return access
}

// Limited returns an account of the directory with the limits that hold for it:
// those of a public one are written with it, however it is reached.
func (b *Backend) Limited(account mail.Account) mail.Account {
	for _, p := range b.sharing().Public {
		if p.Account == account.Name {
			account.QuotaOctets, account.QuotaMessages = p.QuotaOctets, p.QuotaMessages
		}
	}
	return account
}

// separator and sharing are nil-safe, as proxies is.
func (b *Backend) separator() string {
	if b == nil {
		return ""
	}
	return b.Separator
}

func (b *Backend) sharing() imapd.Sharing {
	if b == nil {
		return imapd.Sharing{}
	}
	return b.Sharing.Room()
}

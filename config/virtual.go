package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
)

// VirtualMailbox is a mailbox of every account that shows messages of others.
type VirtualMailbox struct {
	block
	Name       string   `conf:"name,label"`
	SpecialUse string   `conf:"special_use" oneof:"all flagged none" default:"none" doc:"Its role (RFC 6154): all messages, or those that are flagged."`
	Exclude    []string `conf:"exclude" doc:"Mailboxes whose messages are not shown, with all below them."`
	Search     string   `conf:"search" doc:"Which messages are shown: an IMAP search program about flags, keywords, size, INTERNALDATE and SAVEDATE, such as FLAGGED or \"UNSEEN LARGER 1000000\". Empty: all; with special_use = \"flagged\": FLAGGED."`
}

// virtualUses are the values of special_use.
var virtualUses = map[string]imap.MailboxAttr{"none": "", "all": imap.MailboxAttrAll, "flagged": imap.MailboxAttrFlagged}

// program is the search program, with its default.
func (v *VirtualMailbox) program() string {
	if v.Search == "" && v.SpecialUse == "flagged" {
		return "FLAGGED"
	}
	return v.Search
}

// room returns what is shown there. The program was checked.
func (v *VirtualMailbox) room() *mailstore.VirtualMailbox {
	match, _ := imapd.VirtualProgram(v.program())
	return &mailstore.VirtualMailbox{Name: v.Name, SpecialUse: virtualUses[v.SpecialUse], Exclude: v.Exclude, Match: match}
}

// virtual is nil-safe, as sharing is.
func (b *Backend) virtual() []*mailstore.VirtualMailbox {
	if b == nil {
		return nil
	}
	var list []*mailstore.VirtualMailbox
	for _, v := range b.Virtual {
		list = append(list, v.room())
	}
	return list
}

// virtuals checks them, and that no name means two mailboxes.
func (c checker) virtuals(b *Backend) {
	uses := make(map[string]bool)
	var roles mailstore.Config
	for _, m := range b.Mailboxes {
		roles.Mailboxes = append(roles.Mailboxes, m.room())
	}
	for i, v := range b.Virtual {
		if _, err := imapd.VirtualProgram(v.program()); err != nil {
			c.errorf(v.rangeOf("search"), "Wrong search program", "%q: %s.", v.Search, err)
		}
		for _, name := range v.Exclude {
			if name == "" || strings.HasSuffix(name, "/") {
				c.errorf(v.rangeOf("exclude"), "Wrong name", "%q is no mailbox: write a name such as Trash, with / between levels.", name)
			}
		}
		if slices.ContainsFunc(mailstore.Configured(roles), func(m mailstore.ConfiguredMailbox) bool { return m.Name == v.Name }) {
			c.errorf(v.at, "Name in use", "%q is a mailbox that accounts have: a virtual one of that name would hide it.", v.Name)
		}
		if slices.ContainsFunc(b.Virtual[:i], func(o *VirtualMailbox) bool { return o.Name == v.Name }) {
			c.errorf(v.at, "Repeated name", "There are two virtual mailboxes %q.", v.Name)
		}
		if v.SpecialUse != "none" && uses[v.SpecialUse] {
			c.errorf(v.rangeOf("special_use"), "Repeated role", "Another virtual mailbox has special_use = %q: clients expect one.", v.SpecialUse)
		}
		uses[v.SpecialUse] = true
		if err := imapd.CheckVirtualName(v.Name, b.sharing()); err != nil {
			c.errorf(v.at, "Wrong name", "%s.", err)
		}
	}
}

// summary is what both servers of a pair should have alike.
func (v *VirtualMailbox) summary() string {
	return fmt.Sprintf("%s=%s,%s,%s", v.Name, v.SpecialUse, strings.Join(v.Exclude, ","), v.program())
}

package config

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/limits"
)

// Quota is how much some people may send.
type Quota struct {
	block
	Name string `conf:"name,label"`

	Attribute      string   `conf:"attribute" doc:"Attribute of the directory, one of policy_attributes, that says whose quota it is, such as employeeType or memberOf. Empty: everybody's."`
	Values         []string `conf:"values" doc:"Values of it, one of which an account must have. None: any."`
	Groups         []string `conf:"groups" doc:"Addresses of groups of the directory, whose members, directly or through groups in them, it is the quota of. With attribute, too, an account needs both."`
	Except         []string `conf:"except" doc:"Logins it does not apply to."`
	MessagesHour   int      `conf:"messages_per_hour" default:"0" doc:"Messages accepted within an hour. 0, here and below: any number."`
	MessagesDay    int      `conf:"messages_per_day" default:"0" doc:"Messages within a day."`
	RecipientsHour int      `conf:"recipients_per_hour" default:"0" doc:"Recipients of messages that were accepted within an hour."`
	RecipientsDay  int      `conf:"recipients_per_day" default:"0" doc:"Recipients within a day."`
	DayAttribute   string   `conf:"recipients_per_day_attribute" doc:"Attribute, one of policy_attributes, whose value is an account's own recipients_per_day."`
	OverQuota      string   `conf:"over_quota" default:"defer" oneof:"defer hold" doc:"What becomes of more. defer: it is put off with 450 4.7.1 and when to come back. hold: it is taken, and held in the queue until postern queue release."`
}

// Quotas returns how much people may send, in order.
func (f *File) Quotas() []limits.Quota {
	var all []limits.Quota
	for _, q := range f.Gateway.Quotas {
		room := limits.Quota{Name: q.Name, Attribute: q.Attribute, Values: q.Values, Except: q.Except, DayAttribute: q.DayAttribute, Hold: q.OverQuota == "hold"}
		room.Groups, _ = each("groups", q.Groups, mail.ParseAddress) // was checked
		room.Most[limits.MessagesHour], room.Most[limits.MessagesDay] = int64(q.MessagesHour), int64(q.MessagesDay)
		room.Most[limits.RecipientsHour], room.Most[limits.RecipientsDay] = int64(q.RecipientsHour), int64(q.RecipientsDay)
		all = append(all, room)
	}
	return all
}

func (c checker) quotas(quotas []*Quota) {
	seen := make(map[string]bool)
	for _, q := range quotas {
		if seen[q.Name] {
			c.errorf(q.at, "Repeated name", "The quota %q is defined twice.", q.Name)
		}
		seen[q.Name] = true
		for name, n := range map[string]int{"messages_per_hour": q.MessagesHour, "messages_per_day": q.MessagesDay, "recipients_per_hour": q.RecipientsHour, "recipients_per_day": q.RecipientsDay} {
			if n < 0 {
				c.errorf(q.rangeOf(name), "Wrong value", "%s is %d; write a number above 0, or 0 for any number.", name, n)
			}
		}
		if q.MessagesHour+q.MessagesDay+q.RecipientsHour+q.RecipientsDay == 0 && q.DayAttribute == "" && q == quotas[len(quotas)-1] {
			c.errorf(q.at, "Missing setting", "The last quota bounds nothing; give it recipients_per_day, for one, or leave it out.")
		}
		if len(q.Values) > 0 && q.Attribute == "" {
			c.errorf(q.rangeOf("values"), "Missing setting", `values needs "attribute", the attribute of the directory that has them.`)
		}
		c.groups(&q.block, "groups", q.Groups)
		c.policyAttribute(q, "attribute", q.Attribute)
		c.policyAttribute(q, "recipients_per_day_attribute", q.DayAttribute)
	}
}

// policyAttribute checks that a directory is read for an attribute.
func (c checker) policyAttribute(q *Quota, setting, attribute string) {
	known := slices.ContainsFunc(c.file.Directories, func(d *Directory) bool {
		return slices.ContainsFunc(d.PolicyAttrs, func(a string) bool { return strings.EqualFold(a, attribute) })
	})
	if attribute != "" && !known {
		c.errorf(q.rangeOf(setting), "No such attribute", "No directory has %q among its policy_attributes, so nobody has it.", attribute)
	}
}

// groups checks that addresses are of domains whose groups a directory knows.
func (c checker) groups(b *block, setting string, groups []string) {
	for _, group := range groups {
		a, err := mail.ParseAddress(group)
		if err != nil {
			c.errorf(b.rangeOf(setting), "Wrong value", "%s: %v; write the address of a group, such as students@example.com.", setting, err)
			continue
		}
		known := slices.ContainsFunc(c.file.Gateway.Domains, func(d *Domains) bool {
			return d.Recipients != "" && slices.ContainsFunc(d.Names, func(n mail.Domain) bool { return strings.EqualFold(string(n), string(a.Domain)) })
		})
		if !known {
			c.errorf(b.rangeOf(setting), "No directory", "No directory knows the groups of %q: it is in no domain of ours that has one.", a.Domain)
		}
	}
}

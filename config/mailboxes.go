package config

import (
	"fmt"

	"github.com/postern-mail/postern/backend/mailstore"
)

// room returns what holds for one mailbox of every account.
func (m *MailboxRole) room() mailstore.ConfiguredMailbox {
	return mailstore.ConfiguredMailbox{
		Name: m.Name, SpecialUse: specialUses[m.SpecialUse], Autoexpunge: m.Autoexpunge, QuotaExtra: m.QuotaExtra,
		Always: m.Auto == "subscribe" || m.Auto == "create", OnDemand: m.Auto == "no", Unsubscribed: m.Auto == "create",
	}
}

// maxQuotaExtra bounds quota_extra: beyond, a limit is none.
const maxQuotaExtra = 1000

func (c checker) mailboxRoles(roles []*MailboxRole) {
	for _, m := range roles {
		if m.QuotaExtra < 0 || m.QuotaExtra > maxQuotaExtra {
			c.errorf(m.rangeOf("quota_extra"), "Wrong value", "quota_extra is %d; write a percentage from 0 to %d.", m.QuotaExtra, maxQuotaExtra)
		}
	}
}

// summary is what both servers of a pair should have alike.
func (m *MailboxRole) summary() string {
	s := m.Name + "=" + m.SpecialUse
	if m.Auto != "new" || m.Autoexpunge != 0 || m.QuotaExtra != 0 {
		s += fmt.Sprintf(",%s,%s,%d", m.Auto, m.Autoexpunge, m.QuotaExtra)
	}
	return s
}

package mailstore

import (
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// SetLimits changes what the account may hold, for all its handles.
func (a *Account) SetLimits(who mail.Account) { a.account.limit(who) }

// LimitsAge is how long ago the limits were set.
func (a *Account) LimitsAge() time.Duration {
	return a.account.store.cfg.Now().Sub(time.Unix(0, a.account.limitedAt.Load()))
}

// Quota returns the octets in use and the limit, 0 for none.
func (a *Account) Quota() (used, limit int64) {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	return a.account.head.octets, a.account.quota.Load()
}

// QuotaMessages returns the number of messages and its limit, 0 for none.
func (a *Account) QuotaMessages() (used, limit int64) {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	for _, b := range a.account.boxes {
		used += b.current().held()
	}
	return used, a.account.quotaMessages.Load()
}

// held is how many messages of v count for the quota.
func (v *view) held() int64 {
	if v.gone {
		return 0
	}
	return int64(v.messages) + int64(v.pending)
}

// CheckRoom says early whether so many octets in so many messages are too much
// for the account: MailboxFull. The commit asks again.
func (m *Mailbox) CheckRoom(octets int64, messages int) error {
	a := &Account{account: m.box.account}
	used, _ := a.Quota()
	count := int64(0)
	if a.account.quotaMessages.Load() > 0 {
		count, _ = a.QuotaMessages()
	}
	return a.account.fits(m.box.current().name, used+octets, count+int64(messages))
}

// limit sets what the account may hold.
func (a *account) limit(who mail.Account) {
	a.limitedAt.Store(a.store.cfg.Now().UnixNano())
	a.quota.Store(who.QuotaOctets)
	a.quotaMessages.Store(who.QuotaMessages)
}

// fits refuses what would take the account over a limit; mailbox is where the
// messages go.
func (a *account) fits(mailbox string, octets, messages int64) error {
	percent := 100 + int64(a.store.cfg.extra(mailbox))
	if limit := a.quota.Load(); limit > 0 && octets > part(limit, percent) {
		return status.Errorf(status.MailboxFull, "account %s would use %d of %d octets", a.name, octets, limit)
	}
	if limit := a.quotaMessages.Load(); limit > 0 && messages > part(limit, percent) {
		return status.Errorf(status.MailboxFull, "account %s would have %d of %d messages", a.name, messages, limit)
	}
	return nil
}

// part is so many percent of a limit.
func part(limit, percent int64) int64 { return limit/100*percent + limit%100*percent/100 }

// room refuses to put so many octets in so many messages more into a mailbox
// where that takes the account over a limit.
func (t *txn) room(b *box, octets, messages int64) error {
	a := t.account
	if a.quota.Load() <= 0 && a.quotaMessages.Load() <= 0 {
		return nil
	}
	count := int64(0)
	if a.quotaMessages.Load() > 0 {
		for _, other := range a.boxes {
			count += t.peek(other).held()
		}
	}
	return a.fits(t.peek(b).name, t.head.octets+octets, count+messages)
}

package limits

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Kind is what a quota counts, and in which time.
type Kind uint8

// The kinds.
const (
	MessagesHour Kind = iota
	MessagesDay
	RecipientsHour
	RecipientsDay

	kinds
)

var kindNames = [kinds]string{"messages in 1 hour", "messages in 1 day", "recipients in 1 hour", "recipients in 1 day"}

// String says what is counted, as it stands behind a number.
func (k Kind) String() string { return kindNames[k] }

func (k Kind) daily() bool { return k == MessagesDay || k == RecipientsDay }

// window is the time in which it is counted.
func (k Kind) window() time.Duration {
	if k.daily() {
		return 24 * time.Hour
	}
	return time.Hour
}

// recipients reports whether it is those that count, and not messages.
func (k Kind) recipients() bool { return k == RecipientsHour || k == RecipientsDay }

// Quota is how much each of some accounts may send.
type Quota struct {
	Name string
	// Attribute and Values tell whose it is: the accounts that have one of the
	// values, or any when there are none, in that attribute of the directory.
	// "" is everybody who is known.
	Attribute string
	Values    []string
	// Groups are addresses of groups; the quota is that of their members. With an
	// Attribute, too, an account needs both.
	Groups []mail.Address
	// Except are logins it does not apply to.
	Except []string
	// Most is how much may be sent; 0 is any number.
	Most [kinds]int64
	// DayAttribute is an attribute whose value, a number, stands in the place of
	// Most[RecipientsDay] for accounts that have one; "" is none.
	DayAttribute string
	// Hold takes mail beyond the quota and holds it, instead of refusing it.
	Hold bool
}

// QuotaCounters are totals that outlive the process. Implemented by
// policy/shared.
type QuotaCounters interface {
	Counters
	// Range calls each for the keys that begin with prefix.
	Range(prefix string, each func(key string, total int64) bool)
	// Forget drops what was counted under key.
	Forget(key string)
	// Wait is the time after which a key's total is at most most, if nothing
	// more is counted for it.
	Wait(key string, most int64) time.Duration
}

// Accounts tells what the directory knows of who logged in. A permanent error
// means that there is nobody, any other that it could not find out.
type Accounts interface {
	AccountOf(ctx context.Context, identity mail.Identity) (mail.Account, error)
}

// Groups tells who is in a group, directly or through groups in it.
type Groups interface {
	Belongs(ctx context.Context, who mail.Poster, group mail.Address) (bool, error)
}

// Notice tells that an account reached its quota, which it does once until a
// window has passed.
type Notice struct {
	Account, Quota string
	Kind           Kind
	Most           int64
}

// Ledger is what accounts sent. It lives as long as the process and is safe for
// concurrent use.
type Ledger struct {
	hour, day QuotaCounters
	notify    func(Notice)

	mu      sync.Mutex
	pending map[string]*pending // of accounts with a transaction under way
	told    *recent[string, time.Time]
	over    uint64
}

// pending is what transactions under way would add.
type pending struct{ messages, recipients int64 }

// NewLedger returns a ledger above counters of one hour and one day. notify is
// told of accounts that reach their quota, and must not block.
func NewLedger(hour, day QuotaCounters, notify func(Notice)) *Ledger {
	return &Ledger{hour: hour, day: day, notify: notify, pending: make(map[string]*pending), told: newRecent[string, time.Time](4096)}
}

// Over is how many recipients were refused or held for a quota, ever.
func (l *Ledger) Over() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// Allowance is what one transaction takes of a quota. It belongs to the
// transaction, which ends it with Settle. A nil one allows everything.
type Allowance struct {
	unknown    error // why it is not known whose quota counts
	quota      Quota
	key        string
	ledger     *Ledger
	recipients int64
	reserved   bool // the message itself
	held       bool
	ended      bool
}

// Take counts one recipient more, or returns a *status.Error with QuotaExceeded
// that says when to come back. Other errors are those of a directory that did
// not answer.
func (a *Allowance) Take() error {
	if a == nil || a.ended {
		return nil
	}
	if a.unknown != nil {
		return a.unknown
	}
	kind, wait, over := a.ledger.take(a)
	if !over {
		return nil
	}
	if a.quota.Hold {
		a.held = true
		return nil
	}
	err := status.Errorf(status.QuotaExceeded, "quota %s of %s: %d %s", a.quota.Name, a.key, a.quota.Most[kind], kind)
	err.Text = fmt.Sprintf("%s: %d %s; try again in %s", status.QuotaExceeded.Reply().Text, a.quota.Most[kind], kind, comeBack(wait))
	return err
}

// comeBack says a time as people do, and never one that is too short.
func comeBack(wait time.Duration) string {
	unit, name := time.Minute, "minute"
	if wait > 90*time.Minute {
		unit, name = time.Hour, "hour"
	}
	n := max(1, (wait+unit-1)/unit)
	if n > 1 {
		name += "s"
	}
	return fmt.Sprintf("%d %s", n, name)
}

// Return takes back the last Take that did not fail: its recipient was refused
// by somebody else.
func (a *Allowance) Return() {
	if a == nil || a.ended || a.recipients == 0 {
		return
	}
	a.recipients--
	a.ledger.mu.Lock()
	defer a.ledger.mu.Unlock()
	a.ledger.pending[a.key].recipients--
}

// Held reports whether the message goes beyond the quota and has to be held.
func (a *Allowance) Held() bool { return a != nil && a.held }

// Settle ends the transaction: what was taken counts when the message was
// accepted. More calls do nothing.
func (a *Allowance) Settle(accepted bool) {
	if a == nil || a.ended {
		return
	}
	a.ended = true
	if !a.reserved {
		return
	}
	if accepted && a.recipients > 0 {
		for _, c := range []QuotaCounters{a.ledger.hour, a.ledger.day} {
			c.Add(messagesKey(a.key), 1)
			c.Add(recipientsKey(a.key), a.recipients)
		}
	}
	a.ledger.release(a) // only now: what is counted nowhere could be sent twice
}

func messagesKey(account string) string   { return "m " + account }
func recipientsKey(account string) string { return "r " + account }

// counted says where a kind is counted for an account.
func (l *Ledger) counted(account string, k Kind) (counters QuotaCounters, key string) {
	counters, key = l.hour, messagesKey(account)
	if k.daily() {
		counters = l.day
	}
	if k.recipients() {
		key = recipientsKey(account)
	}
	return counters, key
}

// sent is what an account sent of a kind.
func (l *Ledger) sent(account string, k Kind) int64 {
	counters, key := l.counted(account, k)
	return counters.Total(key)
}

// wait is when an account may send something more of a kind, of which open is
// under way with it. What is under way counts from its end on.
func (l *Ledger) wait(account string, k Kind, open, most int64) time.Duration {
	if open > most {
		return k.window()
	}
	counters, key := l.counted(account, k)
	return counters.Wait(key, most-open)
}

// take reserves a recipient, and with the first one the message.
func (l *Ledger) take(a *Allowance) (kind Kind, wait time.Duration, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending[a.key]
	if p == nil {
		p = new(pending)
	}
	first := int64(0) // the message counts with its first recipient
	if !a.reserved {
		first = 1
	}
	for k, most := range a.quota.Most {
		open := p.messages + first
		if Kind(k).recipients() {
			open = p.recipients + 1
		}
		if most > 0 && l.sent(a.key, Kind(k))+open > most { // from memory
			l.over++
			l.tellLocked(a, Kind(k))
			kind, wait, over = Kind(k), l.wait(a.key, Kind(k), open, most), true
			break
		}
	}
	if over && !a.quota.Hold {
		return kind, wait, true
	}
	a.reserved = true
	p.messages += first
	p.recipients++
	a.recipients++
	l.pending[a.key] = p
	return kind, wait, over
}

// release gives back what a reserved.
func (l *Ledger) release(a *Allowance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending[a.key]
	p.messages--
	p.recipients -= a.recipients
	if p.messages == 0 {
		delete(l.pending, a.key)
	}
}

// tellLocked tells once in the quota's time that an account reached it: people
// seldom do, and stolen passwords always.
func (l *Ledger) tellLocked(a *Allowance, k Kind) {
	until := l.told.get(a.key)
	if until != nil && time.Now().Before(*until) {
		return
	}
	if until == nil {
		until, _ = l.told.add(a.key)
	}
	*until = time.Now().Add(k.window())
	l.notify(Notice{Account: a.key, Quota: a.quota.Name, Kind: k, Most: a.quota.Most[k]})
}

// Usage is what an account sent.
type Usage struct {
	Account string
	Sent    [kinds]int64
}

// Used lists the accounts that sent something within a day and whose name begins
// with prefix, at most limit.
func (l *Ledger) Used(prefix string, limit int) []Usage {
	var all []Usage
	l.day.Range(recipientsKey(prefix), func(key string, total int64) bool {
		if total > 0 {
			u := Usage{Account: strings.TrimPrefix(key, recipientsKey(""))}
			for k := range kinds {
				u.Sent[k] = l.sent(u.Account, k)
			}
			all = append(all, u)
		}
		return len(all) < limit
	})
	return all
}

// Reset lets an account begin anew, and reports whether it had sent anything.
func (l *Ledger) Reset(account string) bool {
	sent := l.sent(account, RecipientsDay) > 0
	for _, c := range []QuotaCounters{l.hour, l.day} {
		c.Forget(messagesKey(account))
		c.Forget(recipientsKey(account))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told.drop(account)
	return sent
}

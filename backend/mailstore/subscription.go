package mailstore

import (
	"context"

	"github.com/postern-mail/postern/store"
)

// subscription is the register of a subscription to a name without a mailbox.
// In a pair one that was ended is kept: it must beat a begin that the partner sends
// late.
type subscription struct {
	on bool
	at stamp
}

const subscriptionVersion = 2

// maxSubscriptionOctets bounds the names of subscriptions without a mailbox:
// the name is in the key.
const maxSubscriptionOctets = store.MaxKeyOctets - accountPrefixOctets - 1

func (s subscription) encode() []byte {
	return appendStamp([]byte{subscriptionVersion, boolByte(s.on)}, s.at)
}

func decodeSubscription(b []byte) (subscription, error) {
	d := decoder{b: b}
	if d.versions(subscriptionVersion) < 2 {
		return subscription{on: true}, d.end("subscription")
	}
	s := subscription{on: d.byte() != 0, at: d.stamp()}
	return s, d.end("subscription")
}

func subscriptionKey(account GUID, name string) []byte {
	return append(accountKey(account, kindSubscription), name...)
}

// isFull reports whether there may be no more names, those with a mailbox and
// those without: the one becomes the other when a mailbox is deleted.
func (a *account) isFull() bool {
	return len(a.names)+a.subscribedNames() >= a.store.cfg.MaxMailboxes+a.store.cfg.MaxSubscriptions
}

// subscribedNames counts the names in subscriptions that are on.
func (a *account) subscribedNames() int {
	n := 0
	for _, s := range a.subscriptions {
		if s.on {
			n++
		}
	}
	return n
}

// Subscribe sets or clears the subscription to a name, which need not have a
// mailbox. ErrBadName, ErrTooMany.
func (a *Account) Subscribe(ctx context.Context, name string, on bool) error {
	acct := a.account
	cfg := &acct.store.cfg
	name, err := cfg.normalize(name)
	if err != nil {
		return err
	}
	return acct.changeDurably(ctx, func(t *txn) error {
		b := acct.names[name]
		if b != nil && t.peek(b).subscribed != on {
			t.subscribeBox(b, on)
		}
		if acct.subscriptions[name].on == on || b != nil && on {
			return nil
		}
		// Ended ones are kept, and must not pile up either.
		if on && (acct.subscribedNames() >= cfg.MaxSubscriptions || acct.isFull() || len(acct.subscriptions) >= 2*(cfg.MaxMailboxes+cfg.MaxSubscriptions)) {
			return ErrTooManySubscriptions
		}
		t.adds = t.adds || on
		t.subscribeName(name, on)
		return nil
	})
}

// subscribeBox is a subscription to a mailbox: it stays when that is renamed.
func (t *txn) subscribeBox(b *box, on bool) {
	v := t.draft(b)
	v.subscribed, v.subscribing, v.dirty = on, t.stamp(), true
	t.registersChanged()
	t.log(&JournalOp{Code: OpSubscribe, Mailbox: b.guid, Name: v.name, Subscribed: on})
}

// subscribeName is one to a name without a mailbox.
func (t *txn) subscribeName(name string, on bool) {
	if len(name) > maxSubscriptionOctets {
		return
	}
	if on || t.account.link != nil {
		t.setSubscription(name, subscription{on: on, at: t.stamp()})
	} else {
		t.dropSubscription(name)
	}
	t.log(&JournalOp{Code: OpSubscribe, Name: name, Subscribed: on})
}

func (t *txn) setSubscription(name string, s subscription) {
	a := t.account
	t.batch.Put(subscriptionKey(a.id, name), s.encode())
	t.subscribe(name, s)
	t.after = append(t.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.subscriptions[name] = s
	})
	t.registersChanged()
}

// applySubscribe is the partner's change of a subscription; the later wins.
func (t *txn) applySubscribe(op *JournalOp, r *remote, dot Dot) error {
	at := stamp{r.HLC, dot}
	if op.Mailbox != (GUID{}) {
		if b := t.box(op.Mailbox); b != nil && at.compare(t.peek(b).subscribing) > 0 {
			v := t.draft(b)
			v.subscribed, v.subscribing, v.dirty = op.Subscribed, at, true
			t.registersChanged()
		}
		return nil
	}
	t.joinSubscription(op.Name, subscription{on: op.Subscribed, at: at})
	return nil
}

// joinSubscription puts the later of two registers in.
func (t *txn) joinSubscription(name string, s subscription) {
	if len(name) <= maxSubscriptionOctets && s.at.compare(t.subscription(name).at) > 0 {
		t.setSubscription(name, s)
	}
}

// subscription is the register of a name in this commit.
func (t *txn) subscription(name string) subscription {
	if s, ok := t.subscriptions[name]; ok {
		return s
	}
	return t.account.subscriptions[name]
}

// subscribe notes the register of a name in this commit.
func (t *txn) subscribe(name string, s subscription) {
	if t.subscriptions == nil {
		t.subscriptions = make(map[string]subscription)
	}
	before, was := t.subscriptions[name]
	t.subscriptions[name] = s
	t.undo = append(t.undo, func() {
		if was {
			t.subscriptions[name] = before
		} else {
			delete(t.subscriptions, name)
		}
	})
}

// IsSubscribed reports whether a name, with or without a mailbox, is subscribed.
func (a *Account) IsSubscribed(name string) bool {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	return a.account.isSubscribed(name)
}

// Subscribed lists the subscribed names, in no order.
func (a *Account) Subscribed() []string {
	a.account.mu.RLock()
	defer a.account.mu.RUnlock()
	var names []string
	for name, b := range a.account.names {
		if b.current().subscribed {
			names = append(names, name)
		}
	}
	for name, s := range a.account.subscriptions {
		if b := a.account.names[name]; s.on && (b == nil || !b.current().subscribed) {
			names = append(names, name)
		}
	}
	return names
}

package imapd

import (
	"strings"
	"testing"
)

// FuzzNotify reads what anybody may send behind NOTIFY: it is understood or
// refused, and what is understood keeps the rules and the bounds.
func FuzzNotify(f *testing.F) {
	for _, s := range []string{
		" NONE",
		" SET (selected (MessageNew (uid body.peek[header.fields (from to subject)]) MessageExpunge)) (subtree Lists (MessageNew MessageExpunge))",
		" SET STATUS (selected-delayed (MessageNew MessageExpunge FlagChange AnnotationChange)) (mailboxes (INBOX \"a b\") (MailboxName))",
		" set (Personal (SubscriptionChange MailboxMetadataChange ServerMetadataChange)) (inboxes NONE) (subscribed (Surprise))",
		" SET (mailboxes {3}\r\nabc (MailboxName)) ",
		" SET (subtree () (MailboxName))",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseNotify(&parser{b: []byte(text)})
		if err != nil {
			return
		}
		names := 0
		check := func(e event) {
			if e.has(eventMessageNew) != e.has(eventMessageExpunge) || e.has(eventFlagChange|eventAnnotationChange) && !e.has(eventMessageNew) {
				t.Errorf("%q: %s", text, e.names())
			}
			if !a.unknown && e&^supportedEvents != 0 {
				t.Errorf("%q: %s is supported", text, e.names())
			}
		}
		check(a.selected)
		for _, g := range a.groups {
			check(g.events)
			names += len(g.names)
		}
		if a.selected&^messageEvents != 0 || len(a.fetch.items) > 0 && !a.selected.has(eventMessageNew) {
			t.Errorf("%q: the selected mailbox has %s and %d items", text, a.selected.names(), len(a.fetch.items))
		}
		if names > maxNotifyNames || len(a.groups) > maxNotifyGroups || len(a.fetch.items) > maxFetchItems {
			t.Errorf("%d names in %d groups, %d items", names, len(a.groups), len(a.fetch.items))
		}
		if a.none && !strings.HasPrefix(strings.ToUpper(text), " NONE") {
			t.Errorf("%q is NONE", text)
		}
	})
}

package mailstore

import (
	"slices"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
)

func mailboxNames(t testing.TB, a *Account) (names []string) {
	t.Helper()
	list, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		name := m.Name
		if m.SpecialUse != "" {
			name += " " + string(m.SpecialUse)
		}
		if !m.Subscribed {
			name += " unsubscribed"
		}
		if m.Exists {
			names = append(names, name)
		}
	}
	return names
}

// TestRulesReachExistingAccounts: what a new configuration adds is made when an
// account is opened next, what it takes away stays, and a deleted mailbox that
// every account is to have comes back.
func TestRulesReachExistingAccounts(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	before := openOn(t, Config{Mailboxes: []ConfiguredMailbox{{Name: "Old"}}}, kv, blobs)
	openAccount(t, before, "kim").Close()
	cfg := Config{Mailboxes: []ConfiguredMailbox{
		{Name: "Archive", SpecialUse: imap.MailboxAttrArchive, Always: true},
		{Name: "Quiet", Always: true, Unsubscribed: true},
		{Name: "New"},
		{Name: "Junk", SpecialUse: imap.MailboxAttrJunk, OnDemand: true},
	}}
	after := openOn(t, cfg, kv, blobs)
	kim := openAccount(t, after, "kim")
	if got := mailboxNames(t, kim); !slices.Equal(got, []string{`Archive \Archive`, "INBOX", "Old", "Quiet unsubscribed"}) {
		t.Errorf("an account of before: %q", got)
	}
	if got := mailboxNames(t, openAccount(t, after, "lee")); !slices.Equal(got, []string{`Archive \Archive`, "INBOX", "New", "Quiet unsubscribed"}) {
		t.Errorf("a new account: %q", got)
	}
	if _, err := kim.Create(t.Context(), "Junk", ""); err != nil {
		t.Fatal(err)
	}
	if err := kim.Delete(t.Context(), "Archive"); err != nil {
		t.Fatal(err)
	}
	if _, err := kim.Create(t.Context(), "Mine", imap.MailboxAttrArchive); err != nil {
		t.Fatal(err)
	}
	kim = openAccount(t, after, "kim")
	want := []string{"Archive", "INBOX", `Junk \Junk unsubscribed`, `Mine \Archive unsubscribed`, "Old", "Quiet unsubscribed"}
	if got := mailboxNames(t, kim); !slices.Equal(got, want) {
		t.Errorf("after changes of the client: %q", got)
	}
}

// TestAutoexpunge: what came too long ago goes, by the time it came into the
// mailbox, a bounded number at a time, and is told.
func TestAutoexpunge(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	told := make(map[string][]imap.UID)
	cfg := Config{
		Now:       func() time.Time { return now },
		Mailboxes: []ConfiguredMailbox{{Name: "Trash", Autoexpunge: 30 * 24 * time.Hour}, {Name: "Sent"}},
		Expunged: func(account, mailbox string, uids []imap.UID) {
			told[account+" "+mailbox] = append(told[account+" "+mailbox], uids...)
		},
	}
	s := openOn(t, cfg, kv, blobs)
	kim := openAccount(t, s, "kim")
	openAccount(t, s, "lee")
	trash, sent := openMailbox(t, kim, "Trash"), openMailbox(t, kim, "Sent")
	appendMessages(t, s, trash, 3)
	appendMessages(t, s, sent, 1)
	now = now.Add(20 * 24 * time.Hour)
	appendMessages(t, s, trash, 1)
	if _, err := sent.Copy(t.Context(), []imap.UID{1}, trash); err != nil {
		t.Fatal(err)
	}
	expunge := func(left int) {
		t.Helper()
		if err := s.Autoexpunge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := trash.View().Len(); got != left {
			t.Errorf("%d messages are left, want %d", got, left)
		}
	}
	expunge(5)
	now = now.Add(11 * 24 * time.Hour)
	expunge(2)
	now = now.Add(11 * 24 * time.Hour)
	expunge(2)
	now = now.Add(24 * 24 * time.Hour)
	expunge(0)
	if sent.View().Len() != 1 || len(told) != 1 || !slices.Equal(told["kim Trash"], []imap.UID{1, 2, 3, 4, 5}) {
		t.Errorf("told %v, %d in Sent", told, sent.View().Len())
	}
}

// TestRulesInAPair: both nodes make the same mailbox.
func TestRulesInAPair(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	p.calm()
	for n, s := range p.nodes {
		s.store.cfg.Mailboxes = []ConfiguredMailbox{{Name: "Archive", Always: true}}
		a, err := s.store.Account(t.Context(), mail.Account{Name: "kim"})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if _, err := a.Find("Archive"); err != nil {
			t.Errorf("node %d: %v", n, err)
		}
	}
	p.calm()
	for n, s := range p.nodes {
		if got := mailboxNames(t, s.account); !slices.Equal(got, []string{"Archive", "INBOX"}) {
			t.Errorf("node %d: %q", n, got)
		}
	}
}

// TestLimits: octets and messages are limited, in deliveries, too, and a
// mailbox may have more room.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Mailboxes: []ConfiguredMailbox{{Name: "Trash", QuotaExtra: 50}}})
	a := openAccount(t, s, "kim")
	a.SetLimits(mail.Account{QuotaMessages: 2})
	m, trash := openMailbox(t, a, "INBOX"), openMailbox(t, a, "Trash")
	uids := appendMessages(t, s, m, 2)
	if used, limit := a.QuotaMessages(); used != 2 || limit != 2 {
		t.Errorf("%d of %d messages", used, limit)
	}
	if err := m.CheckRoom(1, 1); err == nil {
		t.Error("there is room")
	}
	content := stage(t, s, message(3))
	defer content.Discard()
	if err := a.Deliver(t.Context(), []Delivery{{Content: content}})[0]; err == nil {
		t.Error("delivered over the limit")
	}
	if err := a.Deliver(t.Context(), []Delivery{{Content: content, Mailbox: "Trash"}})[0]; err != nil {
		t.Error(err)
	}
	if _, err := m.Copy(t.Context(), uids[:1], trash); err == nil {
		t.Error("copied over the limit")
	}
	if _, err := m.Move(t.Context(), uids, trash); err != nil {
		t.Errorf("moving takes no room: %v", err)
	}
	used, _ := a.Quota()
	a.SetLimits(mail.Account{QuotaOctets: used})
	if m.CheckRoom(1, 1) == nil || trash.CheckRoom(1, 1) != nil || trash.CheckRoom(used, 1) == nil {
		t.Error("octets are not limited, or the trash has no more room")
	}
}

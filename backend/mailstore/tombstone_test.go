package mailstore

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// kept counts what is stored of deleted mailboxes and ended subscriptions.
func kept(t *testing.T, s *Store, id GUID) (mailboxes, subscriptions int) {
	t.Helper()
	boxes, err := s.page(t.Context(), accountKey(id, kindMailbox), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range boxes {
		if r, err := decodeMailbox(pair.Value); err != nil {
			t.Fatal(err)
		} else if r.removed {
			mailboxes++
		}
	}
	names, err := s.page(t.Context(), accountKey(id, kindSubscription), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range names {
		if s, err := decodeSubscription(pair.Value); err != nil {
			t.Fatal(err)
		} else if !s.on {
			subscriptions++
		}
	}
	return mailboxes, subscriptions
}

// churn makes and deletes mailboxes, and begins and ends subscriptions.
func churn(t *testing.T, a *Account, n int) {
	t.Helper()
	ctx := context.Background()
	for i := range n {
		name := fmt.Sprint("churn ", i)
		if _, err := a.Create(ctx, name, ""); err != nil {
			t.Fatal(err)
		}
		if err := a.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
		for _, on := range []bool{true, false} {
			if err := a.Subscribe(ctx, name, on); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSweepBoundsTombstones: who makes and deletes mailboxes all day does not
// fill the account with what is left of them; what hangs below one keeps it.
func TestSweepBoundsTombstones(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	for _, name := range []string{"gone", "gone/below"} {
		if _, err := a.Create(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	churn(t, a, maxDeleted+20)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mailboxes, subscriptions := kept(t, s, a.GUID()); mailboxes != maxDeleted || subscriptions != 0 {
		t.Errorf("%d deleted mailboxes, %d ended subscriptions are kept", mailboxes, subscriptions)
	}
	if _, err := a.Status(t.Context(), "gone/below"); err != nil {
		t.Error(err)
	}
	churn(t, a, 3)
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSweepKeepsTombstonesForThePartner: they stay until the partner knows, and
// what it wrote before is here; afterwards nothing comes back and the nodes are
// alike, whoever dropped what.
func TestSweepKeepsTombstonesForThePartner(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.nodes[0].create(t, "late")
	m.heal()
	m.cut()
	if err := m.nodes[0].account.Delete(t.Context(), "late"); err != nil {
		t.Fatal(err)
	}
	m.nodes[1].add(t, "late", 1)
	churn(t, m.nodes[0].account, maxDeleted+20)
	if err := m.nodes[0].store.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mailboxes, subscriptions := kept(t, m.nodes[0].store, m.nodes[0].account.GUID()); mailboxes != maxDeleted+21 || subscriptions != maxDeleted+20 {
		t.Errorf("%d deleted mailboxes, %d ended subscriptions are kept while the partner is away", mailboxes, subscriptions)
	}
	m.heal()
	if list := m.subjects("late"); len(list) != 1 {
		t.Errorf("the message that was not seen: %q", list)
	}
	m.nodes[1].add(t, inbox, 2)
	m.heal()
	for n, s := range m.nodes {
		if err := s.store.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if mailboxes, subscriptions := kept(t, s.store, s.account.GUID()); mailboxes != maxDeleted || subscriptions != maxEnded {
			t.Errorf("node %d: %d deleted mailboxes, %d ended subscriptions are kept", n, mailboxes, subscriptions)
		}
	}
	m.pull(1, -1, true)
	m.pull(0, -1, true)
	m.heal()
}

// TestSpecialUseOnce: where both nodes made a mailbox with a special use, clients
// are told of one, the same on both.
func TestSpecialUseOnce(t *testing.T) {
	t.Parallel()
	m := newMemoryPair(t)
	m.heal()
	m.cut()
	for n, name := range []string{"Archive", "Old mail"} {
		if _, err := m.nodes[n].account.Create(t.Context(), name, imap.MailboxAttrArchive); err != nil {
			t.Fatal(err)
		}
	}
	m.heal()
	var have [2][]string
	for n, s := range m.nodes {
		list, err := s.account.List(t.Context())
		m.check(err)
		for _, info := range list {
			if info.SpecialUse != "" {
				have[n] = append(have[n], info.Name)
			}
		}
	}
	if len(have[0]) != 1 || !slices.Equal(have[0], have[1]) {
		t.Errorf("mailboxes with the use: %q", have)
	}
}

package mailstore

import (
	"context"
	"fmt"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/memory"
)

// alone opens a node's disk as a store that has forgotten its partner.
func (m *memoryPair) alone(n int) (*Store, *Mailbox) {
	m.t.Helper()
	kv, blobs := m.disks[n].Open()
	s, err := Open(context.Background(), Config{flagBlockWorth: 4, Node: uint16(n), Mailboxes: []ConfiguredMailbox{}}, kv, blobs, hclog.NewNullLogger())
	m.check(err)
	m.check(s.Forget(context.Background()))
	a, err := s.Account(context.Background(), mail.Account{Name: m.name})
	m.check(err)
	box, err := a.Mailbox(context.Background(), inbox)
	m.check(err)
	return s, box
}

// TestForgottenPartner: a node loses its partner and goes on alone, with quick
// digests, and changes what the partner had not been told of; then it gets another
// partner, and both come to the same.
func TestForgottenPartner(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			m := newMemoryPair(t)
			m.heal()
			for i := range 20 {
				m.nodes[i%2].add(t, inbox, i)
			}
			m.heal()
			m.cut()
			left := m.nodes[n]
			for _, uid := range left.uids(t, inbox)[:5] {
				left.flag(t, inbox, uid, FlagsChange{Op: FlagsAdd, Flags: FlagFlagged, Keywords: []string{"$Old"}})
			}
			left.account.Close()
			s, box := m.alone(n)
			uids := uidsOf(box.View())
			setFlags(t, box, uids, FlagsRemove, FlagFlagged)
			setFlags(t, box, uids[:10], FlagsSet, FlagSeen)
			appendMessages(t, s, box, 3)
			if r, _ := recordIn(t, s.kv, m.name, box.Info().GUID); !r.quick {
				t.Error("not quick")
			}
			m.check(s.Check(t.Context()))
			m.disks[1-n] = memory.NewDisk()
			for k := range m.nodes {
				m.open(k)
			}
			m.pull(1-n, -1, false)
			for k := range m.nodes {
				m.enter(k)
			}
			m.heal()
			other := m.nodes[1-n]
			other.flag(t, inbox, uids[12], FlagsChange{Op: FlagsAdd, Flags: FlagDeleted})
			other.flag(t, inbox, uids[1], FlagsChange{Op: FlagsRemove, Flags: FlagSeen})
			m.heal()
			if got := m.subjects(inbox); len(got) != 23 {
				t.Errorf("has %v", got)
			}
		})
	}
}

// TestForgottenPartnerComesBack: what a node that was alone has lost meanwhile is
// not gone for a partner that comes back: it brings it.
func TestForgottenPartnerComesBack(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			m := newMemoryPair(t)
			m.heal()
			for i := range 20 {
				m.nodes[i%2].add(t, inbox, i)
			}
			m.heal()
			m.cut()
			m.nodes[n].account.Close()
			account := accountGUID(m.name)
			lose := func(uid imap.UID) {
				m.disks[n].Drop(messageKey(account, kindMessage, configuredGUID(account, inbox), uid))
				m.disks[n].Drop(messageKey(account, kindMeta, configuredGUID(account, inbox), uid))
			}
			uids := m.nodes[n].uids(t, inbox)
			lose(uids[3])
			s, box := m.alone(n)
			setFlags(t, box, uids, FlagsAdd, FlagSeen)
			if r, _ := recordIn(t, s.kv, m.name, box.Info().GUID); !r.quick {
				t.Error("not quick")
			}
			lose(uids[7])
			for k := range m.nodes {
				m.open(k)
				m.enter(k)
			}
			m.pull(1-n, -1, true)
			if got := m.nodes[1-n].list(t, inbox); len(got) != 20 {
				t.Fatalf("the healthy node has %v", got)
			}
			m.pull(n, -1, true)
			m.heal()
			if got := m.subjects(inbox); len(got) != 20 {
				t.Errorf("left %v", got)
			}
		})
	}
}

package mailstore

import "testing"

// inboxOf opens INBOX of an account on a node.
func inboxOf(t *testing.T, node uint16) *Mailbox {
	t.Helper()
	return openMailbox(t, openAccount(t, openStore(t, Config{Node: node}), "alice"), "INBOX")
}

func TestBaseOfPresentedModSeqs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		node      uint16
		presented func(top uint64) uint64
		same      bool
		foreign   bool
	}{
		{"own", 0, func(top uint64) uint64 { return top }, true, false},
		{"none", 0, func(uint64) uint64 { return 0 }, true, false},
		{"between two of our own", 0, func(top uint64) uint64 { return top - 1 }, true, false},
		{"never given out", 0, func(top uint64) uint64 { return top + 2 }, false, false},
		{"invented", 0, func(uint64) uint64 { return 1<<63 - 1 }, false, false},
		{"own, second node", 1, func(top uint64) uint64 { return top }, true, false},
		{"the first node's, on the second", 1, func(top uint64) uint64 { return top - 1 }, false, true},
	} {
		m := inboxOf(t, tt.node)
		presented := tt.presented(m.View().HighestModSeq())
		want := uint64(0)
		if tt.same {
			want = presented
		}
		if got := m.Base(presented); got != want {
			t.Errorf("%s: Base(%d) is %d, want %d", tt.name, presented, got, want)
		}
		if got := m.IsForeign(presented); got != tt.foreign {
			t.Errorf("%s: IsForeign(%d) is %v", tt.name, presented, got)
		}
	}
}

func TestRaiseModSeq(t *testing.T) {
	t.Parallel()
	for node := range uint16(2) {
		m := inboxOf(t, node)
		top := m.View().HighestModSeq()
		raise := func(presented uint64) uint64 {
			t.Helper()
			if err := m.RaiseModSeq(t.Context(), presented); err != nil {
				t.Fatal(err)
			}
			return m.View().HighestModSeq()
		}
		if got := raise(top - 1); got != top {
			t.Errorf("node %d: a lower value moved it to %d", node, got)
		}
		for _, presented := range []uint64{top + 1, top + 1001, top + 1<<20 + 1} {
			got := raise(presented)
			if node == 0 { // it has no partner
				if got != top {
					t.Errorf("presented %d moved it to %d", presented, got)
				}
				continue
			}
			if got <= presented || got&1 != uint64(node) || got > presented+4 {
				t.Errorf("node %d: presented %d, now %d", node, presented, got)
			}
			if m.Base(got) != got {
				t.Errorf("node %d: %d counts as never given out", node, got)
			}
		}
		top = m.View().HighestModSeq()
		for _, presented := range []uint64{top + 2, top + 1<<40 + 1, 1 << 62, 1<<63 - 2, 1<<63 - 1} {
			if got := raise(presented); got != top {
				t.Errorf("node %d: %d moved it to %d", node, presented, got)
			}
		}
	}
}

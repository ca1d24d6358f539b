package mailstore

import (
	"slices"
	"testing"
)

// unfinished brings node 1 half of what node 0 wrote: INBOX and Work, but not
// Rest.
func unfinished(t *testing.T) *memoryPair {
	m := newMemoryPair(t)
	m.heal()
	m.nodes[0].create(t, "Rest")
	m.nodes[0].create(t, "Work")
	m.heal()
	m.cut()
	for i, name := range []string{"Rest", inbox, inbox, inbox, "Work", "Work"} {
		m.nodes[0].add(t, name, i)
	}
	m.pull(1, 8, false)
	if n := len(m.nodes[1].uids(t, inbox)) + len(m.nodes[1].uids(t, "Work")); n != 5 {
		t.Fatalf("%d messages came before the merge was broken off", n)
	}
	at, err := m.nodes[1].replica.Position(t.Context())
	m.check(err)
	if !at.Merging {
		t.Error("nothing tells of an unfinished merge")
	}
	return m
}

// TestUnfinishedMergeResurrectsNothing: what a merge brought and a client then
// removed does not come back with the records that added it, when the merge is
// broken off and these are sent.
func TestUnfinishedMergeResurrectsNothing(t *testing.T) {
	t.Parallel()
	m := unfinished(t)
	uids := m.nodes[1].uids(t, inbox)
	m.nodes[1].expunge(t, inbox, uids[0])
	from, to := openMailbox(t, m.nodes[1].account, inbox), openMailbox(t, m.nodes[1].account, "Rest")
	if _, err := from.Move(t.Context(), uids[1:2], to); err != nil {
		t.Fatal(err)
	}
	if err := m.nodes[1].account.Delete(t.Context(), "Work"); err != nil {
		t.Fatal(err)
	}
	if err := m.nodes[1].store.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.connect()
	m.send(0, 1<<20)
	look := func(when string) {
		t.Helper()
		if n, rest := len(m.nodes[1].uids(t, inbox)), len(m.nodes[1].uids(t, "Rest")); n != 1 || rest != 1 && rest != 2 {
			t.Errorf("%s: %d messages in INBOX, %d in Rest", when, n, rest)
		}
		if names := m.nodes[1].names(t); slices.Contains(names, "Work") && len(m.nodes[1].uids(t, "Work")) > 0 {
			t.Errorf("%s: Work is back", when)
		}
		if err := m.nodes[1].store.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	look("after the stream")
	m.calm()
	look("at rest")
	m.pull(1, -1, false)
	m.pull(0, -1, false)
	at, err := m.nodes[1].replica.Position(t.Context())
	m.check(err)
	if at.Merging {
		t.Error("still unfinished")
	}
	m.heal()
	look("in the end")
}

package mailstore

import (
	"slices"
	"testing"
)

func TestUnionOfVectors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ a, b, want []Dot }{
		{nil, []Dot{{1, 5}}, []Dot{{1, 5}}},
		{[]Dot{{1, 5}}, []Dot{{1, 6}}, []Dot{{1, 6}}},
		{[]Dot{{1, 6}}, []Dot{{1, 5}}, []Dot{{1, 6}}},
		{[]Dot{{2, 1}}, []Dot{{1, 5}, {2, 3}}, []Dot{{1, 5}, {2, 3}}},
	} {
		before := slices.Clone(row.a)
		if got := unionOf(row.a, row.b); !slices.Equal(got, row.want) {
			t.Errorf("%v and %v: %v", row.a, row.b, got)
		}
		if !slices.Equal(row.a, before) {
			t.Errorf("%v was changed", before)
		}
	}
}

// TestMailboxRecordStaysSmall: what is kept of a mailbox does not grow with its
// messages.
func TestMailboxRecordStaysSmall(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.connect()
	sizes := func() (n int) {
		for _, s := range p.nodes {
			a := s.account.account
			n += len(a.names[inbox].current().encode()) + len(a.headRecord)
		}
		return n
	}
	p.calm()
	p.nodes[0].add(t, "INBOX", 0)
	p.nodes[1].add(t, "INBOX", 1)
	p.calm()
	before := sizes()
	for i := range 60 {
		p.nodes[i%2].add(t, "INBOX", 2+i)
	}
	p.calm()
	if after := sizes(); after > before+60 {
		t.Errorf("records grew from %d to %d octets", before, after)
	}
}

package mailstore

import (
	"testing"
)

// TestConfiguredHome: where the configurations say that accounts are at home,
// UIDs are given out; where they differ, the nodes agree on one all the same.
func TestConfiguredHome(t *testing.T) {
	t.Parallel()
	for _, homes := range [][2]uint8{{0, 0}, {1, 1}, {0, 1}, {1, 0}} {
		p := newPair(t, "kim")
		for n := range p.nodes {
			p.configured[n] = &homes[n]
			p.nodes[n].account.Close()
			p.start(n)
		}
		for n := range p.nodes {
			at, err := p.nodes[n].replica.Position(t.Context())
			p.check(err)
			if at.Home != (Home{Class: homes[n]}) {
				t.Errorf("%v: node %d is told %+v", homes, n, at.Home)
			}
			head, err := p.nodes[n].store.Head(t.Context(), accountGUID("kim"))
			p.check(err)
			if head.Home != (Home{Class: homes[n]}) {
				t.Errorf("%v: node %d, at rest %+v", homes, n, head.Home)
			}
		}
		p.connect()
		p.calm()
		for n := range p.nodes {
			at, err := p.nodes[n].replica.Position(t.Context())
			p.check(err)
			if int(at.Home.Class) != p.home() {
				t.Errorf("%v: node %d takes %d for the home", homes, n, at.Home.Class)
			}
			p.nodes[n].add(t, inbox, n)
		}
		p.calm()
		if list := p.same(inbox); len(list) != 2 || list[0][:2] != "1 " || list[1][:2] != "2 " {
			t.Errorf("%v: INBOX is %q", homes, list)
		}
	}
}

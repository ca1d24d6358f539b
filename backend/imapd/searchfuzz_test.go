package imapd

import (
	"slices"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
)

// FuzzSearchProgram runs what parses as a search over a small mailbox, as far
// as the index answers it: a key and its negation part the mailbox, the order of
// the keys does not matter, and the first and last results are those of all.
func FuzzSearchProgram(f *testing.F) {
	for _, seed := range []string{
		"ALL", "RETURN (MIN PARTIAL -2:-1) OR SEEN (NOT 2:4 FLAGGED)", "OR OR 1 2 (3 UID 4:*)", "SINCE 1-Jan-2020 LARGER 30 KEYWORD x", "$", "NOT NOT UID $",
		"OLDER 5 YOUNGER 900", "SAVEDON 1-Feb-1994", "FUZZY (ANSWERED *)", "CHARSET koi8-r DELETED UNDELETED", "EMAILID M00000000000000000000000000000000",
	} {
		f.Add(seed)
	}
	v := benchFinder{newBenchView(20)}
	for i, m := range v.messages {
		m.UID = imap.UID(i*3 + 1)
		m.Flags, m.Octets = mailstore.Flags(i*7%32), int64(i*5)
		m.InternalDate = time.Unix(int64(i)*86400*200, 0)
		m.Keywords = [][]string{nil, {"x"}, {"X", "y"}}[i%3]
	}
	f.Fuzz(func(t *testing.T, program string) {
		p := &parser{b: []byte(" " + program)}
		a, err := parseSearch(true)(p)
		if err != nil || a.modSeq || a.key.cost > costIndex {
			return
		}
		s := &session{}
		g := &ground{told: v, now: v, saved: []uidRange{{4, 9}, {40, 40}}}
		search := func(k searchKey, want reach) []int {
			k = searchKey{op: searchAnd, cost: k.cost, kids: []searchKey{k}}
			k.prepare(g, time.Unix(1e9, 0))
			found, err := s.searchGround(t.Context(), g, &k, want)
			if err != nil {
				t.Fatalf("%q: %v", program, err)
			}
			return found
		}
		all := search(a.key, reach{})
		rest := search(negate(a.key, true), reach{})
		both := append(slices.Clone(all), rest...)
		slices.Sort(both)
		if len(slices.Compact(both)) != v.Len() || len(all)+len(rest) != v.Len() || !slices.IsSorted(all) {
			t.Fatalf("%q finds %v, its negation %v", program, all, rest)
		}
		slices.Reverse(a.key.kids)
		if again := search(a.key, reach{}); !slices.Equal(again, all) {
			t.Fatalf("%q finds %v, the other way round %v", program, all, again)
		}
		n := min(2, len(all))
		if first := search(a.key, reach{limit: 2}); !slices.Equal(first, all[:n]) {
			t.Fatalf("%q finds %v, of these first %v", program, all, first)
		}
		if last := search(a.key, reach{limit: 2, backward: true}); !slices.Equal(last, all[len(all)-n:]) {
			t.Fatalf("%q finds %v, of these last %v", program, all, last)
		}
	})
}

package sim

import (
	"testing"

	"github.com/postern-mail/postern/backend/mailstore/uid"
	"github.com/postern-mail/postern/internal/mutant"
)

// small are rules with which a run comes to their ends.
var small = uid.Rules{Window: 2, Block: 8}

// TestSmallRules plays some seeds with them.
func TestSmallRules(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		if w := runWith(seed, draw(seed), mutant.None, &small, false); w.failure != nil {
			t.Fatalf("seed %d: %v", seed, w.failure)
		}
	}
}

// TestMutations leaves out one safety rule of the real code after the other: the
// simulation must notice within some seeds. That home keeps to its credit shows
// with windows smaller than a run has messages; with these nothing may be noticed
// as long as all rules are there. Each begins shortly before a seed that notices.
func TestMutations(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		without mutant.Rule
		from    uint64
		seeds   uint64
		uids    *uid.Rules
	}{
		{"no block classes", mutant.NoClasses, 20, 150, nil},
		{"no window in the threshold", mutant.NoWindow, 0, 150, nil},
		{"allocator not raised at attach", mutant.NoRaise, 20, 150, nil},
		{"threshold kept over an attach", mutant.KeepThreshold, 0, 150, nil},
		{"shown below what was shown", mutant.ExposeBelow, 0, 150, nil},
		{"no merge of twins", mutant.NoDeliveryMerge, 0, 150, nil},
		{"the partner's MODSEQ taken for one's own", mutant.OwnModSeq, 0, 150, nil},
		{"no credit", mutant.NoCredit, 0, 150, &small},
		{"a deletion takes what it did not see", mutant.DeleteAll, 60, 150, nil},
		{"the later clock wins in any case", mutant.ClockOnly, 220, 100, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for seed := row.from; seed < row.from+row.seeds; seed++ {
				if w := runWith(seed, draw(seed), row.without, row.uids, false); w.failure != nil {
					t.Logf("%s: seed %d: %v", row.name, seed, w.failure)
					return
				}
			}
			t.Errorf("not noticed in %d runs", row.seeds)
		})
	}
}

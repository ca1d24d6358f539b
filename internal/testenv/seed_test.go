package testenv

import "testing"

func TestSeedIsGiven(t *testing.T) {
	t.Setenv("POSTERN_SEED", "0x2a")
	if seed := Seed(t); seed != 42 {
		t.Errorf("POSTERN_SEED=0x2a gives %d", seed)
	}
	t.Setenv("POSTERN_SEED", "")
	if one, other := Seed(t), Seed(t); one == other {
		t.Error("two runs without POSTERN_SEED play the same game")
	}
}

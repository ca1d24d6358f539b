package testenv

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Seed returns the number a test that plays at random begins with, and logs
// it. POSTERN_SEED gives it, so that `make test` plays the same games every
// time and judges the change and not its luck, and that a failure can be
// played again; without it every run plays others.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv("POSTERN_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 0, 64); err != nil {
			t.Fatalf("POSTERN_SEED: %v", err)
		}
	}
	t.Logf("POSTERN_SEED=%d", seed)
	return seed
}

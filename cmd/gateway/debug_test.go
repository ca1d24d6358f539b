package main

import (
	"strings"
	"testing"
)

// TestDebugProfile: a profile comes out of the running server whole.
func TestDebugProfile(t *testing.T) {
	t.Parallel()
	s := newSite(t, standard, nil).start()
	const gzipMagic = "\x1f\x8b"
	for _, args := range [][]string{{"heap"}, {"cpu", "--seconds", "1"}} {
		if out := s.run(append([]string{"debug", "profile"}, args...)...); !strings.HasPrefix(out, gzipMagic) {
			t.Errorf("%v: got %.40q", args, out)
		}
	}
}

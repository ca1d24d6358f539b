package replica

import "github.com/postern-mail/postern/backend/mailstore"

// seqOf returns how far an origin's operations are known.
func seqOf(v Vector, origin mailstore.Origin) uint64 {
	for _, e := range v {
		if e.Origin == origin {
			return e.Seq
		}
	}
	return 0
}

// sameSeqs reports whether two vectors name the same operations, by number.
func sameSeqs(v, w Vector) bool {
	for _, e := range v {
		if seqOf(w, e.Origin) != e.Seq {
			return false
		}
	}
	for _, e := range w {
		if seqOf(v, e.Origin) != e.Seq {
			return false
		}
	}
	return true
}

// sameChains reports whether those are the same by content, too, as far as that
// is known: where a state merge ended, it may not be.
func sameChains(v, w Vector) bool {
	for _, e := range v {
		for _, f := range w {
			if e.Origin == f.Origin && e.Seq == f.Seq && e.Chain != f.Chain && e.Chain != [32]byte{} && f.Chain != [32]byte{} {
				return false
			}
		}
	}
	return true
}

// differ reports whether two sides that know the same are not the same.
func differ(mine *Position, theirs Vector, digest Digest, settled bool) bool {
	return mine.Settled && settled && sameSeqs(mine.Vector, theirs) && (mine.Digest != digest || !sameChains(mine.Vector, theirs))
}

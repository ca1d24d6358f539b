package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/store"
)

// FoundReferences: the count of references is not how many there are. Where it
// is too low the body goes while somebody needs it; where it is too high it
// stays for ever.
const FoundReferences FindingKind = "references are miscounted"

// Owners calls each for every reference that anybody holds.
type Owners func(ctx context.Context, each func(store.Ref)) error

// countAtOnce is how many bodies are counted in one pass over the owners:
// some 100 MB.
const countAtOnce = 1 << 20

// VerifyReferences compares the count of every body with the references that
// owners hold. Memory is bounded: it takes the bodies in portions, in the order
// of their hashes, and asks owners for all references once for each portion of
// a million. Nobody may write meanwhile. References to bodies that do not exist
// are the owners' to find.
func (b *Blobs) VerifyReferences(ctx context.Context, owners Owners, report func(Finding)) error {
	return b.verifyReferences(ctx, owners, report, countAtOnce)
}

// references of a body, as counted in the store and as found.
type references struct{ counted, found int64 }

func (b *Blobs) verifyReferences(ctx context.Context, owners Owners, report func(Finding), atOnce int) error {
	v := verifier{blobs: b, report: report}
	for from := []byte{b.keys.tag, 'h'}; from != nil; {
		bodies := make(map[store.Hash]references)
		next, err := v.counts(ctx, from, bodies, atOnce)
		if err != nil {
			return err
		}
		err = owners(ctx, func(ref store.Ref) {
			if r, here := bodies[ref.Hash]; here {
				r.found++
				bodies[ref.Hash] = r
			}
		})
		if err != nil {
			return err
		}
		v.compare(bodies)
		from = next
	}
	return nil
}

// counts reads the counts of up to atOnce bodies and returns where the rest
// begins, nil for none.
func (v verifier) counts(ctx context.Context, from []byte, bodies map[store.Hash]references, atOnce int) (next []byte, err error) {
	end := []byte{v.blobs.keys.tag, 'h' + 1}
	for len(bodies) < atOnce && from != nil {
		limit := min(atOnce-len(bodies), verifyAtOnce)
		n := 0
		next = nil
		err := v.blobs.kv.View(ctx, func(s store.Snapshot) error {
			for pair, err := range s.Range(from, end, limit, false) {
				if err != nil {
					return err
				}
				if n++; n == limit {
					next = append(bytes.Clone(pair.Key), 0)
				}
				if len(pair.Key) != 2+len(store.Hash{}) || len(pair.Value) == 0 {
					continue // Verify reports it
				}
				hash := store.Hash(pair.Key[2:])
				r := references{counted: 1}
				if pair.Value[0]&flagShared != 0 {
					more, err := s.Counter(v.blobs.keys.more(hash))
					if err != nil {
						return err
					}
					r.counted += more
				}
				bodies[hash] = r
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		from = next
	}
	return from, nil
}

// compare reports the bodies whose counts differ, in order.
func (v verifier) compare(bodies map[store.Hash]references) {
	var wrong []store.Hash
	for hash, r := range bodies {
		if r.counted != r.found {
			wrong = append(wrong, hash)
		}
	}
	slices.SortFunc(wrong, func(x, y store.Hash) int { return bytes.Compare(x[:], y[:]) })
	for _, hash := range wrong {
		r := bodies[hash]
		err := fmt.Errorf("%d counted, %d found", r.counted, r.found)
		if r.found == 0 {
			err = errors.New("nobody refers to it")
		}
		v.report(Finding{Kind: FoundReferences, Body: hash, Err: err})
	}
}

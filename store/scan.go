package store

import (
	"bytes"
	"context"
)

// Scan calls look for every pair of s in [lo, hi), in order, with the view that
// read it: a new one for each page of pairs, so that a long scan keeps no
// snapshot for its whole time. A pair that is written meanwhile is seen or not.
// key and value are good until look returns; its error ends the scan and is
// returned.
func Scan(ctx context.Context, s Store, lo, hi []byte, page int, look func(v Snapshot, key, value []byte) error) error {
	for lo != nil {
		n := 0
		var next []byte
		err := s.View(ctx, func(v Snapshot) error {
			for pair, err := range v.Range(lo, hi, page, false) {
				if err != nil {
					return err
				}
				if err := look(v, pair.Key, pair.Value); err != nil {
					return err
				}
				if n++; n == page {
					next = append(bytes.Clone(pair.Key), 0)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		lo = next
	}
	return nil
}

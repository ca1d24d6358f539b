package mailstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/postern-mail/postern/store"
)

// maxDelivered is how many marks of deliveries an account has in memory: more
// than deliveries overtake each other on their way here.
const maxDelivered = 64

// delivered tells without looking that a delivery is new, as nearly all are:
// it holds the highest marks that are stored. Its zero value is for an account
// without any.
type delivered struct {
	marks []deliveryMark // in order
	// floor is the mark up to which there may be others in the store; nil when
	// marks holds all.
	floor []byte
}

// readDelivered reads the highest marks of an account.
func readDelivered(snap store.Snapshot, account GUID) (d delivered, err error) {
	prefix := accountKey(account, kindDelivery)
	for pair, err := range snap.Range(prefix, above(prefix), maxDelivered, true) {
		if err != nil {
			return delivered{}, err
		}
		key := pair.Key[len(prefix):]
		if len(key) != len(deliveryMark{}) {
			// Not ours to judge: whatever lies below it is looked up.
			d.floor = slices.Clone(key)
			break
		}
		d.marks = append(d.marks, deliveryMark(key))
	}
	slices.Reverse(d.marks)
	if d.floor == nil && len(d.marks) == maxDelivered {
		d.floor = bytes.Clone(d.marks[0][:])
	}
	return d, nil
}

// isNew reports whether nothing stored has the mark. Where it says no the store
// must be asked.
func (d *delivered) isNew(id deliveryMark) bool {
	if d.floor != nil && bytes.Compare(id[:], d.floor) <= 0 {
		return false
	}
	_, found := slices.BinarySearchFunc(d.marks, id, compareMarks)
	return !found
}

// note adds the marks of a commit.
func (d *delivered) note(ids map[deliveryMark]twin) {
	for id := range ids {
		if at, found := slices.BinarySearchFunc(d.marks, id, compareMarks); !found {
			d.marks = slices.Insert(d.marks, at, id)
		}
	}
	if over := len(d.marks) - maxDelivered; over > 0 {
		// One below the old floor is none to raise it to.
		if gone := d.marks[over-1]; bytes.Compare(gone[:], d.floor) > 0 {
			d.floor = bytes.Clone(gone[:])
		}
		d.marks = slices.Delete(d.marks, 0, over)
	}
}

// delivery is what is remembered of one.
type delivery struct {
	expires time.Time
	// twin is the message it was stored as; the first release did not keep it.
	twin
}

const deliveryVersion = 2

func (d *delivery) encode() []byte {
	b := append(make([]byte, 0, 48), deliveryVersion)
	b = binary.AppendVarint(b, d.expires.Unix())
	b = append(b, d.mailbox[:]...)
	return append(b, d.dot.bytes()...)
}

func decodeDelivery(value []byte) (d delivery, err error) {
	r := decoder{b: value}
	version := r.versions(deliveryVersion)
	d.expires = r.time()
	if version >= 2 {
		d.mailbox, d.dot = r.guid(), r.dot()
	}
	return d, r.end("delivery")
}

// madeOf is the delivery that a message was made of.
type madeOf struct {
	mark deliveryMark
	at   time.Time
}

// deliveriesIn finds out which messages of a mailbox were deliveries, as far as
// that is remembered. It reads all that is remembered of the account.
func (a *account) deliveriesIn(ctx context.Context, mailbox GUID) (map[Dot]madeOf, error) {
	found := make(map[Dot]madeOf)
	prefix := accountKey(a.id, kindDelivery)
	err := store.Scan(ctx, a.store.kv, prefix, above(prefix), checkAtOnce, func(_ store.Snapshot, key, value []byte) error {
		d, err := decodeDelivery(value)
		if err == nil && d.mailbox == mailbox && len(key)-len(prefix) == len(deliveryMark{}) {
			found[d.dot] = madeOf{deliveryMark(key[len(prefix):]), d.expires.Add(-a.store.cfg.DeliveryMemory)}
		}
		return nil // what cannot be read is for the check to tell of
	})
	return found, a.store.failure("read deliveries", err)
}

func compareMarks(a, b deliveryMark) int { return bytes.Compare(a[:], b[:]) }

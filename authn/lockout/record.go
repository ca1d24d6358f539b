package lockout

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// record is what a table keeps for a key; each table uses what it needs.
type record struct {
	count   uint64   // failures, those forgiven taken off
	last    int64    // when it was touched, in milliseconds since 1970
	until   int64    // when the next attempt may be asked about
	version Version  // of the account's password, when a wrong one was refused
	times   []int64  // of failures that went upstream, oldest first
	set     []uint64 // keyed hashes of the accounts that failed, each once
	sprayed bool     // spraying was found, and told
}

// Bounds of a record's lists.
const (
	maxTimes = 32
	maxSet   = 64
)

const recordVersion = 1

var errRecord = errors.New("malformed record")

// encode writes: format version; count, last, until, version as uvarints; flags
// (1: sprayed); number of times and times; size of the set and 8 octets each.
func (r *record) encode() []byte {
	b := make([]byte, 0, 48+8*(len(r.times)+len(r.set)))
	b = append(b, recordVersion)
	b = binary.AppendUvarint(b, r.count)
	b = binary.AppendUvarint(b, uint64(r.last))
	b = binary.AppendUvarint(b, uint64(r.until))
	b = binary.AppendUvarint(b, uint64(r.version))
	if r.sprayed {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(r.times)))
	for _, t := range r.times {
		b = binary.AppendUvarint(b, uint64(t))
	}
	b = binary.AppendUvarint(b, uint64(len(r.set)))
	for _, h := range r.set {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return b
}

// decodeRecord reads what encode wrote, and nothing else.
func decodeRecord(b []byte) (*record, error) {
	if len(b) == 0 || b[0] != recordVersion {
		return nil, errRecord
	}
	d := decoder{rest: b[1:]}
	r := &record{count: d.number(), last: d.time(), until: d.time(), version: Version(d.number())}
	r.sprayed = d.number() == 1
	for range d.size(maxTimes) {
		r.times = append(r.times, d.time())
	}
	for range d.size(maxSet) {
		r.set = append(r.set, d.fixed())
	}
	if d.failed || len(d.rest) > 0 {
		return nil, errRecord
	}
	return r, nil
}

// decoder reads numbers until one is not there.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

// latest is far enough for times, and near enough to add to.
const latest = int64(1) << 52

func (d *decoder) time() int64 {
	n := d.number()
	if n > uint64(latest) {
		d.failed = true
		return 0
	}
	return int64(n)
}

func (d *decoder) size(most uint64) uint64 {
	n := d.number()
	if n > most {
		d.failed = true
		return 0
	}
	return n
}

func (d *decoder) fixed() uint64 {
	if len(d.rest) < 8 {
		d.failed, d.rest = true, nil
		return 0
	}
	n := binary.BigEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return n
}

// forgive halves the failures for each decay that passed.
func (r *record) forgive(decay time.Duration, now int64) {
	if halvings := (now - r.last) / max(1, decay.Milliseconds()); halvings > 0 {
		r.count >>= min(uint64(halvings), 63)
	}
}

// dropBefore forgets failures upstream before a time.
func (r *record) dropBefore(t int64) {
	n, _ := slices.BinarySearch(r.times, t+1)
	r.times = r.times[n:]
}

// addTime notes one more failure upstream.
func (r *record) addTime(t int64) {
	if len(r.times) >= maxTimes {
		r.times = r.times[len(r.times)-maxTimes+1:]
	}
	r.times = append(slices.Clip(r.times), t)
}

// addToSet notes that an account failed, and reports whether it is a new one.
func (r *record) addToSet(h uint64) bool {
	if slices.Contains(r.set, h) || len(r.set) >= maxSet {
		return false
	}
	r.set = append(r.set, h)
	return true
}

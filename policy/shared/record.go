package shared

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// record is what a table holds under a key.
type record struct {
	// epoch is the stamp of the last deletion, 0 before the first. What was
	// there before a deletion never comes back by a merge.
	epoch uint64
	// stamp is that of the last change.
	stamp uint64
	// expires is the time of its end in milliseconds since 1970.
	expires int64
	// value is nil for what was deleted.
	value []byte
}

// Merge makes one value of two that were written apart. It must give the same
// whatever the order and however often values are merged, accept any octets (a
// newer release may have written them), and keep neither slice unless it
// returns it unchanged.
type Merge func(a, b []byte) []byte

// join merges what two gateways hold. Like Merge it does not depend on order:
// the later epoch wins, within one something wins over nothing, and two values
// are merged by merge; nil takes the later one.
func join(merge Merge, a, b record) record {
	switch {
	case a.epoch != b.epoch:
		return after(a.epoch > b.epoch, a, b)
	case (a.value == nil) != (b.value == nil):
		return after(b.value == nil, a, b)
	case a.value == nil:
		a.expires, a.stamp = max(a.expires, b.expires), max(a.stamp, b.stamp)
		return a
	case merge != nil:
		value := merge(a.value, b.value)
		if value == nil {
			value = []byte{}
		}
		return record{a.epoch, max(a.stamp, b.stamp), max(a.expires, b.expires), value}
	case a.stamp != b.stamp:
		return after(a.stamp > b.stamp, a, b)
	}
	winner := after(bytes.Compare(a.value, b.value) >= 0, a, b)
	winner.expires = max(a.expires, b.expires)
	return winner
}

func after(first bool, a, b record) record {
	if first {
		return a
	}
	return b
}

func (r record) equal(o record) bool {
	return r.epoch == o.epoch && r.stamp == o.stamp && r.expires == o.expires &&
		(r.value == nil) == (o.value == nil) && bytes.Equal(r.value, o.value)
}

// MaxValue is the most octets a value has. Longer ones are not kept.
const MaxValue = 4 << 10

var errRecord = errors.New("malformed record")

// appendRecord appends a record without its key: epoch, stamp, expires, and a
// zero for nothing or the length of the value plus one and the value.
func appendRecord(b []byte, r record) []byte {
	b = binary.AppendUvarint(b, r.epoch)
	b = binary.AppendUvarint(b, r.stamp)
	b = binary.AppendVarint(b, r.expires)
	if r.value == nil {
		return binary.AppendUvarint(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(r.value))+1)
	return append(b, r.value...)
}

// reader takes values off the front of octets; what is missing sets failed.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) octets(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.failed, r.b = true, nil
		return nil
	}
	taken := r.b[:n:n]
	r.b = r.b[n:]
	return taken
}

// record reads what appendRecord wrote. The value is a copy.
func (r *reader) record() record {
	found := record{epoch: r.uvarint(), stamp: r.uvarint(), expires: r.varint()}
	if n := r.uvarint(); n > 0 {
		if n-1 > MaxValue {
			r.failed = true
			return record{}
		}
		found.value = append([]byte{}, r.octets(n-1)...)
	}
	return found
}

// formatVersion is that of a record in the store. docs/formats/policy.md.
const formatVersion = 1

func (r record) encode() []byte { return appendRecord([]byte{formatVersion}, r) }

func decodeRecord(b []byte) (record, error) {
	if len(b) == 0 || b[0] != formatVersion {
		return record{}, errRecord
	}
	in := reader{b: b[1:]}
	r := in.record()
	if in.failed || len(in.b) > 0 {
		return record{}, errRecord
	}
	return r, nil
}

// Max merges counters that only grow: eight octets, the highest wins. Encode
// them with EncodeNumber.
func Max(a, b []byte) []byte {
	if DecodeNumber(a) >= DecodeNumber(b) {
		return a
	}
	return b
}

// EncodeNumber is the form of a number that Max merges.
func EncodeNumber(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// DecodeNumber reads what EncodeNumber wrote; anything else is 0.
func DecodeNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

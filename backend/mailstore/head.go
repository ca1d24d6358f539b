package mailstore

import (
	"encoding/binary"
	"slices"
)

// head holds an account's counters. Every commit replaces it and requires the
// one it was computed from.
type head struct {
	seq             uint64 // of the last own operation in the journal
	hlc             uint64
	modseqs         uint64 // MODSEQs given out, without the class bit
	lastUIDValidity uint32
	octets          int64    // of all messages
	chain           [32]byte // of the journal: hash of the one before and the record

	// origin is whose operations seq counts. Zero in the first release's
	// records, which had one only.
	origin Origin
	// streamFrom is the first own operation that a partner can be told of; those
	// before it stand in records of the first release, or under another origin.
	streamFrom uint64
	// acked is the partner's durable seq of our operations, as far as we know.
	acked uint64
	home  Home
	// joined: this store has all that its partner had of the account when it
	// joined the pair.
	joined bool
	// merging: a state merge has begun, and what is here is more than the vector
	// says until one is complete.
	merging bool
	// unsettled counts the messages that are not shown at their highest UID:
	// those without a UID, and those that home is to give another.
	unsettled uint64
	// others are the other origins whose operations were applied, in order.
	// The slice is replaced, never changed.
	others Vector
}

// Home says which class gives out an account's UIDs while the nodes are
// attached. The higher epoch wins; epoch 0 is where Config.Home or
// mail.Account.HomeClass puts the account.
type Home struct {
	Epoch uint64
	Class uint8
}

const (
	headVersion = 2

	headJoined  = 1 << 0
	headMerging = 1 << 1

	originClosed = 1 << 0
)

func (h *head) encode() []byte {
	b := append(make([]byte, 0, 112+52*len(h.others)), headVersion)
	b = binary.AppendUvarint(b, h.seq)
	b = binary.LittleEndian.AppendUint64(b, h.hlc)
	b = binary.AppendUvarint(b, h.modseqs)
	b = binary.AppendUvarint(b, uint64(h.lastUIDValidity))
	b = binary.AppendUvarint(b, uint64(h.octets))
	b = append(b, h.chain[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.origin))
	b = binary.AppendUvarint(b, h.streamFrom)
	b = binary.AppendUvarint(b, h.acked)
	b = binary.AppendUvarint(b, h.home.Epoch)
	b = append(b, h.home.Class, boolByte(h.joined)*headJoined|boolByte(h.merging)*headMerging)
	b = binary.AppendUvarint(b, h.unsettled)
	b = binary.AppendUvarint(b, uint64(len(h.others)))
	for _, o := range h.others {
		b = binary.LittleEndian.AppendUint64(b, uint64(o.Origin))
		b = binary.AppendUvarint(b, o.Seq)
		b = append(b, o.Chain[:]...)
		b = append(b, boolByte(o.Closed)*originClosed)
	}
	return b
}

func decodeHead(b []byte) (head, error) {
	d := decoder{b: b}
	version := d.versions(headVersion)
	h := head{seq: d.uvarint(), hlc: d.uint64(), modseqs: d.uvarint(), lastUIDValidity: d.uint32(), octets: d.size()}
	copy(h.chain[:], d.bytes(len(h.chain)))
	if version < 2 {
		h.streamFrom = h.seq + 1
		return h, d.end("account head")
	}
	h.origin, h.streamFrom, h.acked = Origin(d.uint64()), d.uvarint(), d.uvarint()
	h.home = Home{Epoch: d.uvarint(), Class: d.byte()}
	flags := d.byte()
	h.joined, h.merging = flags&headJoined != 0, flags&headMerging != 0
	h.unsettled = d.uvarint()
	n := d.uvarint()
	if n > maxOrigins {
		d.bad, n = true, 0
	}
	for range n {
		o := VectorEntry{Origin: Origin(d.uint64()), Seq: d.uvarint()}
		copy(o.Chain[:], d.bytes(len(o.Chain)))
		o.Closed = d.byte()&originClosed != 0
		h.others = append(h.others, o)
	}
	return h, d.end("account head")
}

// vector is what the account's journal and those of others make up.
func (h *head) vector() Vector {
	v := slices.Clone(h.others)
	if h.seq > 0 {
		v = append(v, VectorEntry{Origin: h.origin, Seq: h.seq, Chain: h.chain})
		slices.SortFunc(v, compareEntries)
	}
	return v
}

// known returns the highest dots of the other origins.
func (h *head) known() []Dot { return h.others.Dots() }

// learn sets how far another origin's operations were applied.
func (h *head) learn(e VectorEntry) {
	others := slices.Clone(h.others)
	at, found := slices.BinarySearchFunc(others, e, compareEntries)
	if found {
		others[at] = e
	} else {
		others = slices.Insert(others, at, e)
	}
	h.others = others
}

func compareEntries(a, b VectorEntry) int {
	switch {
	case a.Origin < b.Origin:
		return -1
	case a.Origin > b.Origin:
		return 1
	}
	return 0
}

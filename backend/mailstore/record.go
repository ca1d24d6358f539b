package mailstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// Each record begins with its format's version. A newer one is refused: this
// program would lose what it does not know.
const recordVersion = 1

var errRecord = errors.New("malformed record")

// decoder reads the fields of a record. After the first bad one it yields
// zeros, and err tells.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) version() {
	if d.byte() != recordVersion {
		d.bad = true
	}
}

func (d *decoder) byte() byte {
	b := d.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// size reads a number that must fit an int64.
func (d *decoder) size() int64 {
	v := d.uvarint()
	if v > 1<<62 {
		d.bad = true
		return 0
	}
	return int64(v)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uvarint()
	if v > 1<<32-1 {
		d.bad = true
		return 0
	}
	return uint32(v)
}

func (d *decoder) uint64() uint64 {
	b := d.bytes(8)
	if len(b) == 0 {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// bytes returns the next n octets within the record.
func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

// block returns octets with their length before them.
func (d *decoder) block() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	return d.bytes(int(n))
}

func (d *decoder) string() string { return string(d.block()) }

func (d *decoder) guid() (g GUID) {
	copy(g[:], d.bytes(16))
	return g
}

func (d *decoder) time() time.Time { return time.Unix(d.varint(), 0).UTC() }

// strings reads a list of strings, nil when it is empty.
func (d *decoder) strings() []string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	var list []string
	for range n {
		list = append(list, d.string())
	}
	return list
}

// end returns an error when a field was bad or octets are left over.
func (d *decoder) end(what string) error {
	if d.bad || len(d.b) > 0 {
		return fmt.Errorf("%s: %w", what, errRecord)
	}
	return nil
}

func appendBlock[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendBlock(b, s)
	}
	return b
}

// head holds an account's counters. Every commit replaces it and requires the
// one it was computed from.
type head struct {
	seq             uint64 // of the last operation in the journal
	hlc             uint64
	modseqs         uint64 // MODSEQs given out, without the class bit
	lastUIDValidity uint32
	octets          int64    // of all messages
	chain           [32]byte // of the journal: hash of the one before and the record
}

func (h *head) encode() []byte {
	b := append(make([]byte, 0, 80), recordVersion)
	b = binary.AppendUvarint(b, h.seq)
	b = binary.LittleEndian.AppendUint64(b, h.hlc)
	b = binary.AppendUvarint(b, h.modseqs)
	b = binary.AppendUvarint(b, uint64(h.lastUIDValidity))
	b = binary.AppendUvarint(b, uint64(h.octets))
	return append(b, h.chain[:]...)
}

func decodeHead(b []byte) (head, error) {
	d := decoder{b: b}
	d.version()
	h := head{seq: d.uvarint(), hlc: d.uint64(), modseqs: d.uvarint(), lastUIDValidity: d.uint32(), octets: d.size()}
	copy(h.chain[:], d.bytes(len(h.chain)))
	return h, d.end("account head")
}

// mailboxRecord is a mailbox with its kept counts.
type mailboxRecord struct {
	name        string
	use         imap.MailboxAttr
	subscribed  bool
	uidValidity uint32
	uidNext     imap.UID
	modseq      uint64 // HIGHESTMODSEQ
	messages    int64
	unseen      int64
	deleted     int64
	octets      int64
	// expungeFloor: expunges at or below this MODSEQ may be forgotten.
	expungeFloor uint64
}

func (r *mailboxRecord) encode() []byte {
	b := append(make([]byte, 0, 64+len(r.name)), recordVersion)
	b = appendBlock(b, r.name)
	b = appendBlock(b, string(r.use))
	b = append(b, boolByte(r.subscribed))
	for _, v := range []uint64{
		uint64(r.uidValidity), uint64(r.uidNext), r.modseq,
		uint64(r.messages), uint64(r.unseen), uint64(r.deleted), uint64(r.octets), r.expungeFloor,
	} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeMailbox(b []byte) (mailboxRecord, error) {
	d := decoder{b: b}
	d.version()
	r := mailboxRecord{
		name: d.string(), use: imap.MailboxAttr(d.string()), subscribed: d.byte() != 0,
		uidValidity: d.uint32(), uidNext: imap.UID(d.uint32()), modseq: d.uvarint(),
		messages: d.size(), unseen: d.size(), deleted: d.size(), octets: d.size(), expungeFloor: d.uvarint(),
	}
	return r, d.end("mailbox")
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// encode returns the message's record. Its UID stands in the key.
func (m *Message) encode() []byte {
	b := append(make([]byte, 0, 128), recordVersion)
	b = binary.AppendUvarint(b, m.ModSeq)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Dot.Origin))
	b = binary.AppendUvarint(b, m.Dot.Seq)
	b = append(b, m.EmailID[:]...)
	b = append(b, byte(m.Flags))
	b = appendStrings(b, m.Keywords)
	b = binary.AppendVarint(b, m.InternalDate.Unix())
	b = binary.AppendVarint(b, m.SaveDate.Unix())
	b = binary.AppendUvarint(b, uint64(m.Trace()))
	b = append(b, m.Body.Hash[:]...)
	return binary.AppendUvarint(b, uint64(m.Body.Octets))
}

// decodeMessage reads a record into m.
func decodeMessage(m *Message, uid imap.UID, b []byte) error {
	d := decoder{b: b}
	d.version()
	m.UID = uid
	m.ModSeq = d.uvarint()
	m.Dot.Origin, m.Dot.Seq = Origin(d.uint64()), d.uvarint()
	m.EmailID = d.guid()
	m.Flags = Flags(d.byte())
	m.Keywords = d.strings()
	m.InternalDate, m.SaveDate = d.time(), d.time()
	trace := d.size()
	m.Body = store.Ref{}
	copy(m.Body.Hash[:], d.bytes(len(m.Body.Hash)))
	m.Body.Octets = d.size()
	m.Octets = trace + m.Body.Octets
	if m.Flags&^allFlags != 0 || uid == 0 || trace > MaxTraceOctets {
		d.bad = true
	}
	return d.end("message")
}

// uidOf reads the UID at the end of a message's key.
func uidOf(key []byte) imap.UID {
	if len(key) < 4 {
		return 0
	}
	return imap.UID(binary.BigEndian.Uint32(key[len(key)-4:]))
}

// encodeExpunged is the record of UIDs, in ascending order, expunged together.
func encodeExpunged(at time.Time, uids []imap.UID) []byte {
	b := binary.AppendVarint([]byte{recordVersion}, at.Unix())
	last := imap.UID(0)
	for _, uid := range uids {
		b = binary.AppendUvarint(b, uint64(uid-last))
		last = uid
	}
	return b
}

func decodeExpunged(b []byte) (at time.Time, uids []imap.UID, err error) {
	d := decoder{b: b}
	d.version()
	at = d.time()
	last := imap.UID(0)
	for len(d.b) > 0 && !d.bad {
		step := d.uint32()
		if step == 0 || uint64(last)+uint64(step) > 1<<32-1 {
			d.bad = true
			break
		}
		last += imap.UID(step)
		uids = append(uids, last)
	}
	return at, uids, d.end("expunged")
}

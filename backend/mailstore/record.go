package mailstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
	"github.com/postern-mail/postern/store"
)

// Each record begins with its format's version. A newer one is refused: this
// program would lose what it does not know.
// Heads, mailboxes, messages and deliveries have newer ones of their own.
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

// versions reads the version of a record that has had several, and returns it.
func (d *decoder) versions(newest byte) byte {
	v := d.byte()
	if v == 0 || v > newest {
		d.bad = true
	}
	return v
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

	// allocated is the highest UID ever given out here, floor the highest known
	// of from anywhere; see package uid. The highest shown is below uidNext.
	allocated, floor imap.UID
	// pending messages are stored and have no UID that can be shown; octets
	// and messages do not count them.
	pending, pendingOctets int64
	// misplaced messages are shown at a UID that is not their highest.
	misplaced int64

	// parent and leaf are the register of where the mailbox stands: name is
	// what the registers of all mailboxes make of it. moved is the stamp of the
	// rename that set it, zero when it stands where it was created.
	parent         GUID
	leaf           string
	created, moved stamp
	// subscribing is the stamp of the last change of subscribed.
	subscribing stamp
	// removed: it was deleted, and is kept because others hang below it or the
	// partner may not know yet.
	removed bool
	// erased is what its deletions had seen: messages that these dots, the
	// highest of each origin, cover are gone for good. used are the highest
	// dots that ever added to it, since the store is one of a pair: it lives
	// while erased does not cover them. The slices are replaced, never changed.
	erased, used []Dot
	// digest is the sum over the messages, when summed; see digest.go.
	digest [16]byte
	summed bool
	quick  bool // the digest is a quick one; see quicksum.go
	// blocks: flags of some messages stand in blocks; see flagBlocks.
	blocks bool
}

const (
	mailboxVersion = 3

	mailboxRemoved = 1 << 0
	mailboxSummed  = 1 << 1
	mailboxBlocks  = 1 << 2
	mailboxQuick   = 1 << 3
)

// encode returns the mailbox's record. Version 3 differs from 2 only in that
// there are blocks of flags, or a quick digest, which programs that know 2 would
// pass over.
func (r *mailboxRecord) encode() []byte {
	quick := r.summed && r.quick
	b := append(make([]byte, 0, 160+len(r.name)+len(r.leaf)), mailboxVersion-1+boolByte(r.blocks || quick))
	b = appendBlock(b, r.name)
	b = appendBlock(b, string(r.use))
	b = append(b, boolByte(r.subscribed))
	for _, v := range []uint64{
		uint64(r.uidValidity), uint64(r.uidNext), r.modseq,
		uint64(r.messages), uint64(r.unseen), uint64(r.deleted), uint64(r.octets), r.expungeFloor,
		uint64(r.allocated), uint64(r.floor), uint64(r.pending), uint64(r.pendingOctets), uint64(r.misplaced),
	} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, r.parent[:]...)
	b = appendBlock(b, r.leaf)
	for _, s := range []stamp{r.created, r.moved, r.subscribing} {
		b = appendStamp(b, s)
	}
	b = append(b, boolByte(r.removed)*mailboxRemoved|boolByte(r.summed)*mailboxSummed|
		boolByte(r.blocks)*mailboxBlocks|boolByte(quick)*mailboxQuick)
	if r.summed {
		b = append(b, r.digest[:]...)
	}
	return appendVector(appendVector(b, r.erased), r.used)
}

func decodeMailbox(b []byte) (mailboxRecord, error) {
	d := decoder{b: b}
	version := d.versions(mailboxVersion)
	r := mailboxRecord{
		name: d.string(), use: imap.MailboxAttr(d.string()), subscribed: d.byte() != 0,
		uidValidity: d.uint32(), uidNext: imap.UID(d.uint32()), modseq: d.uvarint(),
		messages: d.size(), unseen: d.size(), deleted: d.size(), octets: d.size(), expungeFloor: d.uvarint(),
	}
	if version < 2 {
		// It stands at the top, with the levels above it in its leaf.
		r.leaf = r.name
		return r, d.end("mailbox")
	}
	r.allocated, r.floor = imap.UID(d.uint32()), imap.UID(d.uint32())
	r.pending, r.pendingOctets, r.misplaced = d.size(), d.size(), d.size()
	r.parent, r.leaf = d.guid(), d.string()
	r.created, r.moved, r.subscribing = d.stamp(), d.stamp(), d.stamp()
	flags := d.byte()
	r.removed, r.summed = flags&mailboxRemoved != 0, flags&mailboxSummed != 0
	r.blocks, r.quick = flags&mailboxBlocks != 0, flags&mailboxQuick != 0
	if r.summed {
		copy(r.digest[:], d.bytes(len(r.digest)))
	}
	r.erased, r.used = d.vector(), d.vector()
	return r, d.end("mailbox")
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// more is what few messages have: see Message.more. Values are immutable.
type more struct {
	// uid is the highest UID the message was ever given, when it is not shown
	// at that; 0 otherwise.
	uid imap.UID
	// asked: home is to give it another UID. On the other node it was asked, on
	// home it has yet to.
	asked bool
	// writes are this node's own writes of flags that the partner may not know.
	writes []flagset.Write
}

const (
	messageVersion = 2

	messageAsked = 1 << 0
)

// register is the highest UID the message was ever given.
func (m *Message) register() imap.UID {
	if m.more != nil && m.more.uid != 0 {
		return m.more.uid
	}
	return m.UID
}

// asked reports whether home is to give the message another UID.
func (m *Message) asked() bool { return m.more != nil && m.more.asked }

// setMore replaces what few messages have, with nothing when that is empty.
func (m *Message) setMore(to more) {
	m.more = nil
	if to.uid != 0 || to.asked || len(to.writes) > 0 {
		m.more = &to
	}
}

// moreOf is a copy of what few messages have.
func (m *Message) moreOf() more {
	if m.more == nil {
		return more{}
	}
	return *m.more
}

// encode returns the message's record. Its UID stands in the key. Most have the
// form of version 1.
func (m *Message) encode() []byte {
	version := byte(1)
	if m.more != nil {
		version = messageVersion
	}
	b := append(make([]byte, 0, 128), version)
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
	b = binary.AppendUvarint(b, uint64(m.Body.Octets))
	if m.more != nil {
		b = m.more.append(b)
	}
	return b
}

func (x *more) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.uid))
	b = append(b, boolByte(x.asked)*messageAsked)
	b = binary.AppendUvarint(b, uint64(len(x.writes)))
	for _, w := range x.writes {
		b = append(b, w.Set, w.Clear)
		b = appendStrings(b, w.SetKeywords)
		b = appendStrings(b, w.ClearKeywords)
		b = appendStamp(b, stamp{w.HLC, Dot{Origin(w.Dot.Origin), w.Dot.Seq}})
	}
	return b
}

func (d *decoder) more() *more {
	x := &more{uid: imap.UID(d.uint32()), asked: d.byte()&messageAsked != 0}
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	for range n {
		var w flagset.Write
		w.Set, w.Clear, w.SetKeywords, w.ClearKeywords = d.byte(), d.byte(), d.strings(), d.strings()
		at := d.stamp()
		w.HLC, w.Dot = at.hlc, flagset.Dot{Origin: uint64(at.dot.Origin), Seq: at.dot.Seq}
		x.writes = append(x.writes, w)
	}
	return x
}

// decodeMessage reads a record into m.
func decodeMessage(m *Message, uid imap.UID, b []byte) error {
	err := decodeInstance(m, uid, b)
	if uid == 0 {
		return fmt.Errorf("message without a UID: %w", errRecord)
	}
	return err
}

// decodeInstance is decodeMessage also for a message without a UID that can be
// shown. It fills the Instance that m has, if it has one.
func decodeInstance(m *Message, uid imap.UID, b []byte) error {
	d := decoder{b: b}
	version := d.versions(messageVersion)
	m.UID, m.more = uid, nil
	if m.Instance == nil {
		m.Instance = new(Instance)
	}
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
	if version >= 2 {
		m.more = d.more()
	}
	if m.Flags&^allFlags != 0 || trace > MaxTraceOctets {
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

// expungedVersion has the dots of the messages behind their UIDs.
const expungedVersion = 2

// encodeExpunged is the record of UIDs, in ascending order, expunged together,
// and of the dots of messages that are not just shown at another UID.
func encodeExpunged(at time.Time, uids []imap.UID, dots []Dot) []byte {
	b := []byte{expungedVersion}
	if len(dots) == 0 {
		b[0] = 1
	}
	b = binary.AppendVarint(b, at.Unix())
	if len(dots) > 0 {
		b = binary.AppendUvarint(b, uint64(len(uids)))
	}
	last := imap.UID(0)
	for _, uid := range uids {
		b = binary.AppendUvarint(b, uint64(uid-last))
		last = uid
	}
	if len(dots) > 0 {
		b = appendDots(b, dots)
	}
	return b
}

func decodeExpunged(b []byte) (at time.Time, uids []imap.UID, err error) {
	at, uids, _, err = decodeExpungedDots(b)
	return at, uids, err
}

func decodeExpungedDots(b []byte) (at time.Time, uids []imap.UID, dots []Dot, err error) {
	d := decoder{b: b}
	version := d.versions(expungedVersion)
	at = d.time()
	n := uint64(1<<64 - 1)
	if version >= 2 {
		n = d.uvarint()
	}
	last := imap.UID(0)
	for ; n > 0 && len(d.b) > 0 && !d.bad; n-- {
		step := d.uint32()
		if step == 0 || uint64(last)+uint64(step) > 1<<32-1 {
			d.bad = true
			break
		}
		last += imap.UID(step)
		uids = append(uids, last)
	}
	if version >= 2 {
		dots = d.dots()
	}
	return at, uids, dots, d.end("expunged")
}

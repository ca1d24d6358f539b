package mailstore

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
)

// A journal record, integers little-endian or varints as encoding/binary has
// them:
//
//	'J', version 2
//	flags       1 octet; 1: a MODSEQ follows the vector
//	origin      8 octets
//	first       uvarint, sequence number of the first operation
//	HLC         8 octets: 48 bits of milliseconds, 16 of counter
//	vector      what the node had applied of other origins: uvarint, how many;
//	            each origin, 8 octets, and sequence number, uvarint
//	MODSEQ      uvarint: with it a client of this node knows all operations up
//	            to this record's last and the vector
//	operations  uvarint, how many
//	each        code, uvarint length, payload; see appendPayload
//	CRC32C      4 octets, over all before
//
// Version 1, of the first release, has neither flags nor vector. Sequence
// numbers are dense in an account and origin. The chain of an origin is the
// SHA-256 of the chain before and the record.
const (
	journalMagic   = 'J'
	journalVersion = 2

	journalModSeq = 1 << 0
	// maxJournalOctets is where a commit begins another record.
	maxJournalOctets = 48 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errJournal = errors.New("malformed journal record")

// JournalRecord is what one commit did to an account: operations with dense
// sequence numbers, First for the first of them.
type JournalRecord struct {
	Origin Origin
	First  uint64
	HLC    uint64
	// Known is what the node had applied of other origins, the highest dot of
	// each: an operation that is neither known nor of the same origin happened
	// at the same time.
	Known []Dot
	// ModSeq, unless 0: a client of that node to whom this MODSEQ was told knows
	// all operations up to this record's last and those of Known.
	ModSeq uint64
	Ops    []JournalOp

	version byte // 0 is the newest
}

// OpCode is the kind of a journal operation.
type OpCode byte

// The operations. Numbers are for ever.
const (
	OpAdd OpCode = iota + 1
	OpExpunge
	OpFlags
	OpCreate
	OpRename
	OpDelete
	OpSubscribe
	// OpUid gives messages their UIDs: each has the highest it was ever given.
	OpUid
	// OpNeedUid asks home for other UIDs for Dots; UID is the highest shown.
	OpNeedUid
	// OpMove renames: Parent and Leaf.
	OpMove
	// OpEntry sets one of an account's or mailbox's registers: Space, Key and
	// Value, or Removed.
	OpEntry
	// OpHome gives out UIDs from another node: Home.
	OpHome
	// OpMerged tells which messages, Dots, a state merge brought in.
	OpMerged
	// OpFloor tells UID as one that was used in the mailbox.
	OpFloor
)

// The spaces of OpEntry. Those in small letters that belong to scripts are
// reserved: nothing writes them yet.
const (
	SpaceMetadata     = 'm'
	SpaceACL          = 'a'
	SpaceOption       = 'o'
	SpaceScript       = 's'
	SpaceActiveScript = 'S'
	SpaceVacation     = 'v'
	SpaceDuplicate    = 'd'
	SpaceSeen         = 'n'
)

// JournalOp is one operation; which fields count depends on Code. The dot of
// an operation is its record's Origin and First plus its place.
type JournalOp struct {
	Code    OpCode
	Mailbox GUID // zero for what is the account's
	Dots    []Dot
	// Message, with its dot, and Trace of an Add; its UID is zero when home is
	// to give it. Source is the instance that a copy or move was made of, in the
	// mailbox SourceMailbox. Delivery is the identity of a delivery.
	Message       Message
	Trace         []byte
	Source        Dot
	SourceMailbox GUID
	Delivery      GUID
	// Set and Clear of Flags; flags in neither are left alone.
	Set, Clear                 Flags
	SetKeywords, ClearKeywords []string
	// UIDs of Uid, one for each of Dots. UID of NeedUid and Floor.
	UIDs []imap.UID
	UID  imap.UID
	// Name of Subscribe, and of Create and Rename of the first release.
	Name string
	// Parent and Leaf of Create and Move: the mailbox it hangs below, or zero,
	// and the name below that, which holds "/" where levels between do not exist.
	Parent      GUID
	Leaf        string
	UIDValidity uint32
	SpecialUse  imap.MailboxAttr
	Subscribed  bool
	// Observed of Delete: the highest dots of each origin that it saw. Messages
	// beyond survive.
	Observed []Dot
	// Space, Key, Value and Removed of Entry.
	Space   byte
	Key     string
	Value   []byte
	Removed bool
	Home    Home

	// mark is the delivery as it is remembered, which Delivery ends.
	mark deliveryMark
}

// appendJournalHeader begins a record.
func appendJournalHeader(b []byte, r *JournalRecord) []byte {
	b = append(b, journalMagic, journalVersion, boolByte(r.ModSeq != 0)*journalModSeq)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Origin))
	b = binary.AppendUvarint(b, r.First)
	b = binary.LittleEndian.AppendUint64(b, r.HLC)
	b = appendVector(b, r.Known)
	if r.ModSeq != 0 {
		b = binary.AppendUvarint(b, r.ModSeq)
	}
	return binary.AppendUvarint(b, uint64(len(r.Ops)))
}

// sealJournal ends a record with its checksum.
func sealJournal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// chainJournal is the hash chain after record.
func chainJournal(chain [32]byte, record []byte) [32]byte {
	h := sha256.New()
	h.Write(chain[:])
	h.Write(record)
	var next [32]byte
	h.Sum(next[:0])
	return next
}

// appendJournalOp writes code, length and payload of one operation.
func appendJournalOp(b []byte, op *JournalOp) []byte {
	payload := op.appendPayload(make([]byte, 0, 256))
	b = append(b, byte(op.Code))
	return appendBlock(b, payload)
}

func (op *JournalOp) appendPayload(b []byte) []byte {
	b = append(b, op.Mailbox[:]...)
	switch op.Code {
	case OpAdd:
		m := &op.Message
		b = binary.AppendUvarint(b, uint64(m.UID))
		b = append(b, m.EmailID[:]...)
		b = append(b, byte(m.Flags))
		b = appendStrings(b, m.Keywords)
		b = binary.AppendVarint(b, m.InternalDate.Unix())
		b = binary.AppendVarint(b, m.SaveDate.Unix())
		b = append(b, m.Body.Hash[:]...)
		b = binary.AppendUvarint(b, uint64(m.Body.Octets))
		b = appendBlock(b, op.Trace)
		b = op.appendOrigins(b)
	case OpExpunge:
		b = appendDots(b, op.Dots)
	case OpFlags:
		b = appendDots(b, op.Dots)
		b = append(b, byte(op.Set), byte(op.Clear))
		b = appendStrings(b, op.SetKeywords)
		b = appendStrings(b, op.ClearKeywords)
	case OpCreate:
		b = append(b, op.Parent[:]...)
		b = appendBlock(b, op.Leaf)
		b = binary.AppendUvarint(b, uint64(op.UIDValidity))
		b = appendBlock(b, string(op.SpecialUse))
		b = append(b, boolByte(op.Subscribed))
	case OpMove:
		b = append(b, op.Parent[:]...)
		b = appendBlock(b, op.Leaf)
	case OpDelete:
		b = appendVector(b, op.Observed)
	case OpSubscribe:
		b = appendBlock(b, op.Name)
		b = append(b, boolByte(op.Subscribed))
	case OpUid:
		b = appendUIDs(b, op.Dots, op.UIDs)
	case OpNeedUid:
		b = appendDots(b, op.Dots)
		b = binary.AppendUvarint(b, uint64(op.UID))
	case OpEntry:
		b = append(b, op.Space)
		b = appendBlock(b, op.Key)
		b = append(b, boolByte(op.Removed))
		b = appendBlock(b, op.Value)
	case OpHome:
		b = binary.AppendUvarint(b, op.Home.Epoch)
		b = append(b, op.Home.Class)
	case OpMerged:
		b = appendDots(b, op.Dots)
	case OpFloor:
		b = binary.AppendUvarint(b, uint64(op.UID))
	}
	return b
}

// What stands behind the trace header of an Add.
const (
	addHasSource   = 1 << 0
	addHasDelivery = 1 << 1
)

// appendOrigins writes what a message was made of: another, or a delivery.
func (op *JournalOp) appendOrigins(b []byte) []byte {
	hasSource, hasDelivery := op.Source != Dot{}, op.mark != deliveryMark{}
	b = append(b, boolByte(hasSource)*addHasSource|boolByte(hasDelivery)*addHasDelivery)
	if hasSource {
		b = append(b, op.Source.bytes()...)
		b = append(b, op.SourceMailbox[:]...)
	}
	if hasDelivery {
		b = append(b, op.mark[:]...)
	}
	return b
}

func (op *JournalOp) readOrigins(d *decoder) {
	has := d.byte()
	if has&addHasSource != 0 {
		op.Source, op.SourceMailbox = d.dot(), d.guid()
	}
	if has&addHasDelivery != 0 {
		copy(op.mark[:], d.bytes(len(op.mark)))
		op.Delivery = op.mark.identity()
	}
	if has&^(addHasSource|addHasDelivery) != 0 {
		d.bad = true
	}
}

// appendUIDs writes the UIDs of messages: runs of one origin, each with how many
// there are, the origin, and sequence numbers and UIDs; an empty run ends it.
func appendUIDs(b []byte, dots []Dot, uids []imap.UID) []byte {
	for len(dots) > 0 {
		n := 1
		for n < len(dots) && dots[n].Origin == dots[0].Origin {
			n++
		}
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.LittleEndian.AppendUint64(b, uint64(dots[0].Origin))
		for i := range n {
			b = binary.AppendUvarint(b, dots[i].Seq)
			b = binary.AppendUvarint(b, uint64(uids[i]))
		}
		dots, uids = dots[n:], uids[n:]
	}
	return binary.AppendUvarint(b, 0)
}

func (d *decoder) uids() (dots []Dot, uids []imap.UID) {
	for {
		n := d.uvarint()
		if n == 0 || d.bad {
			return dots, uids
		}
		origin := Origin(d.uint64())
		if n > uint64(len(d.b)) {
			d.bad = true
			return dots, uids
		}
		for range n {
			dots = append(dots, Dot{origin, d.uvarint()})
			uid := d.uint32()
			d.bad = d.bad || uid == 0
			uids = append(uids, imap.UID(uid))
		}
	}
}

// appendDots writes a set of dots, origin by origin, as ascending steps.
func appendDots(b []byte, dots []Dot) []byte {
	if !areAscending(dots) {
		dots = slices.Clone(dots)
		slices.SortFunc(dots, func(a, b Dot) int {
			return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Seq, b.Seq))
		})
		dots = slices.Compact(dots)
	}
	for len(dots) > 0 {
		n := 1
		for n < len(dots) && dots[n].Origin == dots[0].Origin {
			n++
		}
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.LittleEndian.AppendUint64(b, uint64(dots[0].Origin))
		last := uint64(0)
		for _, d := range dots[:n] {
			b = binary.AppendUvarint(b, d.Seq-last)
			last = d.Seq
		}
		dots = dots[n:]
	}
	return binary.AppendUvarint(b, 0)
}

// areAscending reports whether dots are in order, each once: those of a change of
// many messages mostly are.
func areAscending(dots []Dot) bool {
	for i := 1; i < len(dots); i++ {
		if a, b := dots[i-1], dots[i]; a.Origin > b.Origin || a.Origin == b.Origin && a.Seq >= b.Seq {
			return false
		}
	}
	return true
}

func (d *decoder) dots() []Dot {
	var dots []Dot
	for {
		n := d.uvarint()
		if n == 0 || d.bad {
			return dots
		}
		origin := Origin(d.uint64())
		if n > uint64(len(d.b)) {
			d.bad = true
			return dots
		}
		last := uint64(0)
		for range n {
			last += d.uvarint()
			dots = append(dots, Dot{origin, last})
		}
	}
}

func (d *decoder) dot() Dot {
	b := d.bytes(16)
	if len(b) == 0 {
		return Dot{}
	}
	return Dot{Origin(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:])}
}

// errUnknownOp is an operation of a newer program.
var errUnknownOp = errors.New("unknown operation")

// DecodeJournal reads a journal record and verifies its checksum.
func DecodeJournal(record []byte) (*JournalRecord, error) {
	if len(record) < 6 || record[0] != journalMagic {
		return nil, errJournal
	}
	if record[1] == 0 || record[1] > journalVersion {
		return nil, fmt.Errorf("%w: version %d", errJournal, record[1])
	}
	body, sum := record[:len(record)-4], binary.LittleEndian.Uint32(record[len(record)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: checksum", errJournal)
	}
	d := decoder{b: body[1:]}
	r := &JournalRecord{}
	r.readHeader(&d)
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		return nil, errJournal
	}
	r.Ops = make([]JournalOp, 0, n)
	for i := range n {
		op := JournalOp{Code: OpCode(d.byte())}
		payload := decoder{b: d.block()}
		if op.Code == 0 || op.Code > OpFloor {
			return nil, fmt.Errorf("%w: %w %d", errJournal, errUnknownOp, op.Code)
		}
		op.readPayload(&payload, Dot{r.Origin, r.First + i}, r.version)
		if d.bad || payload.bad || len(payload.b) > 0 {
			return nil, errJournal
		}
		r.Ops = append(r.Ops, op)
	}
	if d.bad || len(d.b) > 0 {
		return nil, errJournal
	}
	return r, nil
}

func (r *JournalRecord) readHeader(d *decoder) {
	r.version = d.byte()
	flags := byte(0)
	if r.version >= 2 {
		flags = d.byte()
	}
	r.Origin, r.First, r.HLC = Origin(d.uint64()), d.uvarint(), d.uint64()
	if r.version < 2 {
		return
	}
	r.Known = d.vector()
	if flags&journalModSeq != 0 {
		r.ModSeq = d.uvarint()
	}
	if flags&^journalModSeq != 0 {
		d.bad = true
	}
}

// Last is the sequence number of the record's last operation.
func (r *JournalRecord) Last() uint64 { return r.First + uint64(len(r.Ops)) - 1 }

func (op *JournalOp) readPayload(d *decoder, dot Dot, version byte) {
	op.Mailbox = d.guid()
	switch op.Code {
	case OpAdd:
		op.readAdd(d, dot, version)
	case OpExpunge:
		op.Dots = d.dots()
	case OpFlags:
		op.Dots = d.dots()
		op.Set, op.Clear = Flags(d.byte()), Flags(d.byte())
		op.SetKeywords, op.ClearKeywords = d.strings(), d.strings()
	case OpCreate:
		if version < 2 {
			op.Name = d.string()
			op.Leaf = op.Name
		} else {
			op.Parent, op.Leaf = d.guid(), d.string()
		}
		op.UIDValidity = d.uint32()
		op.SpecialUse = imap.MailboxAttr(d.string())
		op.Subscribed = d.byte() != 0
	case OpDelete:
		if version >= 2 {
			op.Observed = d.vector()
		}
	case OpRename:
		op.Name = d.string()
		op.Leaf = op.Name
	case OpMove:
		op.Parent, op.Leaf = d.guid(), d.string()
	case OpSubscribe:
		op.Name = d.string()
		op.Subscribed = d.byte() != 0
	default:
		op.readPairPayload(d)
	}
}

// readPairPayload reads operations that only stores of a pair write.
func (op *JournalOp) readPairPayload(d *decoder) {
	switch op.Code {
	case OpUid:
		op.Dots, op.UIDs = d.uids()
	case OpNeedUid:
		op.Dots, op.UID = d.dots(), imap.UID(d.uint32())
	case OpEntry:
		op.Space, op.Key, op.Removed = d.byte(), d.string(), d.byte() != 0
		op.Value = d.block()
	case OpHome:
		op.Home = Home{Epoch: d.uvarint(), Class: d.byte()}
	case OpMerged:
		op.Dots = d.dots()
	case OpFloor:
		op.UID = imap.UID(d.uint32())
	default:
		d.bad = true
	}
}

func (op *JournalOp) readAdd(d *decoder, dot Dot, version byte) {
	m := &op.Message
	m.Dot, m.Instance = dot, new(Instance)
	m.UID = imap.UID(d.uint32())
	m.EmailID = d.guid()
	m.Flags = Flags(d.byte())
	m.Keywords = d.strings()
	m.InternalDate, m.SaveDate = d.time(), d.time()
	copy(m.Body.Hash[:], d.bytes(len(m.Body.Hash)))
	m.Body.Octets = d.size()
	op.Trace = d.block()
	m.Octets = m.Body.Octets + int64(len(op.Trace))
	if version < 2 {
		op.Source, op.Delivery = d.dot(), d.guid()
		return
	}
	op.readOrigins(d)
}

// Time is the wall clock of the commit, as far as its node's is right.
func (r *JournalRecord) Time() time.Time { return hlcTime(r.HLC) }

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

	"github.com/postern-mail/postern/store"
)

// A journal record, integers little-endian or varints as encoding/binary has
// them:
//
//	'J', version 1
//	origin      8 octets
//	first       uvarint, sequence number of the first operation
//	HLC         8 octets: 48 bits of milliseconds, 16 of counter
//	operations  uvarint, how many
//	each        code, uvarint length, payload; see appendPayload
//	CRC32C      4 octets, over all before
//
// Sequence numbers are dense in an account. The head's chain is the SHA-256 of
// the chain before and the record.
const (
	journalMagic   = 'J'
	journalVersion = 1
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
	Ops    []JournalOp
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
)

// JournalOp is one operation; which fields count depends on Code. The dot of
// an operation is its record's Origin and First plus its place.
type JournalOp struct {
	Code    OpCode
	Mailbox GUID // zero for a subscription to a name without a mailbox
	Dots    []Dot
	// Message, with its dot, and Trace of an Add. Source is the instance that
	// a copy or move was made of. Delivery is the identity of a delivery.
	Message  Message
	Trace    []byte
	Source   Dot
	Delivery GUID
	// Set and Clear of Flags; flags in neither are left alone.
	Set, Clear                 Flags
	SetKeywords, ClearKeywords []string
	// Name of Create, Rename and Subscribe.
	Name        string
	UIDValidity uint32
	SpecialUse  imap.MailboxAttr
	Subscribed  bool
}

// appendJournalHeader begins a record.
func appendJournalHeader(b []byte, r *JournalRecord) []byte {
	b = append(b, journalMagic, journalVersion)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Origin))
	b = binary.AppendUvarint(b, r.First)
	b = binary.LittleEndian.AppendUint64(b, r.HLC)
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
		b = append(b, op.Source.bytes()...)
		b = append(b, op.Delivery[:]...)
	case OpExpunge:
		b = appendDots(b, op.Dots)
	case OpFlags:
		b = appendDots(b, op.Dots)
		b = append(b, byte(op.Set), byte(op.Clear))
		b = appendStrings(b, op.SetKeywords)
		b = appendStrings(b, op.ClearKeywords)
	case OpCreate:
		b = appendBlock(b, op.Name)
		b = binary.AppendUvarint(b, uint64(op.UIDValidity))
		b = appendBlock(b, string(op.SpecialUse))
		b = append(b, boolByte(op.Subscribed))
	case OpRename:
		b = appendBlock(b, op.Name)
	case OpSubscribe:
		b = appendBlock(b, op.Name)
		b = append(b, boolByte(op.Subscribed))
	}
	return b
}

// appendDots writes a set of dots, origin by origin, as ascending steps.
func appendDots(b []byte, dots []Dot) []byte {
	dots = slices.Clone(dots)
	slices.SortFunc(dots, func(a, b Dot) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Seq, b.Seq))
	})
	dots = slices.Compact(dots)
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

// DecodeJournal reads a journal record and verifies its checksum.
func DecodeJournal(record []byte) (*JournalRecord, error) {
	if len(record) < 6 || record[0] != journalMagic {
		return nil, errJournal
	}
	if record[1] != journalVersion {
		return nil, fmt.Errorf("%w: version %d", errJournal, record[1])
	}
	body, sum := record[:len(record)-4], binary.LittleEndian.Uint32(record[len(record)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: checksum", errJournal)
	}
	d := decoder{b: body[2:]}
	r := &JournalRecord{Origin: Origin(d.uint64()), First: d.uvarint(), HLC: d.uint64()}
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		return nil, errJournal
	}
	for i := range n {
		op := JournalOp{Code: OpCode(d.byte())}
		payload := decoder{b: d.block()}
		op.readPayload(&payload, Dot{r.Origin, r.First + i})
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

func (op *JournalOp) readPayload(d *decoder, dot Dot) {
	op.Mailbox = d.guid()
	switch op.Code {
	case OpAdd:
		m := &op.Message
		m.Dot = dot
		m.UID = imap.UID(d.uint32())
		m.EmailID = d.guid()
		m.Flags = Flags(d.byte())
		m.Keywords = d.strings()
		m.InternalDate, m.SaveDate = d.time(), d.time()
		m.Body = store.Ref{}
		copy(m.Body.Hash[:], d.bytes(len(m.Body.Hash)))
		m.Body.Octets = d.size()
		op.Trace = d.block()
		m.Octets = m.Body.Octets + int64(len(op.Trace))
		op.Source = d.dot()
		op.Delivery = d.guid()
	case OpExpunge:
		op.Dots = d.dots()
	case OpFlags:
		op.Dots = d.dots()
		op.Set, op.Clear = Flags(d.byte()), Flags(d.byte())
		op.SetKeywords, op.ClearKeywords = d.strings(), d.strings()
	case OpCreate:
		op.Name = d.string()
		op.UIDValidity = d.uint32()
		op.SpecialUse = imap.MailboxAttr(d.string())
		op.Subscribed = d.byte() != 0
	case OpDelete:
	case OpRename:
		op.Name = d.string()
	case OpSubscribe:
		op.Name = d.string()
		op.Subscribed = d.byte() != 0
	default:
		d.bad = true
	}
}

// Time is the wall clock of the commit, as far as its node's is right.
func (r *JournalRecord) Time() time.Time { return hlcTime(r.HLC) }

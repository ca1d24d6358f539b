package mailstore

import (
	"encoding/binary"
	"fmt"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
)

// Two nodes whose journals do not reach each other any more compare what they
// hold: one asks, the other answers from its stored state. What they say to
// each other, all of it versioned and in the encodings of the records:
//
//	question  version 1; kind; what the kind asks for
//	answer    version 1; kind; vector of what the node has applied; the answer
//
// One asks for the header once, then page by page for registers (mailboxes,
// subscriptions, entries), then per mailbox for ranges of dots, whose digests
// are compared and which are divided where they differ, then for the messages
// that differ. Each answer stands for itself: the side that answers keeps nothing
// but an index it can make again.
const stateVersion = 1

type stateKind byte

const (
	askHeader        stateKind = 'h'
	askMailboxes     stateKind = 'b'
	askSubscriptions stateKind = 's'
	askEntries       stateKind = 'e'
	askRanges        stateKind = 'r'
	askMessages      stateKind = 'm'
)

// Bounds of questions and answers.
const (
	maxAnswerOctets = 256 << 10
	maxAskedRanges  = 16
	maxAskedDots    = 64
	// A range of at most so many messages is listed, a larger one divided by
	// so many.
	maxListed = 64
	divisor   = 16
)

var errState = fmt.Errorf("%w: state merge", ErrMalformed)

// question is what the node that merges asks.
type question struct {
	kind stateKind
	// after is the key after which a page begins.
	after []byte
	// mailbox of ranges and messages. Of its messages those are compared that
	// known covers, what the one who answers had at the beginning, or mine, what
	// the one who asks had.
	mailbox GUID
	known   []Dot
	mine    []Dot
	ranges  []dotRange
	dots    []Dot
}

// dotRange is a range of dots with what the one who names it has in it.
type dotRange struct {
	from, to Dot // without to
	count    uint64
	sum      [16]byte
}

// lastDot is behind all.
var lastDot = Dot{Origin: 1<<64 - 1, Seq: 1<<64 - 1}

func (q *question) encode() []byte {
	b := []byte{stateVersion, byte(q.kind)}
	switch q.kind {
	case askMailboxes, askSubscriptions, askEntries:
		b = appendBlock(b, q.after)
	case askRanges:
		b = append(b, q.mailbox[:]...)
		b = appendVector(appendVector(b, q.known), q.mine)
		b = appendRanges(b, q.ranges)
	case askMessages:
		b = append(b, q.mailbox[:]...)
		b = appendVector(appendVector(b, q.known), q.mine)
		b = appendDots(b, q.dots)
	}
	return b
}

func decodeQuestion(b []byte) (question, error) {
	d := decoder{b: b}
	d.version()
	q := question{kind: stateKind(d.byte())}
	switch q.kind {
	case askHeader:
	case askMailboxes, askSubscriptions, askEntries:
		q.after = d.block()
	case askRanges:
		q.mailbox, q.known, q.mine, q.ranges = d.guid(), d.vector(), d.vector(), d.ranges()
		d.bad = d.bad || len(q.ranges) > maxAskedRanges
	case askMessages:
		q.mailbox, q.known, q.mine, q.dots = d.guid(), d.vector(), d.vector(), d.dots()
		d.bad = d.bad || len(q.dots) > maxAskedDots
	default:
		d.bad = true
	}
	if d.end("question") != nil {
		return question{}, fmt.Errorf("%w: question", errState)
	}
	return q, nil
}

func appendRanges(b []byte, list []dotRange) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, r := range list {
		b = append(b, r.from.bytes()...)
		b = append(b, r.to.bytes()...)
		b = binary.AppendUvarint(b, r.count)
		b = append(b, r.sum[:]...)
	}
	return b
}

func (d *decoder) ranges() []dotRange {
	n := d.uvarint()
	if n > maxAskedRanges {
		d.bad = true
		return nil
	}
	list := make([]dotRange, n)
	for i := range list {
		r := &list[i]
		r.from, r.to, r.count = d.dot(), d.dot(), d.uvarint()
		copy(r.sum[:], d.bytes(len(r.sum)))
		if compareDots(r.from, r.to) >= 0 {
			d.bad = true
		}
	}
	return list
}

// beginAnswer begins the answer to a question.
func beginAnswer(kind stateKind, known []Dot) []byte {
	return appendVector([]byte{stateVersion, byte(kind)}, known)
}

// openAnswer reads the beginning of an answer.
func openAnswer(b []byte, kind stateKind) (d decoder, known []Dot, err error) {
	d = decoder{b: b}
	d.version()
	if stateKind(d.byte()) != kind {
		d.bad = true
	}
	known = d.vector()
	if d.bad {
		return d, nil, fmt.Errorf("%w: answer", errState)
	}
	return d, known, nil
}

// stateHeader is the answer to the first question.
type stateHeader struct {
	position Position
	hlc      uint64
	// lastUIDValidity is the highest that was given out.
	lastUIDValidity uint32
}

func (h *stateHeader) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(h.position.Origin))
	b = binary.AppendUvarint(b, uint64(len(h.position.Vector)))
	for _, e := range h.position.Vector {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Origin))
		b = binary.AppendUvarint(b, e.Seq)
		b = append(b, e.Chain[:]...)
		b = append(b, boolByte(e.Closed))
	}
	b = binary.AppendUvarint(b, h.position.Home.Epoch)
	b = append(b, h.position.Home.Class)
	b = binary.LittleEndian.AppendUint64(b, h.hlc)
	return binary.AppendUvarint(b, uint64(h.lastUIDValidity))
}

func (d *decoder) stateHeader() (h stateHeader) {
	h.position.Origin = Origin(d.uint64())
	n := d.uvarint()
	if n > maxOrigins {
		d.bad = true
		return h
	}
	for range n {
		e := VectorEntry{Origin: Origin(d.uint64()), Seq: d.uvarint()}
		copy(e.Chain[:], d.bytes(len(e.Chain)))
		e.Closed = d.byte() != 0
		h.position.Vector = append(h.position.Vector, e)
	}
	h.position.Home = Home{Epoch: d.uvarint(), Class: d.byte()}
	h.hlc, h.lastUIDValidity = d.uint64(), d.uint32()
	return h
}

// The answers to a range.
const (
	rangeEqual = iota
	rangeListed
	rangeDivided
)

// stateItem is a message as one node has it. Its UID is the highest it was ever
// given, its operation what would have added it.
type stateItem struct {
	op     JournalOp
	writes []flagset.Write
}

func (it *stateItem) append(b []byte) []byte {
	b = append(b, it.op.Message.Dot.bytes()...)
	b = appendBlock(b, it.op.appendPayload(nil))
	return (&more{writes: it.writes}).append(b)
}

func (d *decoder) stateItem() (it stateItem) {
	dot := d.dot()
	payload := decoder{b: d.block()}
	it.op = JournalOp{Code: OpAdd}
	it.op.readPayload(&payload, dot, journalVersion)
	if more := d.more(); more != nil {
		it.writes = more.writes
	}
	if payload.bad || len(payload.b) > 0 || dot.Origin == 0 || it.op.check() != nil {
		d.bad = true
	}
	return it
}

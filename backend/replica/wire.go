package replica

import (
	"encoding/binary"
	"errors"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// errFrame means that the partner sent what no version of us would.
var errFrame = errors.New("malformed frame")

// parser reads the fields of a payload. After the first bad one it yields zeros.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.bad, p.b = true, nil
		return 0
	}
	p.b = p.b[n:]
	return v
}

// size reads a number of octets.
func (p *parser) size() int64 {
	v := p.uvarint()
	if v > 1<<62 {
		p.bad = true
		return 0
	}
	return int64(v)
}

func (p *parser) byte() byte {
	if b := p.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uint64() uint64 {
	if b := p.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// bytes returns the next n octets, within the payload; nil when there are not
// as many.
func (p *parser) bytes(n int) []byte {
	if n < 0 || n > len(p.b) {
		p.bad, p.b = true, nil
		return nil
	}
	b := p.b[:n:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) block() []byte {
	n := p.uvarint()
	if n > uint64(len(p.b)) {
		p.bad, p.b = true, nil
		return nil
	}
	return p.bytes(int(n))
}

// count reads how many items follow, each of at least so many octets.
func (p *parser) count(octets int) int {
	n := p.uvarint()
	if n > uint64(len(p.b)/octets) {
		p.bad, p.b = true, nil
		return 0
	}
	return int(n)
}

func (p *parser) guid() (g mailstore.GUID) {
	copy(g[:], p.bytes(len(g)))
	return g
}

func (p *parser) ref() (r store.Ref) {
	copy(r.Hash[:], p.bytes(len(r.Hash)))
	r.Octets = p.size()
	return r
}

// rest returns what follows all fields.
func (p *parser) rest() []byte { return p.bytes(len(p.b)) }

// end is nil when all was read and nothing else stands there.
func (p *parser) end() error {
	if p.bad || len(p.b) > 0 {
		return errFrame
	}
	return nil
}

func appendBlock[T string | []byte](b []byte, block T) []byte {
	b = binary.AppendUvarint(b, uint64(len(block)))
	return append(b, block...)
}

func appendRef(b []byte, ref store.Ref) []byte {
	b = append(b, ref.Hash[:]...)
	return binary.AppendUvarint(b, uint64(ref.Octets))
}

func appendVector(b []byte, v Vector) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	for _, e := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Origin))
		b = binary.AppendUvarint(b, e.Seq)
		b = append(b, e.Chain[:]...)
		b = append(b, boolByte(e.Closed))
	}
	return b
}

func (p *parser) vector() Vector {
	v := make(Vector, 0, 2)
	for range p.count(8 + 1 + 32 + 1) {
		e := VectorEntry{Origin: mailstore.Origin(p.uint64()), Seq: p.uvarint()}
		copy(e.Chain[:], p.bytes(len(e.Chain)))
		e.Closed = p.byte() != 0
		v = append(v, e)
	}
	return v
}

func appendFloors(b []byte, floors []MailboxFloor) []byte {
	b = binary.AppendUvarint(b, uint64(len(floors)))
	for _, f := range floors {
		b = append(b, f.Mailbox[:]...)
		b = binary.AppendUvarint(b, uint64(f.UID))
	}
	return b
}

func (p *parser) floors() []MailboxFloor {
	var floors []MailboxFloor
	for range p.count(16 + 1) {
		f := MailboxFloor{Mailbox: p.guid()}
		uid := p.uvarint()
		if uid > 1<<32-1 {
			p.bad = true
		}
		f.UID = uint32(uid)
		floors = append(floors, f)
	}
	return floors
}

func appendPosition(b []byte, pos *Position) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(pos.Origin))
	b = appendVector(b, pos.Vector)
	b = binary.AppendUvarint(b, pos.Home.Epoch)
	b = append(b, pos.Home.Class)
	b = appendFloors(b, pos.Floors)
	b = binary.AppendUvarint(b, pos.StreamFrom)
	b = append(b, pos.Digest[:]...)
	b = append(b, boolByte(pos.Settled)|boolByte(pos.Joined)<<1)
	return binary.AppendUvarint(b, pos.ModSeq)
}

func (p *parser) position() (pos Position) {
	pos.Origin = mailstore.Origin(p.uint64())
	pos.Vector = p.vector()
	pos.Home = p.home()
	pos.Floors = p.floors()
	pos.StreamFrom = p.uvarint()
	copy(pos.Digest[:], p.bytes(len(pos.Digest)))
	flags := p.byte()
	pos.Settled, pos.Joined = flags&1 != 0, flags&2 != 0
	pos.ModSeq = p.uvarint()
	return pos
}

func (p *parser) home() Home { return Home{Epoch: p.uvarint(), Class: p.byte() & 1} }

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// greeting is the payload of Ask, Attach and Accept: which attachment, whose
// account, and where the sender stands.
type greeting struct {
	attachment uint64
	name       string
	position   Position
}

func (g *greeting) encode() []byte {
	b := binary.AppendUvarint(nil, g.attachment)
	b = appendBlock(b, g.name)
	return appendPosition(b, &g.position)
}

const maxNameOctets = 512

func parseGreeting(payload []byte) (g greeting, err error) {
	p := parser{b: payload}
	g.attachment = p.uvarint()
	g.name = string(p.block())
	g.position = p.position()
	if len(g.name) > maxNameOctets {
		return g, errFrame
	}
	return g, p.end()
}

// Reason is why an attachment was refused or ended.
type Reason uint8

// The reasons. The numbers are for ever.
const (
	ReasonPaused      Reason = 1 // by an operator
	ReasonQuarantined Reason = 2 // a record could not be applied
	ReasonYouAreStale Reason = 3 // the receiver knows less of its operations than the sender
	ReasonIAmStale    Reason = 4
	ReasonAgain       Reason = 5 // something failed; attach again later
	ReasonTimeout     Reason = 6
	ReasonRehome      Reason = 7 // the home changes; attach again at once
)

func (r Reason) String() string {
	switch r {
	case ReasonPaused:
		return "paused by an operator"
	case ReasonQuarantined:
		return "a record cannot be applied"
	case ReasonYouAreStale, ReasonIAmStale:
		return "stale incarnation"
	case ReasonTimeout:
		return "no answer in time"
	case ReasonRehome:
		return "the home changes"
	}
	return "something failed"
}

// refusal is the payload of Refuse and Detach.
type refusal struct {
	attachment uint64
	reason     Reason
	detail     string
}

func (r refusal) encode() []byte {
	b := binary.AppendUvarint(nil, r.attachment)
	b = append(b, byte(r.reason))
	return appendBlock(b, r.detail)
}

func parseRefusal(payload []byte) (r refusal, err error) {
	p := parser{b: payload}
	r.attachment = p.uvarint()
	r.reason = Reason(p.byte())
	r.detail = string(p.block())
	return r, p.end()
}

// body is a whole small one.
type body struct {
	ref    store.Ref
	octets []byte
}

func appendBodies(b []byte, bodies []body) []byte {
	b = binary.AppendUvarint(b, uint64(len(bodies)))
	for _, in := range bodies {
		b = append(b, in.ref.Hash[:]...)
		b = appendBlock(b, in.octets)
	}
	return b
}

func (p *parser) bodies() []body {
	var bodies []body
	for range p.count(32 + 1) {
		var in body
		copy(in.ref.Hash[:], p.bytes(len(in.ref.Hash)))
		in.octets = p.block()
		in.ref.Octets = int64(len(in.octets))
		bodies = append(bodies, in)
	}
	return bodies
}

// operations is the payload of Ops: records with dense sequence numbers, what
// bodies they name, and some of these.
type operations struct {
	attachment uint64
	records    []Record
	bodies     []body
}

func (o *operations) encode() []byte {
	n := 64
	for _, r := range o.records {
		n += len(r.Raw) + 40 + 40*len(r.Bodies)
	}
	for _, in := range o.bodies {
		n += len(in.octets) + 40
	}
	b := binary.AppendUvarint(make([]byte, 0, n), o.attachment)
	b = binary.AppendUvarint(b, uint64(len(o.records)))
	for _, r := range o.records {
		b = binary.AppendUvarint(b, r.First)
		b = binary.AppendUvarint(b, r.Last-r.First)
		b = appendBlock(b, r.Raw)
		b = binary.AppendUvarint(b, uint64(len(r.Bodies)))
		for _, ref := range r.Bodies {
			b = appendRef(b, ref)
		}
	}
	return appendBodies(b, o.bodies)
}

func parseOperations(payload []byte) (o operations, err error) {
	p := parser{b: payload}
	o.attachment = p.uvarint()
	for range p.count(4) {
		r := Record{First: p.uvarint()}
		r.Last = r.First + p.uvarint()
		if r.Last < r.First {
			p.bad = true
		}
		r.Raw = p.block()
		for range p.count(32 + 1) {
			r.Bodies = append(r.Bodies, p.ref())
		}
		o.records = append(o.records, r)
	}
	o.bodies = p.bodies()
	return o, p.end()
}

// receipt is the payload of Ack.
type receipt struct {
	attachment uint64
	ack        Ack
	digest     Digest
	hasDigest  bool
}

func (r *receipt) encode() []byte {
	b := binary.AppendUvarint(make([]byte, 0, 192), r.attachment)
	b = binary.AppendUvarint(b, r.ack.Seq)
	b = appendVector(b, r.ack.Vector)
	b = appendFloors(b, r.ack.Floors)
	b = binary.AppendUvarint(b, r.ack.ModSeq)
	b = append(b, boolByte(r.hasDigest))
	return append(b, r.digest[:]...)
}

func parseReceipt(payload []byte) (r receipt, err error) {
	p := parser{b: payload}
	r.attachment = p.uvarint()
	r.ack.Seq = p.uvarint()
	r.ack.Vector = p.vector()
	r.ack.Floors = p.floors()
	r.ack.ModSeq = p.uvarint()
	r.hasDigest = p.byte() != 0
	copy(r.digest[:], p.bytes(len(r.digest)))
	return r, p.end()
}

// part is the payload of Want (octets is how many are asked for), Data and
// Gone.
type part struct {
	attachment uint64
	ref        store.Ref
	offset     int64
	asked      int64
	damaged    bool
	octets     []byte
}

func (p *part) encode() []byte {
	b := binary.AppendUvarint(make([]byte, 0, len(p.octets)+80), p.attachment)
	b = appendRef(b, p.ref)
	b = binary.AppendUvarint(b, uint64(p.offset))
	b = binary.AppendUvarint(b, uint64(p.asked))
	b = append(b, boolByte(p.damaged))
	return append(b, p.octets...)
}

func parsePart(payload []byte) (r part, err error) {
	p := parser{b: payload}
	r.attachment = p.uvarint()
	r.ref = p.ref()
	r.offset = p.size()
	r.asked = p.size()
	r.damaged = p.byte() != 0
	r.octets = p.rest()
	if r.offset > r.ref.Octets || int64(len(r.octets)) > r.ref.Octets-r.offset {
		return r, errFrame
	}
	return r, p.end()
}

// stamped is a payload of one attachment whose rest others read.
func stamped(attachment uint64, rest []byte) []byte {
	b := binary.AppendUvarint(make([]byte, 0, len(rest)+10), attachment)
	return append(b, rest...)
}

// unstamp splits what stamped made.
func unstamp(payload []byte) (attachment uint64, rest []byte, err error) {
	p := parser{b: payload}
	attachment = p.uvarint()
	rest = p.rest()
	return attachment, rest, p.end()
}

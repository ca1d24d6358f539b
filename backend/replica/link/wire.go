package link

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// What goes over the wire is records: an octet of flags, three octets of
// length, and the payload. A frame is one or more records of its class, the
// first with its header; records of different classes mix. Numbers are big
// endian. A record with its header fills a TLS record at most.
const (
	recordHeader = 4
	maxRecord    = 1<<14 - recordHeader
	frameHeader  = 22

	classBits   = 0b0011
	control     = 0b0011 // in place of a class: the link's own messages
	firstRecord = 0b0100
	lastRecord  = 0b1000
	knownFlags  = classBits | firstRecord | lastRecord

	compressed = 0b01 // flag of a frame
)

// frameCost is what a frame counts for beside its body.
const frameCost = 64

func costOf(body int) uint32 { return uint32(body) + frameCost }

// appendRecord appends a record's header; the payload follows.
func appendRecord(b []byte, flags uint8, length int) []byte {
	return append(b, flags, byte(length>>16), byte(length>>8), byte(length))
}

// message is what a decoder finds: a frame, or one of the link's own messages.
type message struct {
	class   Class // of a frame
	frame   Frame
	control []byte // nil for a frame; valid until the next read
}

// decoder puts frames together out of records. Each class holds at most one
// unfinished frame, so at most 3 MiB.
type decoder struct {
	from     io.Reader
	unzip    *zstd.Decoder
	record   [maxRecord]byte
	unfinish [classes]unfinished
}

// unfinished is a frame of which records are missing.
type unfinished struct {
	open    bool
	flags   uint8
	raw     int // octets of the body
	frame   Frame
	encoded []byte // the body as it is sent
}

func newDecoder(from io.Reader) *decoder {
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxFrame+1), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return &decoder{from: from, unzip: unzip}
}

func (d *decoder) close() { d.unzip.Close() }

// next reads up to the end of the next frame or control message.
func (d *decoder) next() (message, error) {
	for {
		flags, payload, err := d.readRecord()
		if err != nil {
			return message{}, err
		}
		if flags&classBits == control {
			if flags&(firstRecord|lastRecord) != firstRecord|lastRecord || len(payload) == 0 {
				return message{}, fmt.Errorf("%w: a control message in pieces", ErrProtocol)
			}
			return message{control: payload}, nil
		}
		class := Class(flags & classBits)
		frame, complete, err := d.add(&d.unfinish[class], flags, payload)
		if err != nil || complete {
			return message{class: class, frame: frame}, err
		}
	}
}

func (d *decoder) readRecord() (flags uint8, payload []byte, err error) {
	var h [recordHeader]byte
	if _, err := io.ReadFull(d.from, h[:]); err != nil {
		return 0, nil, err
	}
	n := int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	if h[0]&^knownFlags != 0 || n > maxRecord {
		return 0, nil, fmt.Errorf("%w: record of %d octets with flags %#x", ErrProtocol, n, h[0])
	}
	payload = d.record[:n]
	_, err = io.ReadFull(d.from, payload)
	return h[0], payload, err
}

// add adds a record to its class's frame.
func (d *decoder) add(u *unfinished, flags uint8, payload []byte) (Frame, bool, error) {
	if first := flags&firstRecord != 0; first == u.open {
		return Frame{}, false, fmt.Errorf("%w: a frame begins within another, or nowhere", ErrProtocol)
	} else if first {
		var err error
		if payload, err = u.begin(payload); err != nil {
			return Frame{}, false, err
		}
	}
	if len(u.encoded)+len(payload) > u.raw || len(payload) == 0 && flags&lastRecord == 0 {
		return Frame{}, false, fmt.Errorf("%w: a frame is longer than it said", ErrProtocol)
	}
	u.encoded = append(u.encoded, payload...)
	if flags&lastRecord == 0 {
		return Frame{}, false, nil
	}
	frame, err := d.finish(u)
	*u = unfinished{}
	return frame, true, err
}

func (u *unfinished) begin(payload []byte) (rest []byte, err error) {
	if len(payload) < frameHeader {
		return nil, fmt.Errorf("%w: a frame without a whole header", ErrProtocol)
	}
	raw := binary.BigEndian.Uint32(payload[2:])
	if raw > MaxFrame || payload[1]&^compressed != 0 {
		return nil, fmt.Errorf("%w: frame of %d octets with flags %#x", ErrProtocol, raw, payload[1])
	}
	*u = unfinished{open: true, flags: payload[1], raw: int(raw), frame: Frame{Type: payload[0], Stream: Stream(payload[6:frameHeader])}}
	return payload[frameHeader:], nil
}

func (d *decoder) finish(u *unfinished) (Frame, error) {
	frame := u.frame
	frame.Body = u.encoded
	if u.flags&compressed != 0 {
		body, err := d.unzip.DecodeAll(u.encoded, make([]byte, 0, u.raw))
		if err != nil {
			return frame, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		frame.Body = body
	}
	if len(frame.Body) != u.raw {
		return frame, fmt.Errorf("%w: a frame of %d octets has %d", ErrProtocol, u.raw, len(frame.Body))
	}
	return frame, nil
}

// Compression is tried on bodies of at least minCompress octets. Where it does
// not save an eighth, as with what is compressed already, the next skipAfter
// frames of the class go as they are.
const (
	minCompress = 512
	skipAfter   = 15
)

// encoder turns frames into records. It belongs to one goroutine.
type encoder struct {
	zip     *zstd.Encoder
	skip    [classes]int
	scratch [classes][]byte
	left    [classes]pending
}

// pending is what is still to be sent of a class's frame.
type pending struct {
	header [frameHeader]byte
	body   []byte
	begun  bool
	open   bool
}

func newEncoder() *encoder {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(256<<10))
	if err != nil {
		panic(err) // the options are constants
	}
	return &encoder{zip: zip}
}

// open reports whether a class has records left.
func (e *encoder) open(c Class) bool { return e.left[c].open }

// begin takes the next frame of a class that has none.
func (e *encoder) begin(c Class, f Frame) {
	p := &e.left[c]
	*p = pending{open: true, body: f.Body}
	p.header[0] = f.Type
	binary.BigEndian.PutUint32(p.header[2:], uint32(len(f.Body)))
	copy(p.header[6:], f.Stream[:])
	if len(f.Body) < minCompress {
		return
	}
	if e.skip[c] > 0 {
		e.skip[c]--
		return
	}
	e.scratch[c] = e.zip.EncodeAll(f.Body, e.scratch[c][:0])
	if len(e.scratch[c]) > len(f.Body)-len(f.Body)/8 {
		e.skip[c] = skipAfter
		return
	}
	p.header[1] |= compressed
	p.body = e.scratch[c]
}

// record appends the next record of a class.
func (e *encoder) record(b []byte, c Class) []byte {
	p := &e.left[c]
	flags, room := uint8(c), maxRecord
	if !p.begun {
		flags |= firstRecord
		room -= frameHeader
	}
	n := min(room, len(p.body))
	if n == len(p.body) {
		flags |= lastRecord
	}
	if p.begun {
		b = appendRecord(b, flags, n)
	} else {
		b = appendRecord(b, flags, n+frameHeader)
		b = append(b, p.header[:]...)
	}
	b = append(b, p.body[:n]...)
	p.body, p.begun = p.body[n:], true
	if flags&lastRecord != 0 {
		p.open, p.body = false, nil
	}
	return b
}

package mailstore

import (
	"encoding/binary"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

// The forms of a Meta record, after its version. A message whose header or
// structure is too large for one keeps its trace header there; the rest is
// read from its body when it is asked for.
const (
	metaWhole     = 1
	metaTraceOnly = 2

	maxMetaOctets = store.MaxValueOctets - 4<<10
)

// encodeMeta returns the record of what a scan of the body found and of the
// trace header before it. Offsets in the record count from the body's start.
func encodeMeta(trace []byte, r *mime.Result) []byte {
	size := len(trace) + len(r.Header) + len(r.Envelope) + len(r.BodyStructure) + len(r.Body) + 128
	if r.Header != nil && size <= maxMetaOctets {
		b := append(make([]byte, 0, size), recordVersion, metaWhole)
		b = appendBlock(b, trace)
		b = appendBlock(b, r.Header)
		b = appendBlock(b, r.Envelope)
		b = appendBlock(b, r.BodyStructure)
		b = appendBlock(b, r.Body)
		b = binary.AppendVarint(b, r.SentDate)
		b = appendPart(b, r.Root, 0)
		if len(b) <= maxMetaOctets {
			return b
		}
	}
	return appendBlock([]byte{recordVersion, metaTraceOnly}, trace)
}

// decodeMeta reads a record. whole is false when only the trace header stands
// in it.
func decodeMeta(b []byte) (trace []byte, found *mime.Result, err error) {
	d := decoder{b: b}
	d.version()
	form := d.byte()
	trace = d.block()
	switch form {
	case metaWhole:
		found = &mime.Result{Header: d.block(), Envelope: d.block(), BodyStructure: d.block(), Body: d.block(), SentDate: d.varint()}
		budget := maxStoredParts
		found.Root = d.part(0, &budget)
	case metaTraceOnly:
	default:
		d.bad = true
	}
	return trace, found, d.end("message structure")
}

// newMeta joins a trace header and what stands below it into the whole
// message's Meta. It takes found over.
func newMeta(trace []byte, found *mime.Result) *Meta {
	header := found.Header
	if len(trace) > 0 {
		header = append(append(make([]byte, 0, len(trace)+len(header)), trace...), header...)
		shift(found.Root, int64(len(trace)))
		found.Root.Header.Start = 0
	}
	return &Meta{
		Header: header, Envelope: found.Envelope, BodyStructure: found.BodyStructure, Body: found.Body,
		SentDate: found.SentDate, Root: found.Root,
	}
}

func shift(p *mime.Part, by int64) {
	p.Header.Start += by
	p.Header.End += by
	p.Body.Start += by
	p.Body.End += by
	for _, child := range p.Parts {
		shift(child, by)
	}
}

// maxStoredParts bounds what a damaged record makes us allocate.
const maxStoredParts = 1 << 12

// appendPart writes a part and those in it: offsets as steps from base, where
// the part that holds it begins.
func appendPart(b []byte, p *mime.Part, base int64) []byte {
	b = append(b, byte(p.Kind)|byte(p.Encoding)<<4)
	b = binary.AppendUvarint(b, uint64(p.Header.Start-base))
	b = binary.AppendUvarint(b, uint64(p.Header.Len()))
	b = binary.AppendUvarint(b, uint64(p.Body.Len()))
	if p.Kind == mime.Leaf {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(p.Parts)))
	for _, child := range p.Parts {
		b = appendPart(b, child, p.Header.Start)
	}
	return b
}

func (d *decoder) part(base int64, budget *int) *mime.Part {
	if *budget--; *budget < 0 {
		d.bad = true
	}
	kind := d.byte()
	p := &mime.Part{Kind: mime.Kind(kind & 15), Encoding: mime.Encoding(kind >> 4)}
	p.Header.Start = base + d.size()
	p.Header.End = p.Header.Start + d.size()
	p.Body.Start = p.Header.End
	p.Body.End = p.Body.Start + d.size()
	if p.Kind == mime.Leaf || d.bad {
		return p
	}
	n := d.uvarint()
	if n > uint64(len(d.b)) || p.Kind > mime.Message || p.Kind == mime.Message && n != 1 || p.Body.End < 0 {
		d.bad = true
		return p
	}
	for range n {
		if d.bad {
			break
		}
		p.Parts = append(p.Parts, d.part(p.Header.Start, budget))
	}
	return p
}

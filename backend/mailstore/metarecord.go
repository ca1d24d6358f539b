package mailstore

import (
	"encoding/binary"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

// The forms of a Meta record, after its version. A message whose header or
// structure is too large for one keeps its trace header there; the rest is
// read from its body when it is asked for. Version 2 has the preview behind
// the rest; records of version 1 get theirs when somebody asks for it.
const (
	metaVersion = 2

	metaWhole     = 1
	metaTraceOnly = 2

	maxMetaOctets = store.MaxValueOctets - 4<<10
)

// encodeMeta returns the record of what a scan of the body found and of the
// trace header before it. Offsets in the record count from the body's start.
func encodeMeta(trace []byte, r *mime.Result) []byte {
	size := len(trace) + len(r.Header) + len(r.Envelope) + len(r.BodyStructure) + len(r.Body) + len(r.Preview) + 128
	if r.Header != nil && size <= maxMetaOctets {
		b := append(make([]byte, 0, size), metaVersion, metaWhole)
		b = appendBlock(b, trace)
		b = appendBlock(b, r.Header)
		b = appendBlock(b, r.Envelope)
		b = appendBlock(b, r.BodyStructure)
		b = appendBlock(b, r.Body)
		b = binary.AppendVarint(b, r.SentDate)
		b = appendPart(b, r.Root, 0)
		b = appendBlock(b, r.Preview)
		if len(b) <= maxMetaOctets {
			return b
		}
	}
	return appendBlock([]byte{recordVersion, metaTraceOnly}, trace)
}

// lacksPreview reports whether a record is one of the first release.
func lacksPreview(record []byte) bool {
	return len(record) > 1 && record[0] == 1 && record[1] == metaWhole
}

// decodeMeta reads a record. found is nil when only the trace header stands in
// it.
func decodeMeta(b []byte) (trace []byte, found *mime.Result, err error) {
	whole := new(mime.Result)
	trace, isWhole, err := decodeMetaInto(whole, b, MetaAll)
	if isWhole {
		found = whole
	}
	return trace, found, err
}

// decodeMetaInto is decodeMeta for those who do not want everything: found is
// filled in where the whole stands in the record. All but the Root lies within
// b. The Root and the preview, and with them the rest of the record, are only
// looked at where one of them is wanted.
func decodeMetaInto(found *mime.Result, b []byte, want MetaParts) (trace []byte, isWhole bool, err error) {
	d := decoder{b: b}
	version := d.versions(metaVersion)
	form := d.byte()
	trace = d.block()
	switch form {
	case metaWhole:
		isWhole = true
		found.Header, found.Envelope, found.BodyStructure, found.Body, found.SentDate = d.block(), d.block(), d.block(), d.block(), d.varint()
		if want&(MetaRoot|MetaPreview) == 0 && !d.bad {
			return trace, true, nil
		}
		if budget := maxStoredParts; want&MetaRoot != 0 {
			found.Root = d.part(0, &budget)
		} else {
			d.skipPart(&budget)
		}
		if version >= 2 {
			if found.Preview = d.block(); len(found.Preview) == 0 {
				found.Preview = nil
			}
		}
	case metaTraceOnly:
	default:
		d.bad = true
	}
	return trace, isWhole, d.end("message structure")
}

// newMeta joins a trace header and what stands below it into the whole
// message's Meta. It takes found over.
func newMeta(trace []byte, found *mime.Result) *Meta {
	header := append(append(make([]byte, 0, len(trace)+len(found.Header)), trace...), found.Header...)
	shiftBelow(found.Root, trace)
	return &Meta{
		Header: header, Envelope: found.Envelope, BodyStructure: found.BodyStructure, Body: found.Body,
		SentDate: found.SentDate, Root: found.Root, Preview: found.Preview,
	}
}

// shiftBelow makes the structure of a body that of the message whose header
// begins with a trace header.
func shiftBelow(root *mime.Part, trace []byte) {
	if len(trace) > 0 {
		shift(root, int64(len(trace)))
		root.Header.Start = 0
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

// skipPart steps over a part and those in it.
func (d *decoder) skipPart(budget *int) {
	if *budget--; *budget < 0 {
		d.bad = true
	}
	kind := mime.Kind(d.byte() & 15)
	for range 3 {
		d.uvarint()
	}
	if kind == mime.Leaf {
		return
	}
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		d.skipPart(budget)
	}
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

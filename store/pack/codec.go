package pack

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// codec compresses and decompresses the data of records, each by itself. It
// has no state between them. It is safe for concurrent use.
type codec struct {
	encoding sync.Once
	encoder  *zstd.Encoder
	decoding sync.Once
	decoder  *zstd.Decoder
}

// worthwhile is the part of the octets that a compressed piece must save.
const worthwhile = 8

// compress appends data, compressed, to buf. It returns nil when that does not
// save an eighth.
func (c *codec) compress(buf, data []byte) []byte {
	c.encoding.Do(func() {
		// Base64 has no repeats, but each of its octets holds six bits only.
		// Records have a checksum. Options of no bad value return no error.
		c.encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithAllLitEntropyCompression(true),
			zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(largePiece))
	})
	before := len(buf)
	buf = c.encoder.EncodeAll(data, buf)
	if len(buf)-before > len(data)-len(data)/worthwhile {
		return nil
	}
	return buf
}

// decompress fills data, which has the length that the octets had.
func (c *codec) decompress(data, compressed []byte) error {
	c.decoding.Do(func() {
		c.decoder, _ = zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(largePiece),
			zstd.WithDecoderMaxWindow(largePiece), zstd.WithDecoderConcurrency(0))
	})
	out, err := c.decoder.DecodeAll(compressed, data[:0:len(data)])
	if err == nil && len(out) != len(data) {
		err = fmt.Errorf("%d octets instead of %d", len(out), len(data))
	}
	if err != nil {
		return fmt.Errorf("%w: decompress: %w", errDamaged, err)
	}
	return nil
}

// read reads and verifies the data of a piece, into buf, which has room for
// the piece with a header.
func (c *codec) read(p *packFile, at piece, buf []byte) (data []byte, err error) {
	if !at.compressed() {
		record, err := p.readRecord(at, buf)
		if err != nil {
			return nil, err
		}
		return record[recordHeader:], nil
	}
	records := recordsOf(at.stored)
	scratch := records.Get().(*[]byte)
	defer records.Put(scratch)
	record, err := p.readRecord(at, *scratch)
	if err != nil {
		return nil, err
	}
	data = buf[:at.octets]
	if err := c.decompress(data, record[recordHeader:]); err != nil {
		return nil, fmt.Errorf("pack %x at %d: %w", p.number, at.offset, err)
	}
	return data, nil
}

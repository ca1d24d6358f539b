package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// clientBlock is how much content is written at once; each block has a
// deadline of its own.
const clientBlock = 64 << 10

var clientBlocks = sync.Pool{New: func() any {
	b := make([]byte, 0, 2*clientBlock+16)
	return &b
}}

// sendChunk sends the content as the one and last chunk (RFC 3030).
func (t *clientTransaction) sendChunk(ctx context.Context, small *clientBuffer) error {
	octets := t.m.Octets
	if small.whole {
		octets = int64(len(small.octets))
	}
	t.c.wire.append("BDAT " + strconv.FormatInt(octets, 10) + " LAST")
	t.c.wire.out = append(t.c.wire.out, small.octets...)
	if err := t.c.wire.flush(ctx, t.c.cfg.Timeouts.DataBlock); err != nil {
		return err
	}
	if small.whole {
		return nil
	}
	return t.streamRest(ctx, octets, int64(len(small.octets)), func(dst, p []byte) []byte { return append(dst, p...) })
}

// sendStuffed sends the content after 354 (RFC 5321 section 4.5.2), up to and
// with the final dot.
func (t *clientTransaction) sendStuffed(ctx context.Context, small *clientBuffer) error {
	var s clientStuffer
	out := clientBlocks.Get().(*[]byte)
	defer clientBlocks.Put(out)
	*out = s.stuff((*out)[:0], small.octets)
	if small.whole {
		*out = s.finish(*out)
		return t.c.wire.write(ctx, *out, t.c.cfg.Timeouts.DataBlock)
	}
	if err := t.c.wire.write(ctx, *out, t.c.cfg.Timeouts.DataBlock); err != nil {
		return err
	}
	if err := t.streamRest(ctx, t.m.Octets, int64(len(small.octets)), s.stuff); err != nil {
		return err
	}
	*out = s.finish((*out)[:0])
	return t.c.wire.write(ctx, *out, t.c.cfg.Timeouts.DataBlock)
}

// streamRest sends what follows the first block, transformed by encode. The
// content must have exactly total octets, 0 for any number, of which read are
// gone. An error leaves the message without its end, so the peer drops it.
func (t *clientTransaction) streamRest(ctx context.Context, total, read int64, encode func(dst, p []byte) []byte) error {
	in, out := clientBuffers.Get().(*clientBuffer), clientBlocks.Get().(*[]byte)
	defer clientReleaseBuffer(in)
	defer clientBlocks.Put(out)
	for done := false; !done; {
		n, err := io.ReadFull(t.m.Content, in.octets[:clientBlock])
		done = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !done {
			return clientContent(err)
		}
		read += int64(n)
		if total > 0 && (read > total || done && read < total) {
			return clientContent(fmt.Errorf("content has %d octets, not %d", read, total))
		}
		if *out = encode((*out)[:0], in.octets[:n]); len(*out) == 0 {
			continue
		}
		if err := t.c.wire.write(ctx, *out, t.c.cfg.Timeouts.DataBlock); err != nil {
			return err
		}
	}
	return nil
}

// clientStuffer writes content in the form DATA wants: a dot doubled at the
// beginning of a line, every line ended by CRLF. Stray CR and LF, which stored
// messages do not hold, never reach the wire: a peer that reads them as line
// ends could be made to see an end of data that is none.
//
// The zero clientStuffer stands at the beginning of a line.
type clientStuffer struct {
	inLine bool // the last octet written did not end a line
	cr     bool // a CR was read and not yet written
}

// stuff appends p to dst in stuffed form. Lines may be split anywhere between
// calls.
func (s *clientStuffer) stuff(dst, p []byte) []byte {
	for len(p) > 0 {
		if s.cr {
			s.cr = false
			if p[0] == '\n' {
				dst = append(dst, '\r', '\n')
				s.inLine = false
				p = p[1:]
				continue
			}
			dst = append(s.begin(dst, ' '), ' ')
		}
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
			p = p[end+1:]
		} else {
			p = nil
			if n := len(line); n > 0 && line[n-1] == '\r' {
				s.cr, line = true, line[:n-1]
			}
		}
		dst = s.line(dst, line, end >= 0)
	}
	return dst
}

// line appends one line, or a part of one when it is not ended.
func (s *clientStuffer) line(dst, line []byte, ended bool) []byte {
	if n := len(line); ended && n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) > 0 {
		dst = s.begin(dst, line[0])
		start := len(dst)
		dst = append(dst, line...)
		clientReplace(dst[start:], '\r', ' ')
	}
	if ended {
		dst = append(dst, '\r', '\n')
		s.inLine = false
	}
	return dst
}

// begin doubles the dot when c begins a line.
func (s *clientStuffer) begin(dst []byte, c byte) []byte {
	if c == '.' && !s.inLine {
		dst = append(dst, '.')
	}
	s.inLine = true
	return dst
}

// finish ends the last line and the data.
func (s *clientStuffer) finish(dst []byte) []byte {
	if s.cr || s.inLine {
		dst = append(dst, '\r', '\n')
	}
	return append(dst, '.', '\r', '\n')
}

func clientReplace(p []byte, old, replacement byte) {
	for {
		i := bytes.IndexByte(p, old)
		if i < 0 {
			return
		}
		p[i] = replacement
		p = p[i+1:]
	}
}

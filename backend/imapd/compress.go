package imapd

import (
	"bytes"
	"context"
	"net"
	"sync"

	"github.com/klauspost/compress/flate"
)

// compressed is a connection that is compressed both ways (RFC 4978). It keeps
// no compressor: each write is compressed by itself, with one that all sessions
// share, and flushed. Writes are as long as what gathers of a response, so that
// little is lost by it.
type compressed struct {
	net.Conn
	in inflater
}

func newCompressed(conn net.Conn) *compressed {
	return &compressed{Conn: conn, in: inflater{src: conn}}
}

// Read implements net.Conn.
func (c *compressed) Read(p []byte) (int, error) { return c.in.Read(p) }

var deflateBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Write implements net.Conn.
func (c *compressed) Write(p []byte) (int, error) {
	out := deflateBuffers.Get().(*bytes.Buffer)
	defer deflateBuffers.Put(out)
	out.Reset()
	if err := flate.StatelessDeflate(out, p, false, nil); err != nil {
		return 0, err
	}
	if _, err := c.Conn.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func parseCompress(p *parser) (string, error) {
	if err := p.sp(); err != nil {
		return "", err
	}
	return p.word()
}

func (s *session) offersCompression() bool { return !s.isCompressed() }

func (s *session) isCompressed() bool {
	_, yes := s.r.conn.(*compressed)
	return yes
}

// compress is COMPRESS (RFC 4978 section 3). The client waits for the answer, so
// that nothing it sent before can belong behind it.
func (s *session) compress(_ context.Context, algorithm string) (result, error) {
	switch {
	case algorithm != "DEFLATE":
		return result{}, syntax("unknown compression algorithm")
	case s.isCompressed():
		return result{}, refuse("COMPRESSIONACTIVE", "Compression is active already")
	}
	s.tagged(s.tag, result{text: "Compression is active from here on"}, nil)
	if err := s.w.flush(); err != nil {
		return result{}, &connError{err}
	}
	s.r.release()
	conn := newCompressed(s.r.conn)
	s.r.conn, s.w.conn = conn, conn
	s.handle.Compressed()
	return result{answered: true}, nil
}

package milter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// conn is a connection to a filter, once it is negotiated. It belongs to one
// session at a time.
type conn struct {
	net    net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	opts   *options
	out    packet // memory of packets to the filter
	in     []byte // memory of packets from it
	reused bool   // and the filter has not answered in this session yet
	idleAt time.Time
}

// dial connects and negotiates.
func (m *Milter) dial(ctx context.Context) (*conn, error) {
	dialer := net.Dialer{Timeout: m.cfg.ConnectTimeout}
	nc, err := dialer.DialContext(ctx, m.cfg.Network, m.cfg.Address)
	if err != nil {
		return nil, err
	}
	c := &conn{net: nc, r: bufio.NewReaderSize(nc, 4<<10), w: bufio.NewWriterSize(nc, 16<<10)}
	if err := c.negotiate(ctx, m.cfg.Protocol, m.cfg.CommandTimeout); err != nil {
		return nil, errors.Join(fmt.Errorf("negotiate: %w", err), nc.Close())
	}
	return c, nil
}

func (c *conn) negotiate(ctx context.Context, version uint32, timeout time.Duration) error {
	defer c.interruptible(ctx)()
	if err := c.until(ctx, timeout); err != nil {
		return err
	}
	c.out = negotiation(c.out, version)
	if _, err := c.w.Write(c.out); err != nil {
		return err
	}
	reply, data, err := c.read()
	if err != nil {
		return err
	}
	if reply != cmdNegotiate {
		return protocolError("reply %q to the options", string(reply))
	}
	c.opts, err = parseOptions(data, version)
	return err
}

// interruptible ends what waits for the filter when ctx ends. The function it
// returns must be called.
func (c *conn) interruptible(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.net.SetDeadline(time.Unix(1, 0)) })
}

// until bounds the next exchange.
func (c *conn) until(ctx context.Context, timeout time.Duration) error {
	if err := c.net.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	return context.Cause(ctx) // an end before the deadline was set is not seen otherwise
}

// send writes one packet, which goes out at the latest when a reply is read.
func (c *conn) send(p []byte) error {
	_, err := c.w.Write(p)
	return err
}

// macros sends those of a stage.
func (c *conn) macros(at stage, value func(string) string) error {
	p := macroPacket(c.out, at, c.opts, value)
	if p == nil {
		return nil
	}
	c.out = p
	return c.send(p)
}

// read flushes and returns the next packet from the filter. data is good until
// the next call.
func (c *conn) read() (reply byte, data []byte, err error) {
	if err := c.w.Flush(); err != nil {
		return 0, nil, err
	}
	if reply, data, err = readPacket(c.r, c.in); err != nil {
		return 0, nil, err
	}
	if cap(data) <= maxChunk {
		c.in = data
	}
	c.reused = false
	return reply, data, nil
}

// maxProgress bounds how often a filter may say that it is still at work where
// nothing takes long.
const maxProgress = 100

// answer waits for the reply that ends a step.
func (c *conn) answer(ctx context.Context, timeout time.Duration, at place) (answer, error) {
	for range maxProgress {
		if err := c.until(ctx, timeout); err != nil {
			return answer{}, err
		}
		reply, data, err := c.read()
		switch {
		case err != nil:
			return answer{}, err
		case reply == replyProgress:
			continue
		}
		return decide(reply, data, at)
	}
	return answer{}, protocolError("the filter is at work forever")
}

// fresh reports whether an idle connection can be used: the filter has neither
// closed it nor said anything.
func (c *conn) fresh() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	sys, ok := c.net.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		alive = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return alive && err == nil
}

// quit says farewell as far as the filter listens, and closes.
func (c *conn) quit() {
	if c.until(context.Background(), quitTimeout) == nil && c.send(c.out.begin(cmdQuit).end()) == nil {
		_ = c.w.Flush() // the connection ends either way
	}
	_ = c.net.Close()
}

// quitTimeout is how long a farewell may take.
const quitTimeout = time.Second

// closedByPeer tells a connection that had ended before we used it again from
// other failures.
func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

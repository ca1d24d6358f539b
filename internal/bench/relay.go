package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The domains that every system passes on: the first to the driver itself, the
// second to a port where nobody listens.
const (
	outDomain  = "out.example"
	deadDomain = "dead.example"
)

// relayed measures mail that is accepted, queued and passed on by SMTP.
func relayed(size, connections int) measure {
	texts := sync.OnceValue(func() [][]byte { return messages(size) })
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		var due atomic.Int64
		due.Store(s.out.taken.Load())
		d := drive{
			door: s.smtp, connections: connections, each: perConnection, until: time.Now().Add(o.load), texts: texts(),
			recipient: func(id int64) string { return fmt.Sprintf("user%d@%s", id%users, outDomain) },
			accepted:  func(int64) { due.Add(1) },
		}
		return f, f.whole(ctx, s, d, relayedPerSecond, func(ctx context.Context) error { return s.out.wait(ctx, due.Load()) })
	}
}

// receiver is an SMTP and LMTP server that takes everything and keeps nothing but the
// number of messages. One belongs to each system.
type receiver struct {
	listener net.Listener
	taken    atomic.Int64
	// proved is how many messages had the text proof points to in their header.
	proof  atomic.Pointer[string]
	proved atomic.Int64
}

func startReceiver() (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go r.serve(c)
		}
	}()
	return r, nil
}

func (r *receiver) address() string { return r.listener.Addr().String() }

func (r *receiver) close() { r.listener.Close() }

// wait returns when so many messages have come.
func (r *receiver) wait(ctx context.Context, want int64) error {
	for r.taken.Load() < want {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d messages were passed on: %w", r.taken.Load(), want, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// serve is one connection. It answers commands that came together together, as
// PIPELINING asks, and looks at their first letter only.
func (r *receiver) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	out := []byte("220 sink.example\r\n")
	for {
		if in.Buffered() == 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		switch line[0] {
		case 'E', 'L':
			out = append(out, "250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000000\r\n"...)
		case 'D':
			if _, err := c.Write(append(out, "354 go on\r\n"...)); err != nil || r.skipText(in) != nil {
				return
			}
			r.taken.Add(1)
			out = append(out[:0], "250 taken\r\n"...)
		case 'Q':
			_, _ = c.Write(append(out, "221 bye\r\n"...))
			return
		default:
			out = append(out, "250 ok\r\n"...)
		}
	}
}

// skipText reads a message up to the line of a dot.
func (r *receiver) skipText(in *bufio.Reader) error {
	proof, inHeader := r.proof.Load(), true
	for found := false; ; {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if bytes.Equal(line, []byte(".\r\n")) {
			return nil
		}
		inHeader = inHeader && len(line) > 2
		if proof != nil && inHeader && !found && bytes.Contains(line, []byte(*proof)) {
			found = true
			r.proved.Add(1)
		}
	}
}

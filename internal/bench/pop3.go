package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// fetcher is the first of those whose mailboxes are read by POP3; the others
// follow it.
const fetcher = 24

// maildrop is how many messages each of them has.
const maildrop = 500

// pop3Client fetches mail.
type pop3Client struct {
	conn net.Conn
	in   *bufio.Reader
	// octets and messages read so far
	octets, messages int
}

// dialPOP3 connects and logs in as a user.
func dialPOP3(address string, user int) (*pop3Client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &pop3Client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	_, err = c.answer()
	for _, command := range []string{"USER " + userAddress(user), "PASS " + userPassword(user)} {
		if err == nil {
			_, err = c.say(command)
		}
	}
	if err != nil {
		_ = conn.Close() // the other error tells more
		return nil, err
	}
	return c, nil
}

// say sends a command and returns the line of its answer.
func (c *pop3Client) say(command string) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(operationLimit)); err != nil {
		return "", err
	}
	if _, err := c.conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	return c.answer()
}

func (c *pop3Client) answer() (string, error) {
	line, err := c.in.ReadString('\n')
	if err == nil && line[0] != '+' {
		err = fmt.Errorf("POP3: %q", line)
	}
	return line, err
}

// count is how many messages there are.
func (c *pop3Client) count() (n int, err error) {
	line, err := c.say("STAT")
	if err == nil {
		_, err = fmt.Sscanf(line, "+OK %d", &n)
	}
	return n, err
}

// retrieve fetches a message.
func (c *pop3Client) retrieve(number int) error {
	if _, err := c.say(fmt.Sprintf("RETR %d", number)); err != nil {
		return err
	}
	for begun := true; ; {
		line, err := c.in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if begun && bytes.Equal(line, []byte(".\r\n")) {
			c.messages++
			return nil
		}
		c.octets += len(line)
		begun = err == nil
	}
}

func (c *pop3Client) close() error {
	_, err := c.say("QUIT")
	return errors.Join(err, c.conn.Close())
}

// stock gives a user's INBOX the messages of a maildrop, as mail comes in.
func stock(ctx context.Context, s *system, user int) (err error) {
	c, err := dialPOP3(s.pop3, user)
	if err != nil {
		return err
	}
	have, err := c.count()
	if err = errors.Join(err, c.close()); err != nil || have >= maildrop {
		return err
	}
	d, err := s.lmtp.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	for i := have; i < maildrop; i++ {
		if err := errors.Join(ctx.Err(), d.send(sent.Add(1), userAddress(user), append(letter(i), ".\r\n"...))); err != nil {
			return err
		}
	}
	return nil
}

// retrievals measures how many messages a second clients fetch by POP3, each
// from a maildrop of its own and one after the other.
func retrievals(connections int) measure {
	return func(ctx context.Context, s *system, o options) (f figures, err error) {
		for n := range connections {
			if err := stock(ctx, s, fetcher+n); err != nil {
				return f, fmt.Errorf("fill a maildrop: %w", err)
			}
		}
		before, err := cpuTime(s.roots())
		if err != nil {
			return f, err
		}
		start := time.Now()
		took, err := together(connections, func(n int) (took []time.Duration, err error) {
			c, err := dialPOP3(s.pop3, fetcher+n)
			if err != nil {
				return nil, err
			}
			count, err := c.count()
			if err == nil && count == 0 {
				err = errors.New("the maildrop is empty")
			}
			for until := time.Now().Add(o.load); err == nil && time.Now().Before(until); {
				begun := time.Now()
				if err = errors.Join(ctx.Err(), c.retrieve(len(took)%count+1)); err == nil {
					took = append(took, time.Since(begun))
				}
			}
			return took, errors.Join(err, c.close())
		})
		all := time.Since(start)
		if err != nil {
			return f, err
		}
		after, err := cpuTime(s.roots())
		f.messages = len(took)
		f.set(ratePerSecond, float64(len(took))/all.Seconds())
		f.set(cpuPerMessage, milliseconds(after-before)/float64(len(took)))
		f.percentiles(took)
		return f, err
	}
}

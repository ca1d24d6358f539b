package main

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"time"
)

// patience is the longest wait for an answer of any server.
const patience = 30 * time.Second

// smtpClient is a sending client that does as little as it can: what it says
// is put together in one buffer and written at once, and of replies it looks
// at the code.
type smtpClient struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

func dialSMTP(address string) (*smtpClient, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	c := &smtpClient{conn: conn, in: bufio.NewReaderSize(conn, 2048), out: make([]byte, 0, 64<<10)}
	// One deadline for the connection, which lives for some seconds.
	err = conn.SetDeadline(time.Now().Add(2 * patience))
	if err == nil {
		err = c.expect("greeting", 220)
	}
	if err == nil {
		err = c.say("EHLO load.remote.example\r\n", 250)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *smtpClient) say(command string, code int) error {
	c.out = append(c.out[:0], command...)
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	return c.expect(command, code)
}

// expect reads one reply, which may have several lines.
func (c *smtpClient) expect(after string, code int) error {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("after %q: %w", after, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if got, err := strconv.Atoi(string(line[:min(3, len(line))])); err != nil || got != code {
			return fmt.Errorf("after %q: %q", after, line)
		}
		return nil
	}
}

// send gives one message over, command by command. id makes it unlike every
// other. When it returns without error the server has taken it.
func (c *smtpClient) send(id int64, recipient int, message []byte) error {
	if err := c.say("MAIL FROM:<sender@remote.example>\r\n", 250); err != nil {
		return err
	}
	if err := c.say("RCPT TO:<"+userAddress(recipient)+">\r\n", 250); err != nil {
		return err
	}
	if err := c.say("DATA\r\n", 354); err != nil {
		return err
	}
	c.out = append(c.out[:0], "X-Bench: "...)
	c.out = strconv.AppendInt(c.out, id, 36)
	c.out = append(c.out, "\r\n"...)
	c.out = append(c.out, message...)
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	return c.expect("end of data", 250)
}

func (c *smtpClient) close() error {
	defer c.conn.Close()
	return c.say("QUIT\r\n", 221)
}

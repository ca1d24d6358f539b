package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// patience is the longest wait for an answer of any server.
const patience = 30 * time.Second

// door is where a system takes mail, and in which dialect.
type door struct {
	network, address string
	lmtp             bool
	startTLS         bool
}

// smtpDoor is a door for strangers.
func smtpDoor(address string) door { return door{network: "tcp", address: address} }

// smtpClient is a sending client that does as little as it can: what it says
// is put together in one buffer and written at once, and of replies it looks
// at the code.
type smtpClient struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

func (d door) dial() (*smtpClient, error) {
	conn, err := net.DialTimeout(d.network, d.address, patience)
	if err != nil {
		return nil, err
	}
	c := &smtpClient{conn: conn, in: bufio.NewReaderSize(conn, 2048), out: make([]byte, 0, 64<<10)}
	if err := c.begin(d); err != nil {
		c.conn.Close()
		return nil, err
	}
	return c, nil
}

// begin speaks until the server takes mail.
func (c *smtpClient) begin(d door) error {
	hello := "EHLO load.remote.example\r\n"
	if d.lmtp {
		hello = "LHLO load.remote.example\r\n"
	}
	// One deadline for the connection, which lives for some seconds.
	if err := c.conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return err
	}
	if err := c.expect("greeting", 220); err != nil {
		return err
	}
	if err := c.say(hello, 250); err != nil || !d.startTLS {
		return err
	}
	if err := c.say("STARTTLS\r\n", 220); err != nil {
		return err
	}
	// The server's certificate is this run's own, on a loopback connection.
	c.conn = tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	c.in.Reset(c.conn)
	return c.say(hello, 250)
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
			return &replyError{after: after, reply: string(line)}
		}
		return nil
	}
}

// replyError is a reply with another code than the one that was wanted.
type replyError struct{ after, reply string }

func (e *replyError) Error() string { return fmt.Sprintf("after %q: %q", e.after, e.reply) }

// send gives one message over, command by command. id makes it unlike every
// other. When it returns without error the server has taken it.
func (c *smtpClient) send(id int64, recipient string, message []byte) error {
	if err := c.say("MAIL FROM:<sender@remote.example>\r\n", 250); err != nil {
		return err
	}
	if err := c.say("RCPT TO:<"+recipient+">\r\n", 250); err != nil {
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

// beRefused begins a message whose recipient the server must not take.
func (c *smtpClient) beRefused(sender, recipient string) error {
	if err := c.say("MAIL FROM:<"+sender+">\r\n", 250); err != nil {
		return err
	}
	var refusal *replyError
	switch err := c.say("RCPT TO:<"+recipient+">\r\n", 250); {
	case err == nil:
		return fmt.Errorf("<%s> was taken from <%s>", recipient, sender)
	case !errors.As(err, &refusal) || !strings.HasPrefix(refusal.reply, "5"):
		return err
	}
	return c.say("RSET\r\n", 250)
}

func (c *smtpClient) close() error {
	defer c.conn.Close()
	return c.say("QUIT\r\n", 221)
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// imapClient knows the few commands the measurement needs. It reads no
// literals, so it must not ask for what may come as one.
type imapClient struct {
	conn net.Conn
	in   *bufio.Reader
	tag  int
}

// dialIMAP connects and logs in as a user.
func dialIMAP(address string, user int) (*imapClient, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	c := &imapClient{conn: conn, in: bufio.NewReader(conn)}
	if _, err = c.line(); err == nil {
		_, err = c.command("LOGIN "+userAddress(user)+" "+userPassword(user), nil)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("IMAP login: %w", err)
	}
	return c, nil
}

// line reads one line; it is valid until the next is read.
func (c *imapClient) line() ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	line, err := c.in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

// begin sends a command without waiting and returns its tag.
func (c *imapClient) begin(command string) (string, error) {
	c.tag++
	tag := "t" + strconv.Itoa(c.tag)
	_, err := c.conn.Write([]byte(tag + " " + command + "\r\n"))
	return tag, err
}

// end reads until the tagged response and shows each line before it to see.
func (c *imapClient) end(tag string, see func(line []byte)) ([]byte, error) {
	for {
		line, err := c.line()
		if err != nil {
			return nil, err
		}
		if rest, ok := bytes.CutPrefix(line, []byte(tag+" ")); ok {
			if !bytes.HasPrefix(rest, []byte("OK")) {
				return nil, fmt.Errorf("IMAP: %q", line)
			}
			return rest, nil
		}
		if see != nil {
			see(line)
		}
	}
}

func (c *imapClient) command(command string, see func(line []byte)) ([]byte, error) {
	tag, err := c.begin(command)
	if err != nil {
		return nil, err
	}
	return c.end(tag, see)
}

// messages asks how many messages INBOX holds, without selecting it.
func (c *imapClient) messages() (int, error) {
	n := -1
	_, err := c.command("STATUS INBOX (MESSAGES)", func(line []byte) {
		if _, after, ok := strings.Cut(string(line), "(MESSAGES "); ok {
			n, _ = strconv.Atoi(strings.TrimRight(after, ") "))
		}
	})
	if err == nil && n < 0 {
		err = errors.New("IMAP: no count of messages in the answer to STATUS")
	}
	return n, err
}

// selectInbox opens INBOX and returns how many messages it holds.
func (c *imapClient) selectInbox() (n int, err error) {
	_, err = c.command("SELECT INBOX", func(line []byte) {
		if have, ok := exists(line); ok {
			n = have
		}
	})
	return n, err
}

// exists returns the count of an EXISTS response.
func exists(line []byte) (int, bool) {
	number, ok := bytes.CutSuffix(line, []byte(" EXISTS"))
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimPrefix(string(number), "* "))
	return n, err == nil
}

func (c *imapClient) close() error {
	defer c.conn.Close()
	_, err := c.command("LOGOUT", nil)
	return err
}

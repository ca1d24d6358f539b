package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// bulkOctets is how much of what a server says is read at once.
const bulkOctets = 256 << 10

// operationLimit bounds one operation on a large mailbox.
const operationLimit = 3 * time.Minute

// bulkClient reads whatever IMAP servers say, literals and long lines too, at
// the price of looking at none of it but the ends of lines.
type bulkClient struct {
	*imapClient
	octets int64 // read so far
}

// dialBulk connects and logs in as a user.
func dialBulk(address string, user int) (*bulkClient, error) {
	c, err := dialIMAP(address, user)
	if err != nil {
		return nil, err
	}
	c.in = bufio.NewReaderSize(c.in, bulkOctets)
	return &bulkClient{imapClient: c}, nil
}

// do sends a command, waits for its end and returns the last untagged line
// that began with keep, "" for none.
func (c *bulkClient) do(command, keep string) (string, error) {
	tag, err := c.begin(command)
	if err != nil {
		return "", err
	}
	return c.finish(tag, keep)
}

func (c *bulkClient) finish(tag, keep string) (kept string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(operationLimit)); err != nil {
		return "", err
	}
	for {
		line, tail, err := c.longLine()
		if err != nil {
			return kept, err
		}
		if keep != "" && bytes.HasPrefix(line, []byte(keep)) {
			kept = string(line)
		}
		if rest, ok := strings.CutPrefix(string(line[:min(len(line), 40)]), tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				return kept, fmt.Errorf("IMAP: %q", line)
			}
			return kept, nil
		}
		for n := literal(tail); n >= 0; n = literal(tail) {
			if _, err := io.CopyN(io.Discard, c.in, n); err != nil {
				return kept, err
			}
			c.octets += n
			if _, tail, err = c.longLine(); err != nil {
				return kept, err
			}
		}
	}
}

// longLine reads a line of any length; it returns its first and its last
// octets, valid until the next read.
func (c *bulkClient) longLine() (head, tail []byte, err error) {
	for first := true; ; first = false {
		part, err := c.in.ReadSlice('\n')
		c.octets += int64(len(part))
		if first && errors.Is(err, bufio.ErrBufferFull) {
			head = bytes.Clone(part)
		} else if first {
			head = bytes.TrimRight(part, "\r\n")
		}
		if err == nil {
			return head, bytes.TrimRight(part, "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, nil, err
		}
	}
}

// literal returns how long the literal is that a line announces, -1 for none.
func literal(line []byte) int64 {
	open := bytes.LastIndexByte(line, '{')
	if open < 0 || !bytes.HasSuffix(line, []byte("}")) {
		return -1
	}
	n, err := strconv.ParseInt(string(line[open+1:len(line)-1]), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// add appends messages with one command.
func (c *bulkClient) add(mailbox string, texts [][]byte) error {
	c.tag++
	tag := "t" + strconv.Itoa(c.tag)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s APPEND %s", tag, mailbox)
	for _, text := range texts {
		fmt.Fprintf(&b, " {%d+}\r\n", len(text))
		b.Write(text)
	}
	b.WriteString("\r\n")
	buffers := net.Buffers{b.Bytes()}
	if _, err := buffers.WriteTo(c.conn); err != nil {
		return err
	}
	_, err := c.finish(tag, "")
	return err
}

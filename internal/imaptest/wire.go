package imaptest

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

// No is a command that the server refused.
type No struct{ Command, Answer string }

func (e *No) Error() string { return fmt.Sprintf("%.60q: %s", e.Command, e.Answer) }

// errProtocol is an answer that IMAP does not allow.
var errProtocol = errors.New("not IMAP")

const maxLiteral = 64 << 20

// wire is one connection.
type wire struct {
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration
	tag     int
}

// greet begins a session; on an error the connection is closed.
func greet(conn net.Conn, timeout time.Duration) (*wire, error) {
	w := &wire{conn: conn, r: bufio.NewReader(conn), timeout: timeout}
	greeting, err := w.line()
	if err == nil && !strings.HasPrefix(greeting, "* OK") {
		err = fmt.Errorf("greeting %.80q", greeting)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return w, nil
}

func (w *wire) send(text string) error {
	if err := w.conn.SetDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	_, err := io.WriteString(w.conn, text)
	return err
}

// line reads one response with its literals.
func (w *wire) line() (string, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(w.timeout)); err != nil {
		return "", err
	}
	var all []byte
	for {
		part, err := w.r.ReadBytes('\n')
		if err != nil {
			return "", err
		}
		part = bytes.TrimSuffix(part, []byte("\r\n"))
		all = append(all, part...)
		n, ok := literalSize(part)
		if !ok {
			return string(all), nil
		}
		if n > maxLiteral {
			return "", fmt.Errorf("literal of %d octets: %w", n, errProtocol)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(w.r, body); err != nil {
			return "", err
		}
		all = append(append(all, "\r\n"...), body...)
	}
}

// literalSize reads the announcement of a literal at the end of a line.
func literalSize(line []byte) (int, bool) {
	open := bytes.LastIndexByte(line, '{')
	if open < 0 || !bytes.HasSuffix(line, []byte("}")) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(line[open+1:len(line)-1]), 10, 31)
	return int(n), err == nil
}

// command runs one command; untagged is called with each untagged response. It
// returns the text of the tagged OK.
func (w *wire) command(text string, untagged func(response) error) (string, error) {
	w.tag++
	tag := fmt.Sprintf("i%d", w.tag)
	if err := w.send(tag + " " + text + "\r\n"); err != nil {
		return "", err
	}
	return w.until(tag, text, untagged)
}

// until reads to the tagged response.
func (w *wire) until(tag, command string, untagged func(response) error) (string, error) {
	for {
		line, err := w.line()
		if err != nil {
			return "", err
		}
		answer, tagged := strings.CutPrefix(line, tag+" ")
		if tagged {
			if !strings.HasPrefix(answer, "OK") {
				return "", &No{Command: command, Answer: answer}
			}
			return answer, nil
		}
		r, err := parseResponse(line)
		if err != nil {
			return "", err
		}
		if r.kind == "BYE" {
			return "", fmt.Errorf("server says %.100s", line)
		}
		if err := untagged(r); err != nil {
			return "", err
		}
	}
}

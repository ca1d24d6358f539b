package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// marionette runs scripts in a program of Mozilla's that was started with
// --marionette, with the rights of the program's own code. It belongs to one
// goroutine.
type marionette struct {
	conn net.Conn
	r    *bufio.Reader
	last int
}

// scriptTimeout bounds one script. The steps of a test give up before.
const scriptTimeout = 3 * time.Minute

func dialMarionette(port string) (*marionette, error) {
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	m := &marionette{conn: conn, r: bufio.NewReader(conn)}
	if err := m.begin(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *marionette) begin() error {
	if _, err := m.packet(); err != nil { // who it is
		return err
	}
	for _, c := range []struct {
		name       string
		parameters map[string]any
	}{
		{"WebDriver:NewSession", nil},
		{"Marionette:SetContext", map[string]any{"value": "chrome"}},
		{"WebDriver:SetTimeouts", map[string]any{"script": scriptTimeout.Milliseconds()}},
	} {
		if _, err := m.command(c.name, c.parameters); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// packet reads one packet: its length in decimal, a colon, JSON.
func (m *marionette) packet() (json.RawMessage, error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(scriptTimeout + 30*time.Second)); err != nil {
		return nil, err
	}
	length, err := m.r.ReadString(':')
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(length, ":"), 10, 24)
	if err != nil {
		return nil, err
	}
	packet := make([]byte, n)
	_, err = io.ReadFull(m.r, packet)
	return packet, err
}

// command runs a command of the protocol: [0, id, name, parameters] is answered
// with [1, id, error or null, result].
func (m *marionette) command(name string, parameters map[string]any) (json.RawMessage, error) {
	m.last++
	if parameters == nil {
		parameters = map[string]any{}
	}
	text, err := json.Marshal([]any{0, m.last, name, parameters})
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(m.conn, "%d:%s", len(text), text); err != nil {
		return nil, err
	}
	answer, err := m.packet()
	if err != nil {
		return nil, err
	}
	var fields [4]json.RawMessage
	if err := json.Unmarshal(answer, &fields); err != nil {
		return nil, err
	}
	var failure *struct{ Error, Message string }
	if err := json.Unmarshal(fields[2], &failure); err != nil {
		return nil, err
	}
	if failure != nil {
		return nil, fmt.Errorf("%s: %s", failure.Error, failure.Message)
	}
	return fields[3], nil
}

// run runs the body of an async function, which finds args in arguments; what
// earlier scripts put on globalThis is there. It returns what that returns.
func (m *marionette) run(body string, args ...any) (json.RawMessage, error) {
	if args == nil {
		args = []any{}
	}
	result, err := m.command("WebDriver:ExecuteScript", map[string]any{
		"script":  "return (async (...arguments) => {\n" + body + "\n})(...arguments)",
		"args":    args,
		"sandbox": "postern", "newSandbox": false,
	})
	if err != nil {
		return nil, err
	}
	var value struct{ Value json.RawMessage }
	err = json.Unmarshal(result, &value)
	return value.Value, err
}

// quit has the program end as it does when a person closes it.
func (m *marionette) quit() error {
	_, err := m.command("Marionette:Quit", map[string]any{"flags": []string{"eForceQuit"}})
	return err
}

package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// testFilter is a milter of a few lines: it agrees to every step of version 6,
// lets all pass, and at the end of a message says what a test wants.
type testFilter struct {
	// Address is that of a milter block.
	Address string
	// edits returns the packets that change a message, from its header and body
	// as the filter saw them. nil changes nothing.
	edits func(header []string, body string) []string
	// stalls is the command that is not answered until release is closed; 0 for
	// none.
	stalls  byte
	release chan struct{}

	mu      sync.Mutex
	conns   map[net.Conn]bool
	stalled int // questions
}

// Commands of the milter protocol that tests name.
const (
	milterMail        = 'M'
	milterHeader      = 'L'
	milterBody        = 'B'
	milterEndOfHeader = 'N'
	milterEndOfBody   = 'E'
	milterOptions     = 'O'
)

// startFilter runs the filter until the test ends.
func startFilter(t testing.TB, f *testFilter) *testFilter {
	t.Helper()
	path := filepath.Join(testenv.TempDir(t), "f")
	l, err := net.Listen("unix", path)
	must(t, err)
	f.Address, f.conns, f.release = "unix:"+path, make(map[net.Conn]bool), make(chan struct{})
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[c] = true
			f.mu.Unlock()
			sessions.Go(func() {
				f.serve(c)
				_ = c.Close()
				f.mu.Lock()
				delete(f.conns, c)
				f.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.mu.Lock()
		for c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		f.goOn()
		sessions.Wait()
	})
	return f
}

// goOn has the filter answer what it kept waiting, and all that follows.
func (f *testFilter) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.release:
	default:
		close(f.release)
	}
}

func (f *testFilter) serve(c net.Conn) {
	in := bufio.NewReader(c)
	var header []string
	var body strings.Builder
	for {
		command, data, err := readMilterPacket(in)
		if err != nil {
			return
		}
		if command == f.stalls {
			f.mu.Lock()
			f.stalled++
			f.mu.Unlock()
			<-f.release
		}
		reply := []string{"c"}
		switch command {
		case milterOptions:
			// All actions, every step with its answer, values without the space.
			reply = []string{"O" + string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 6}, 0x1ff), 0))}
		case 'D', 'A', 'K': // macros, abort, another session
			continue
		case 'Q':
			return
		case milterMail:
			header, body = nil, strings.Builder{}
		case milterHeader:
			name, value, _ := strings.Cut(strings.TrimSuffix(data, "\x00"), "\x00")
			header = append(header, name+": "+value)
		case milterBody:
			body.WriteString(data)
		case milterEndOfBody:
			if f.edits != nil {
				reply = append(f.edits(header, body.String()), "c")
			}
		}
		for _, p := range reply {
			if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...)); err != nil { // #nosec G115 -- a test's packet
				return
			}
		}
	}
}

func readMilterPacket(in io.Reader) (command byte, data string, err error) {
	var head [5]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, "", err
	}
	rest := make([]byte, binary.BigEndian.Uint32(head[:4])-1)
	_, err = io.ReadFull(in, rest)
	return head[4], string(rest), err
}

// waiting returns how many questions were kept waiting so far.
func (f *testFilter) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stalled
}

// Packets by which a filter changes a message.
func addField(name, value string) string { return "h" + name + "\x00" + value + "\x00" }

func insertField(at uint32, name, value string) string {
	return "i" + string(binary.BigEndian.AppendUint32(nil, at)) + name + "\x00" + value + "\x00"
}

// changeField changes the nth field of a name, from 1; "" deletes it.
func changeField(nth uint32, name, value string) string {
	return "m" + string(binary.BigEndian.AppendUint32(nil, nth)) + name + "\x00" + value + "\x00"
}

func replaceBody(text string) string { return "b" + text }

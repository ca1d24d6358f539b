package smtptest

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"
)

// Peer is the server side of one transcript.
type Peer struct {
	// Dial connects to the server.
	Dial func() (net.Conn, error)
	// TLS is the client's configuration for the TLS directive.
	TLS *tls.Config
	// Finish stops the server and returns further files of the archive to be
	// compared, by name: what the server's handler saw. It may be nil.
	Finish func() map[string]string
}

// Run plays every archive that matches the pattern, each as a subtest in a
// synctest bubble of its own. Start makes the server; the archive holds its
// configuration in whatever files the caller agreed on.
func Run(t *testing.T, pattern string, start func(t *testing.T, archive *txtar.Archive) Peer) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcript matches %s (%v)", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]string
			synctest.Test(t, func(t *testing.T) { got = play(t, archive, start(t, archive)) })
			compare(t, file, archive, got)
		})
	}
}

func play(t *testing.T, archive *txtar.Archive, peer Peer) map[string]string {
	conn, err := peer.Dial()
	if err != nil {
		t.Fatal(err)
	}
	p := &player{t: t, peer: peer, tap: newTap(conn)}
	p.listen()
	for line := range strings.Lines(file(archive, "transcript")) {
		p.step(strings.TrimSuffix(line, "\n"))
	}
	p.send()
	p.tap.Close()
	synctest.Wait()
	got := make(map[string]string)
	if peer.Finish != nil {
		got = peer.Finish()
	}
	got["transcript"] = p.out.String()
	return got
}

// player walks through a transcript and writes down what really happened.
type player struct {
	t      *testing.T
	peer   Peer
	tap    *tap
	queued []byte // C lines not sent yet
	closed bool
	out    strings.Builder
}

func (p *player) step(line string) {
	kind, text := line, ""
	if len(line) >= 2 {
		kind, text = line[:2], strings.TrimPrefix(line[2:], " ")
	}
	switch {
	case kind == "S:" || kind == "S|":
		p.send()
		return // written by listen
	case kind == "C:":
		p.queued = append(p.queued, text+"\r\n"...)
	case kind == "C|":
		raw, err := strconv.Unquote(`"` + text + `"`)
		if err != nil {
			p.t.Fatalf("%s: %v", line, err)
		}
		p.queued = append(p.queued, raw...)
	default:
		p.send()
	}
	p.out.WriteString(line + "\n")
	p.direct(line)
}

// direct obeys the lines that are neither side's words.
func (p *player) direct(line string) {
	switch {
	case line == "TLS:":
		conn := tls.Client(p.tap, p.peer.TLS)
		if err := conn.Handshake(); err != nil {
			fmt.Fprintf(&p.out, "# handshake failed\n")
		}
		p.tap = newTap(conn)
		p.listen()
	case line == "EOF:":
		p.tap.Close()
		p.listen()
	case strings.HasPrefix(line, "T: "):
		d, err := time.ParseDuration(line[3:])
		if err != nil {
			p.t.Fatal(err)
		}
		time.Sleep(d) // synthetic
		p.listen()
	}
}

func (p *player) send() {
	if len(p.queued) > 0 {
		// The server may have closed already; the transcript will tell.
		_, _ = p.tap.Write(p.queued)
		p.queued = nil
		p.listen()
	}
}

// listen waits until the server waits, and writes down what it said.
func (p *player) listen() {
	synctest.Wait()
	said, closed := p.tap.take()
	for line := range strings.SplitSeq(strings.TrimSuffix(said, "\n"), "\n") {
		if said != "" {
			p.out.WriteString(strings.TrimRight("S: "+strings.TrimSuffix(line, "\r"), " ") + "\n")
		}
	}
	if closed && !p.closed {
		p.closed = true
		p.out.WriteString("S| closed\n")
	}
}

func file(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func compare(t *testing.T, path string, archive *txtar.Archive, got map[string]string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") == "1" {
		rewrite(t, path, archive, got)
		return
	}
	for name, text := range got {
		if want := file(archive, name); text != want {
			t.Errorf("%s: %s\n--- got ---\n%s--- want ---\n%s", path, name, text, want)
		}
	}
}

func rewrite(t *testing.T, path string, archive *txtar.Archive, got map[string]string) {
	t.Helper()
	for i := range archive.Files {
		if text, ok := got[archive.Files[i].Name]; ok {
			archive.Files[i].Data = []byte(text)
			delete(got, archive.Files[i].Name)
		}
	}
	for name, text := range got {
		if text != "" {
			archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(text)})
		}
	}
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

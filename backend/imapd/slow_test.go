package imapd

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
)

// TestSlowClient: a client that stops reading in the middle of a FETCH of
// everything holds up nobody, and gets what it asked for when it goes on, also
// of messages that are expunged meanwhile. It runs alone: it looks at the memory
// of the whole process.
func TestSlowClient(t *testing.T) {
	s := startServer(t, testConfig())
	slow, other := s.login("alice"), s.login("alice")
	const messages = 60
	text := message("big", strings.Repeat(strings.Repeat("x", 76)+"\r\n", 2000))
	for range messages {
		other.append("INBOX", "", text)
	}
	slow.ok("SELECT INBOX")
	other.ok("SELECT INBOX")
	slow.send("f FETCH 1:* (UID BODY.PEEK[])\r\n") // far more than sockets hold
	if line, err := slow.r.ReadString('\n'); err != nil || !strings.Contains(line, "* 1 FETCH (UID 1 BODY[] {") {
		t.Fatalf("%q, %v", line, err)
	}
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 20 {
		other.append("INBOX", "", message(fmt.Sprint(i), "new"))
	}
	other.ok(`STORE 61:* +FLAGS (\Flagged)`)
	other.ok(`STORE 1:10 +FLAGS.SILENT (\Deleted)`)
	if gone := other.ok("EXPUNGE"); len(gone) != 10 {
		t.Errorf("EXPUNGE: %q", gone)
	}
	other.ok("FETCH 1 BODY.PEEK[]")
	runtime.GC()
	runtime.ReadMemStats(&during)
	if grown := int64(during.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("memory grew by %d octets while a client did not read", grown)
	}
	// It reads on: the rest of the first message, and all others that are there.
	fetched := 0
	for {
		line := slow.line()
		if strings.HasPrefix(line, "f ") {
			break
		}
		if strings.Contains(line, " FETCH (UID ") {
			if fetched++; !strings.Contains(line, text) {
				t.Errorf("a message came damaged: %.60q", line)
			}
		}
	}
	if fetched < messages-11 {
		t.Errorf("%d messages came", fetched)
	}
	told := 0
	for _, line := range append(slow.ok("NOOP"), slow.ok("NOOP")...) {
		if strings.HasSuffix(line, " EXPUNGE") {
			told++
		}
	}
	if told != 10 {
		t.Errorf("%d expunges were told behind the FETCH", told)
	}
}

// BenchmarkIdleMemory is what a thousand clients cost that wait: logged in with
// a mailbox selected, between commands or in IDLE, compressed or not, or with
// NOTIFY.
func BenchmarkIdleMemory(b *testing.B) {
	for _, kind := range []string{"waiting", "IDLE", "IDLE compressed", "NOTIFY"} {
		b.Run(kind, func(b *testing.B) {
			cfg := testConfig()
			cfg.MaxSessionsPerClient = -1
			s := startServer(b, cfg)
			s.login("alice").append("INBOX", "", message("one", "text"))
			for b.Loop() {
				const clients = 1000
				all := make([]*client, 0, clients)
				before := inUse()
				for range clients {
					c := s.login("alice")
					c.ok("SELECT INBOX")
					if kind == "NOTIFY" {
						c.ok("NOTIFY SET (selected (MessageNew (UID FLAGS) MessageExpunge FlagChange)) (personal (MessageNew MessageExpunge MailboxName))")
					} else if kind == "IDLE compressed" {
						c.ok("COMPRESS DEFLATE")
						c.send("\x00\x08\x00\xf7\xff" + "i IDLE\r\n") // a stored block, which needs no compressor
						_, _ = c.r.ReadByte()
					} else if kind == "IDLE" {
						c.send("i IDLE\r\n")
						c.line()
					}
					c.r = nil
					all = append(all, c)
				}
				b.ReportMetric(float64(inUse()-before)/clients, "B/client")
				for _, c := range all {
					_ = c.conn.(*net.TCPConn).Close()
				}
			}
		})
	}
}

func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

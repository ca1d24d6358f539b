package imapd

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// largeMailbox is a mailbox of 50,000 messages in threads of ten.
func largeMailbox(b *testing.B) (*server, *client) {
	b.Helper()
	s := startServer(b, testConfig())
	c := s.login("alice")
	_ = c.conn.SetDeadline(time.Time{})
	const n, step = 50_000, 100
	sent := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := 0; i < n; i += step {
		var text strings.Builder
		text.WriteString("APPEND INBOX")
		for k := i; k < i+step; k++ {
			var m strings.Builder
			fmt.Fprintf(&m, "From: Person %d <p%d@example.com>\r\nTo: Alice Example <alice@example.com>\r\nMessage-ID: <m%d@example.com>\r\n", k*7919%500, k*7919%500, k)
			fmt.Fprintf(&m, "Date: %s\r\n", sent.Add(time.Duration(k*7919%n)*time.Hour).Format(time.RFC1123Z))
			re := ""
			if k%10 > 0 {
				re = "Re: "
				fmt.Fprintf(&m, "References:")
				for r := k - k%10; r < k; r++ {
					fmt.Fprintf(&m, " <m%d@example.com>\r\n", r)
				}
			}
			fmt.Fprintf(&m, "Subject: %s[list] What we talked about, number %d\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nSome text.\r\n", re, k*7919%n/10)
			fmt.Fprintf(&text, " {%d+}\r\n%s", m.Len(), m.String())
		}
		c.ok(text.String())
	}
	c.ok("SELECT INBOX")
	return s, c
}

// BenchmarkLargeMailbox searches, sorts and threads 50,000 messages through the
// store and loopback; "cold" works out what the server keeps in memory.
func BenchmarkLargeMailbox(b *testing.B) {
	s, c := largeMailbox(b)
	for _, command := range []string{
		"UID SEARCH RETURN (COUNT) UNSEEN", "UID SEARCH SINCE 1-Jan-2021", "UID SEARCH RETURN (PARTIAL -1:-100) SUBJECT about",
		"UID SEARCH RETURN (COUNT) SUBJECT nothing",
		"UID SORT RETURN (COUNT) (REVERSE DATE) UTF-8 ALL cold", "UID SORT (REVERSE DATE) UTF-8 ALL", "UID SORT (SUBJECT DATE) UTF-8 ALL", "UID SORT (DISPLAYFROM) UTF-8 ALL",
		"UID SORT (ARRIVAL) UTF-8 ALL", "UID THREAD REFERENCES UTF-8 ALL", "UID THREAD ORDEREDSUBJECT UTF-8 ALL",
	} {
		b.Run(command, func(b *testing.B) {
			plain, cold := strings.CutSuffix(command, " cold")
			b.ReportAllocs()
			for b.Loop() {
				if cold {
					s.keys.empty()
				}
				c.ok(plain)
			}
		})
	}
}

func (c *keyCache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.order.Len() > 0 {
		c.dropLocked(c.order.Back())
	}
}

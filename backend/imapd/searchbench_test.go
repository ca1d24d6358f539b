package imapd

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// prose is some text of about n octets in which numbers vary.
func prose(seed, n int) string {
	words := strings.Fields("the report of this quarter shows that orders from our customers went up while the price of " +
		"material came down again please look at the table below and tell me until Friday what you think about it " +
		"regards meeting invoice contract delivery address number question answer project schedule office travel")
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		seed = seed*1103515245 + 12345
		b.WriteString(words[(seed>>16&0x7fff)%len(words)])
		if i%12 == 11 {
			fmt.Fprintf(&b, " %d\r\n", seed>>16&0xffff)
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// BenchmarkSearchText is the slow path: every message is read.
func BenchmarkSearchText(b *testing.B) {
	s := startServer(b, testConfig())
	c := s.login("alice")
	_ = c.conn.SetDeadline(time.Time{})
	const n = 5000
	for i := 0; i < n; i += 50 {
		text := "APPEND INBOX"
		for k := range 50 {
			m := message(fmt.Sprintf("m%d", i+k), prose(i+k, 6000))
			text += fmt.Sprintf(" {%d+}\r\n%s", len(m), m)
		}
		c.ok(text)
	}
	c.ok("SELECT INBOX")
	for _, command := range []string{"SEARCH TEXT needle", "SEARCH BODY needle", "SEARCH BODY \xc3\xa9t\xc3\xa9", "SEARCH SUBJECT m4999", "SEARCH TEXT report"} {
		b.Run(strings.ReplaceAll(command, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.ok(command)
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/n*1e6, "us/message")
		})
	}
}

package smtp

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/smtptest"
)

// chunking opens a session that has begun a message of chunks.
func chunking(t *testing.T, l *smtptest.Listener) *talker {
	t.Helper()
	conn, err := l.Dial()
	c := talkTo(t, conn, err)
	check(t, conn.SetDeadline(time.Time{}))
	c.hear("220")
	c.say("EHLO client.test")
	c.hear("250")
	c.say(openMessage[0], openMessage[1])
	c.hear("250", "250")
	return c
}

// TestChunksEndInTime: a message that trickles in as chunks, each in time, is
// bounded as a whole like one that trickles in after DATA.
func TestChunksEndInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := smtptest.NewListener()
		server, stop := startServer(t, ServerConfig{MessageTimeout: 10 * time.Minute}, &fakeHandler{}, l)
		c := chunking(t, l)
		for range 3 {
			c.say("BDAT 3\r\nx")
			c.hear("250")
			time.Sleep(3 * time.Minute)
		}
		began := time.Now()
		c.hear("421 4.4.2")
		c.hearEnd()
		if waited := time.Since(began); waited != time.Minute {
			t.Errorf("ended %v after nine minutes, limit ten", waited)
		}
		synctest.Wait()
		if n := server.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions", n)
		}
		stop()
	})
}

// TestEmptyChunksAreJunk: they cost the client nothing and bring nothing.
func TestEmptyChunksAreJunk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHandler{}
		l := smtptest.NewListener()
		_, stop := startServer(t, ServerConfig{MaxJunkCommands: 5, SoftErrors: -1, HardErrors: 3}, h, l)
		c := chunking(t, l)
		c.say(strings.Repeat("BDAT 0\r\n", 50) + "BDAT 2 LAST\r\nx\n")
		for range 9 { // the first, five that are free, three mistakes
			c.hear("250")
		}
		c.hear("421")
		c.hearEnd()
		stop()
		if got := h.messages(); len(got) != 0 {
			t.Errorf("%d messages", len(got))
		}
	})
}

// TestHarmlessName: what a client calls itself ends up in header fields, whose
// lines are bounded, and in logs.
func TestHarmlessName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"mail.example.com": "mail.example.com", "[192.0.2.1]": "[192.0.2.1]", "a b(c);<d>@e": "a?b?c???d??e",
		"j\u00f6rg": "j?rg", strings.Repeat("x", 2000): strings.Repeat("x", 255), strings.Repeat("\u20ac", 300): strings.Repeat("?", 255),
	} {
		if got := harmlessName(in); got != want {
			t.Errorf("harmlessName(%.40q) = %.40q, want %.40q", in, got, want)
		}
	}
}

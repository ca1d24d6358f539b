package smtp

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/smtptest"
)

// TestPregreet: what becomes of a client that talks during the delay.
func TestPregreet(t *testing.T) {
	t.Parallel()
	results := [...]string{PregreetRefuse: "refused", PregreetDrop: "refused", PregreetEnforce: "enforced", PregreetIgnore: "ignored"}
	for action, wants := range map[PregreetAction][]string{
		PregreetRefuse: {"554 5.5.0"}, PregreetDrop: {"521 5.5.1"},
		PregreetEnforce: {"220", "250", "250", "550 5.5.1", "221"}, PregreetIgnore: {"220", "250", "250", "250", "221"},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := smtptest.NewListener()
			var notices notices
			server, stop := startServer(t, ServerConfig{GreetDelay: 6 * time.Second, Pregreet: action, Noticed: notices.add}, &fakeHandler{}, l)
			conn, err := l.Dial()
			c := talkTo(t, conn, err)
			c.say("EHLO client.test")
			c.hear(wants[0])
			if len(wants) > 1 {
				c.hear(wants[1])
				c.say("MAIL FROM:<a@client.test>")
				c.hear(wants[2])
				c.say("RCPT TO:<b@mx.test>")
				c.hear(wants[3])
				c.say("QUIT")
				c.hear(wants[4])
			}
			c.hearEnd()
			stop()
			if n := server.Stats().Early; n != 1 {
				t.Errorf("counted %d", n)
			}
			if got, want := notices.String(), "pregreet "+results[action]+"  invalid IP 18 EHLO client.test\\r\\n\n"; got != want {
				t.Errorf("noticed %q, want %q", got, want)
			}
		})
	}
}

// patience is a Greeted that counts.
type patience struct{ waited, asked atomic.Int32 }

func (g *patience) Waited(netip.Addr) bool { g.asked.Add(1); return g.waited.Load() > 0 }
func (g *patience) Wait(netip.Addr)        { g.waited.Add(1) }

// TestTeaserAndMemory: the greeting's first line comes at once, the last after
// the delay, which a client is spared the next time.
func TestTeaserAndMemory(t *testing.T) {
	t.Parallel()
	g := &patience{}
	_, address, stop := startLoopback(t, ServerConfig{GreetDelay: 50 * time.Millisecond, Teaser: true, Greeted: g}, &fakeHandler{})
	for _, first := range []string{"220-mx.test ESMTP\r\n", "220 mx.test ESMTP\r\n"} {
		c := dialTalker(t, address)
		line, err := c.r.ReadString('\n')
		if err != nil || line != first {
			t.Errorf("got %q, %v, want %q", line, err, first)
		}
		if line[3] == '-' {
			c.hear("220 mx.test ESMTP")
		}
		c.say("QUIT")
		c.hear("221")
	}
	stop()
	if waited, asked := g.waited.Load(), g.asked.Load(); waited != 1 || asked != 2 {
		t.Errorf("waited %d, asked %d", waited, asked)
	}
}

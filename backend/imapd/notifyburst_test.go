package imapd

import (
	"bufio"
	"compress/flate"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestNotifySlowClient: what is committed while the session writes to a client
// that does not read is told behind that, and holds nobody up.
func TestNotifySlowClient(t *testing.T) {
	t.Parallel()
	c, other := notified(t, 0, "(selected (MessageNew (BODY.PEEK[]) MessageExpunge))")
	big := message("big", strings.Repeat(strings.Repeat("x", 76)+"\r\n", 250_000)) // far more than sockets hold
	other.append("INBOX", "", big)
	if line := c.line(); line != "* 1 EXISTS" {
		t.Fatal(line)
	}
	if line, err := c.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "* 1 FETCH (BODY[] {") {
		t.Fatalf("%q, %v", line, err)
	}
	other.append("INBOX", "", message("small", "x"))
	if _, err := c.r.Discard(len(big)); err != nil {
		t.Fatal(err)
	}
	expect(t, "behind it", c.told(3), ")", "* 2 EXISTS", fmt.Sprintf("* 2 FETCH (BODY[] {%d}\r\n%s)", len(message("small", "x")), message("small", "x")))
}

// TestNotifyBurst: many commits are few responses to a client that reads fast,
// in IDLE and without, and the last of them has everything.
func TestNotifyBurst(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.notifyPause = 200 * time.Millisecond
	s := startServer(t, cfg)
	c, other := s.login("alice"), s.login("alice")
	other.ok("CREATE Lists")
	c.ok("NOTIFY SET (personal (MessageNew MessageExpunge))")
	for round, last := range []string{"MESSAGES 60 ", "MESSAGES 120 "} {
		began := time.Now()
		for range 60 {
			other.append("Lists", "", message("x", "x"))
		}
		told := 1
		for !strings.Contains(c.line(), last) {
			told++
		}
		if most := int(time.Since(began)/cfg.notifyPause) + 2; told > most {
			t.Errorf("round %d: told %d times, want %d at most", round, told, most)
		}
		if round == 0 {
			c.send("i IDLE\r\n")
			c.line()
		}
	}
	c.send("DONE\r\n")
	if got, _ := c.until("i"); len(got) > 0 {
		t.Errorf("behind DONE: %q", got)
	}
}

// TestNotifyOwnChanges: what the client did itself counts for what it is told
// later.
func TestNotifyOwnChanges(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, bob := s.login("alice"), s.login("bob")
	alice.ok("CREATE Team")
	alice.ok("SETACL Team bob lrka")
	bob.ok("NOTIFY SET (subscribed (MessageNew MessageExpunge))")
	bob.ok(`SUBSCRIBE "Other Users/alice/Team"`)
	alice.append("Team", "", message("one", "x"))
	expect(t, "subscribed since", withoutValidity(bob.told(1)), `* STATUS "Other Users/alice/Team" (MESSAGES 1 UIDNEXT 2 UIDVALIDITY UNSEEN 1)`)
	bob.ok(`NOTIFY SET (subtree "Other Users" (MailboxName))`)
	bob.ok(`CREATE "Other Users/alice/Team/New"`)
	bob.ok(`SETACL "Other Users/alice/Team" anyone l`)
	bob.nothing("what one does oneself")
	alice.ok("DELETE Team/New")
	expect(t, "made oneself, and deleted", bob.told(2), `* LIST (\NonExistent \HasNoChildren) "/" "Other Users/alice/Team/New"`,
		`* LIST (\HasNoChildren \Subscribed) "/" "Other Users/alice/Team"`)
}

// halved writes each record in two parts, with something between.
type halved struct {
	net.Conn
	between func()
}

func (h *halved) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	h.between()
	m, err := h.Conn.Write(p[len(p)/2:])
	return n + m, err
}

// TestNotifyTLS: the wait for a command is interrupted in the middle of a record
// of TLS, with compression inside or without, and nothing of it is lost.
func TestNotifyTLS(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	s := startServer(t, cfg)
	for _, compress := range []bool{false, true} {
		c, other := s.dial(), s.login("alice")
		c.line()
		c.ok("STARTTLS")
		half := &halved{c.conn, func() {}}
		secure := tls.Client(half, &tls.Config{InsecureSkipVerify: true})
		c.conn, c.r = secure, bufio.NewReader(secure)
		c.ok("LOGIN alice " + passwords["alice"])
		if compress {
			c.ok("COMPRESS DEFLATE")
			w, _ := flate.NewWriter(secure, flate.DefaultCompression)
			c.conn, c.r = deflating{secure, w}, bufio.NewReader(flate.NewReader(secure))
		}
		c.ok("NOTIFY SET (personal (MailboxName))")
		for i := range 20 {
			name := fmt.Sprintf("Box%t%d", compress, i)
			half.between = func() {
				half.between = func() {}
				other.ok("CREATE " + name)
				expect(t, "within a record", c.told(1), fmt.Sprintf(`* LIST (\HasNoChildren) "/" %s`, name))
			}
			c.nothing(name)
		}
	}
}

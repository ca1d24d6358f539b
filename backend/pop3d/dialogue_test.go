package pop3d

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// TestDialogue is the commands of RFC 1939 one after the other.
func TestDialogue(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	all := numbered(3)
	s.add("alice", all...)
	c := s.dial()
	c.says("STAT", "-ERR Invalid command: not allowed")
	c.says("PASS x", "-ERR")
	c.says("USER alice", "+OK")
	c.says("PASS wrong", "-ERR [AUTH] ")
	c.says("PASS secret", "-ERR") // USER comes before
	c.says("user alice", "+OK")
	c.says("pass secret", "+OK")
	c.says("USER alice", "-ERR")
	total := len(all[0]) + len(all[1]) + len(all[2])
	c.says("STAT", fmt.Sprintf("+OK 3 %d", total))
	if got, want := c.whole("LIST"), fmt.Sprintf("1 %d\r\n2 %d\r\n3 %d\r\n", len(all[0]), len(all[1]), len(all[2])); got != want {
		t.Errorf("LIST: %q, want %q", got, want)
	}
	c.says("LIST 2", fmt.Sprintf("+OK 2 %d", len(all[1])))
	for _, wrong := range []string{"LIST 4", "LIST 0", "LIST -1", "LIST x", "LIST 1 2", "RETR 4", "RETR", "DELE 99999999999", "TOP 1", "TOP 1 x", "UIDL 7", "STAT 1", "NOOP x", "XYZ", "", "LAST", "APOP alice 00000000000000000000000000000000"} {
		c.says(wrong, "-ERR ")
	}
	if got := c.whole("RETR 2"); got != all[1] {
		t.Errorf("RETR: %q", got)
	}
	if got := c.whole("TOP 2 0"); got != all[1][:strings.Index(all[1], "\r\n\r\n")+4] {
		t.Errorf("TOP: %q", got)
	}
	c.says("DELE 2", "+OK")
	for _, of := range []string{"DELE 2", "RETR 2", "LIST 2", "UIDL 2", "TOP 2 1"} {
		c.says(of, "-ERR Message is deleted")
	}
	c.says("STAT", fmt.Sprintf("+OK 2 %d", total-len(all[1])))
	if got, want := c.whole("LIST"), fmt.Sprintf("1 %d\r\n3 %d\r\n", len(all[0]), len(all[2])); got != want {
		t.Errorf("LIST: %q, want %q", got, want)
	}
	c.says("RSET", "+OK")
	c.says("STAT", fmt.Sprintf("+OK 3 %d", total))
	c.says("NOOP", "+OK")
	c.says("DELE 1", "+OK")
	c.says("DELE 3", "+OK")
	c.says("QUIT", "+OK")
	if rest := c.closed(); rest != "" {
		t.Errorf("after QUIT: %q", rest)
	}
	if n := s.left("alice"); n != 1 {
		t.Errorf("%d messages are left", n)
	}
	expunged := s.audit.Find(mail.EventExpunge)
	if len(expunged) != 1 || expunged[0].UIDs != "1,3" || expunged[0].Login != "alice" || expunged[0].Mailbox != "INBOX" || expunged[0].Result != "ok" || expunged[0].Service != "pop3" {
		t.Errorf("audited %+v", expunged)
	}
	c = s.login("alice")
	if got := c.whole("RETR 1"); got != all[1] {
		t.Errorf("RETR: %q", got)
	}
}

// TestEmptyMaildrop: nothing is there, and everything answers.
func TestEmptyMaildrop(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	c := s.login("bob") // whose password begins and ends with a space
	c.says("STAT", "+OK 0 0")
	if got := c.whole("LIST") + c.whole("UIDL"); got != "" {
		t.Errorf("listed %q", got)
	}
	c.says("RETR 1", "-ERR There is no such message")
	c.says("QUIT", "+OK")
}

// TestCapa holds what is told in each state (RFC 2449).
func TestCapa(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.LoginDelay = 1 // a nanosecond: seconds are rounded up
	s := startServer(t, cfg)
	c := s.dial()
	common := "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\nLOGIN-DELAY 1\r\n"
	if got, want := c.whole("CAPA"), common+"USER\r\nSASL PLAIN LOGIN\r\nIMPLEMENTATION Postern\r\n"; got != want {
		t.Errorf("CAPA: %q, want %q", got, want)
	}
	if got := c.whole("AUTH"); got != "PLAIN\r\nLOGIN\r\n" {
		t.Errorf("AUTH: %q", got)
	}
	c.says("USER alice", "+OK")
	c.says("PASS secret", "+OK")
	if got, want := c.whole("CAPA"), common+"IMPLEMENTATION Postern\r\n"; got != want {
		t.Errorf("CAPA: %q, want %q", got, want)
	}
}

// TestSASL is AUTH with and without initial responses (RFC 5034).
func TestSASL(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	good := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00secret"))
	bad := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00wrong"))
	c := s.dial()
	c.says("AUTH FOO", "-ERR [AUTH] Unknown")
	c.says("AUTH PLAIN "+bad, "-ERR [AUTH] ")
	c.says("AUTH PLAIN !!!", "-ERR")
	c.says("AUTH PLAIN", "+ ")
	c.says("*", "-ERR Invalid command: authentication was cancelled")
	c.says("AUTH plain", "+ ")
	c.says(good, "+OK")
	c.says("AUTH PLAIN", "-ERR")
	c.says("QUIT", "+OK")
	c = s.dial()
	c.says("AUTH PLAIN "+good, "+OK")
	c.says("QUIT", "+OK")
	c = s.dial()
	c.says("AUTH PLAIN =", "-ERR") // an empty response is none that PLAIN takes
}

// TestRefusals: what is certainly wrong is [AUTH], an outage never.
func TestRefusals(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.MaxAuthFailures = 3
	s := startServer(t, cfg)
	for user, want := range map[string]string{
		"down": "-ERR [SYS/TEMP] ", "broken": "-ERR [SYS/TEMP] ", "norecord": "-ERR [SYS/TEMP] ", "held": "-ERR [SYS/TEMP] ",
		"disabled": "-ERR [AUTH] ", "nobody": "-ERR [AUTH] ", "alice": "-ERR [AUTH] ",
	} {
		c := s.dial()
		for range 2 {
			c.says("USER "+user, "+OK")
			c.says("PASS x", want)
		}
	}
	c := s.dial()
	for range 3 {
		c.says("USER alice", "+OK")
		c.says("PASS x", "-ERR [AUTH]")
	}
	if rest := c.closed(); !strings.HasPrefix(rest, "-ERR [AUTH] Too many") {
		t.Errorf("after the last try: %q", rest)
	}
	c = s.dial()
	c.says("USER panic", "+OK")
	c.says("PASS x", "-ERR [SYS/TEMP] Internal error")
	c.closed()
	s.login("alice").says("NOOP", "+OK")
}

// TestUIDL: names are told apart, stay, and can be those of another server.
func TestUIDL(t *testing.T) {
	t.Parallel()
	s := startServer(t, testConfig())
	s.add("alice", numbered(3)...)
	c := s.login("alice")
	first := c.whole("UIDL")
	seen := make(map[string]bool)
	for i, line := range strings.Split(strings.TrimSuffix(first, "\r\n"), "\r\n") {
		number, name, _ := strings.Cut(line, " ")
		if number != fmt.Sprint(i+1) || name == "" || len(name) > maxUIDLOctets || seen[name] {
			t.Errorf("line %q", line)
		}
		seen[name] = true
		c.says("UIDL "+number, "+OK "+line)
	}
	c.says("DELE 1", "+OK")
	c.says("QUIT", "+OK")
	s.add("alice", message("new", ""))
	c = s.login("alice")
	again := strings.Split(c.whole("UIDL"), "\r\n")
	old := strings.Split(first, "\r\n")
	if again[0][1:] != old[1][1:] || again[1][1:] != old[2][1:] || seen[again[2][2:]] {
		t.Errorf("names were %q and are %q", old, again)
	}
}

func TestUIDLFormats(t *testing.T) {
	t.Parallel()
	m := &mailstore.Message{UID: 4711, Dot: mailstore.Dot{Origin: 0x1_0000_0000_00ab, Seq: 0xc0ffee}}
	long := strings.Repeat("x", maxUIDLOctets-9) + "%010u"
	for format, want := range map[string]string{
		"%08Xu%08Xv": "0000126765432100", "%v.%u": "1698898176.4711", "UID%u-%v": "UID4711-1698898176", "%u": "4711", "%05u": "04711", "%03u": "4711",
		"%g": "00010000000000abc0ffee", "a%%b%u": "a%b4711", "%08Xv%08Xu": "6543210000001267",
		long: "hash",
	} {
		u, err := ParseUIDL(format)
		if err != nil {
			t.Error(err)
			continue
		}
		got := string(u.append([]byte("1 "), m, 0x65432100))
		if want == "hash" {
			other := string(u.append(nil, &mailstore.Message{UID: 4712}, 0x65432100))
			if len(got) != 2+64 || "1 "+other == got {
				t.Errorf("%s: %q and %q", format, got, other)
			}
			continue
		}
		if got != "1 "+want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
	for format, want := range map[string]string{
		"": "names all messages alike", "%v": "names all messages alike", "x": "names all messages alike", "%u%": "ends inside", "%08X": "ends inside",
		"%f": "no files", "%m%u": "no files", "%z": "no variable %z", "%8u": "is no width", "%071u": "is no width", "%08g": "form of its own", "%0099999999999u": "is no width",
		"a %u": "printable US-ASCII", "ä%u": "printable US-ASCII", "%u\n": "printable US-ASCII", "%08%%u": "no variable",
	} {
		if _, err := ParseUIDL(format); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", format, err, want)
		}
	}
}

// FuzzUIDL: what is accepted names messages apart, in the RFC's set.
func FuzzUIDL(f *testing.F) {
	for _, seed := range []string{"%g", "%08Xu%08Xv", "UID%u-%v", "%v.%u", "%%%070u", strings.Repeat("y", 80) + "%u"} {
		f.Add(seed, uint32(1), uint32(2), uint32(3))
	}
	f.Fuzz(func(t *testing.T, format string, a, b, validity uint32) {
		u, err := ParseUIDL(format)
		if err != nil || len(format) > 1000 {
			return
		}
		one := u.append(nil, &mailstore.Message{UID: imap.UID(a), Dot: mailstore.Dot{Seq: uint64(a)}}, validity)
		other := u.append(nil, &mailstore.Message{UID: imap.UID(b), Dot: mailstore.Dot{Seq: uint64(b)}}, validity)
		if a != b && bytes.Equal(one, other) {
			t.Errorf("%q names %d and %d alike: %s", format, a, b, one)
		}
		if len(one) == 0 || len(one) > maxUIDLOctets || bytes.ContainsFunc(one, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
			t.Errorf("%q names %d %q", format, a, one)
		}
	})
}

// FuzzParse: any line in any state is a command or an answer, and never more
// arguments than a handler expects.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"USER a b", "PASS  x ", "TOP 1 2", "TOP 1", "LIST", "list 1 ", "AUTH PLAIN =", "QUIT x", " ", "\x00", "STAT\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, now := range []state{authorization, transaction} {
			c, err := parse(line, now)
			if err != nil {
				continue
			}
			most := c.verb.most
			if most < 0 {
				most = 1
			}
			if c.verb.run == nil || c.verb.states&now == 0 || len(c.args) < c.verb.least || len(c.args) > most {
				t.Errorf("%q in %d: %+v", line, now, c)
			}
		}
	})
}

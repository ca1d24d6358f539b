package pop3d

import (
	"bufio"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/internal/testenv"
)

// explained are the answers in which we differ from Dovecot, and why.
var explained = map[string]string{
	"RETR":     "Dovecot takes a missing number for a wrong one; both are -ERR",
	"NOOP x":   "Dovecot passes over arguments",
	"STAT 1":   "Dovecot passes over arguments",
	"DELE 1 2": "Dovecot takes the first number",
}

// TestDovecot holds the same dialogue with Dovecot, over the same messages:
// what is +OK there is here, every number is the same, and so is every octet of
// every message.
func TestDovecot(t *testing.T) {
	t.Parallel()
	theirs := testenv.Dovecot(t, "alice")
	ours := startServer(t, testConfig())
	var all, names []string
	for name, m := range odd {
		switch {
		case strings.Contains(m, "\x00"), m == "": // Dovecot's APPEND takes neither
		case strings.HasPrefix(m, "."): // Dovecot does not stuff it: a first line of one dot ends its response
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		all = append(all, odd[name])
	}
	ours.add("alice", all...)
	appendTo(t, theirs, all)
	conn, err := net.Dial("tcp", theirs.POP3)
	if err != nil {
		t.Fatal(err)
	}
	a, b := ours.dial(), newClient(t, conn)
	b.expect("+OK")
	for _, c := range []*client{a, b} {
		c.says("USER alice", "+OK")
		c.says("PASS wrong", "-ERR [AUTH]")
	}
	a.says("USER alice", "+OK")
	a.says("PASS secret", "+OK")
	b.says("USER alice", "+OK")
	b.says("PASS "+theirs.Password, "+OK")
	number := regexp.MustCompile(`^\+OK \d+`)
	for _, command := range []string{
		"STAT", "LIST 1", "LIST 99", "UIDL 99", "RETR 99", "RETR 0", "RETR", "TOP 1", "TOP 99 1", "DELE 99", "XYZ", "NOOP", "NOOP x", "STAT 1",
		"DELE 1", "DELE 1", "RETR 1", "TOP 1 1", "LIST 1", "UIDL 1", "STAT", "RSET", "STAT", "LIST 2", "DELE 1 2", "RSET", "USER alice", "PASS secret", "STLS",
	} {
		a.send(command + "\r\n")
		b.send(command + "\r\n")
		here, there := a.line(), b.line()
		same := here[:3] == there[:3]
		if strings.HasPrefix(command, "STAT") || strings.HasPrefix(command, "LIST") {
			same = same && number.FindString(here) == number.FindString(there)
		}
		if !same && explained[command] == "" {
			t.Errorf("%s: %q, Dovecot %q", command, here, there)
		}
	}
	heres, theres := strings.Split(a.whole("LIST"), "\r\n"), strings.Split(b.whole("LIST"), "\r\n")
	for i, name := range names {
		// Dovecot does not count the end of line that it adds at the end.
		if strings.HasSuffix(odd[name], "\r") || strings.Contains(odd[name], "\r\r\n") {
			continue // of two CR before a LF Dovecot leaves one
		}
		if heres[i] != theres[i] && strings.HasSuffix(odd[name], "\n") {
			t.Errorf("LIST of %q: %q, Dovecot %q", name, heres[i], theres[i])
		}
		for _, command := range []string{"RETR " + itoa(i+1), "TOP " + itoa(i+1) + " 0", "TOP " + itoa(i+1) + " 1"} {
			if here, there := a.whole(command), b.whole(command); here != there {
				t.Errorf("%s of %q: %.200q, Dovecot %.200q", command, name, here, there)
			}
		}
	}
	capa := func(c *client) []string { return strings.Fields(c.whole("CAPA")) }
	here, there := capa(a), capa(b)
	for _, word := range there {
		if word != "CAPA" && !slices.Contains(here, word) { // which RFC 2449 does not list
			t.Errorf("Dovecot offers %s, and we do not", word)
		}
	}
}

// appendTo gives Dovecot's alice the messages.
func appendTo(t *testing.T, d *testenv.DovecotServer, all []string) {
	t.Helper()
	conn, err := net.Dial("tcp", d.IMAP)
	if err != nil {
		t.Fatal(err)
	}
	c := imapclient.New(conn, nil)
	defer func() { _ = c.Close() }()
	if err := c.Login("alice", d.Password).Wait(); err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		app := c.Append("INBOX", int64(len(m)), nil)
		_, err := bufio.NewReader(strings.NewReader(m)).WriteTo(app)
		if err == nil {
			err = app.Close()
		}
		if err == nil {
			_, err = app.Wait()
		}
		if err != nil {
			t.Fatalf("APPEND to Dovecot of %.100q: %v", m, err)
		}
	}
}

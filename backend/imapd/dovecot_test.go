package imapd

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// beside is the same account on our server and on Dovecot.
type beside struct {
	ours, theirs *client
	t            *testing.T
	server       *server
	dovecot      *testenv.DovecotServer
}

// again is one more client of the same server and account.
func (b *beside) again(of *client) *client {
	b.t.Helper()
	if of == b.ours {
		return b.server.login("alice")
	}
	return b.loginDovecot()
}

func (b *beside) loginDovecot() *client {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.dovecot.IMAP)
	if err != nil {
		b.t.Fatal(err)
	}
	c := newClient(b.t, conn)
	c.line()
	c.ok("LOGIN alice@example.com " + b.dovecot.Password)
	return c
}

func besideDovecot(t *testing.T) *beside {
	t.Helper()
	b := &beside{t: t, server: startServer(t, testConfig()), dovecot: testenv.Dovecot(t, "alice@example.com")}
	b.ours, b.theirs = b.server.login("alice"), b.loginDovecot()
	return b
}

// same runs a command on both and compares what is told of messages, and
// whether it succeeded.
func (b *beside) same(t *testing.T, text string) {
	t.Helper()
	if ours, theirs := b.both(text); ours != theirs {
		t.Errorf("%.60q:\n   ours %q\nDovecot %q", text, ours, theirs)
	}
}

// both runs a command on both servers and returns what they answer, but for what
// never counts.
func (b *beside) both(text string) (ours, theirs string) {
	answer := func(c *client) string {
		untagged, tagged := c.cmd(text)
		word, _, _ := strings.Cut(tagged, " ")
		// \Recent went with IMAP4rev2, and Dovecot spells field names in
		// capitals and misses parts as empty strings.
		s := strings.ReplaceAll(strings.Join(append(untagged, word), "\n"), `\Recent`, "")
		s = strings.ReplaceAll(strings.ReplaceAll(s, "( ", "("), " )", ")")
		s = strings.ReplaceAll(strings.ReplaceAll(s, "] NIL)", "] {0}\r\n)"), "> NIL)", "> {0}\r\n)")
		return strings.ReplaceAll(s, "(SUBJECT)]", "(subject)]")
	}
	return answer(b.ours), answer(b.theirs)
}

// strange are messages that are not as they should be; of each, the items that
// both servers read alike.
var strange = []struct{ text, items string }{
	{message("plain", "hello"), "ENVELOPE BODYSTRUCTURE BODY RFC822.SIZE [] [HEADER] [TEXT] [1] [1.MIME] [2] [1.1] [1.TEXT] []<5.10> []<0.1> []<99999.5> [HEADER.FIELDS§(subject)]"},
	{"\r\nbody only\r\n", "ENVELOPE BODYSTRUCTURE BODY RFC822.SIZE [] [HEADER] [TEXT] [1] [1.MIME] [2]"},
	{"Subject: x\r\n", "ENVELOPE BODYSTRUCTURE RFC822.SIZE [] [HEADER] [TEXT] [1]"},
	{"Subject: x\r\nFrom: a@b", "ENVELOPE BODYSTRUCTURE RFC822.SIZE [] [HEADER] [TEXT] [1]"},
	{"Subject: m\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npre\r\n--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\n" +
		"Content-Type: application/x; name=\"a b\"\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--b--\r\npost\r\n",
		"ENVELOPE [] [TEXT] [1] [1.MIME] [2] [2.MIME] [3]"},
	{"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\none\r\n--b\r\n" +
		"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nFrom: <i@n>\r\n\r\ninner body\r\n",
		"ENVELOPE [] [1] [1.MIME] [2] [2.MIME] [2.HEADER] [2.TEXT] [2.1] [3]"},
	{"Content-Type: multipart/mixed; boundary=zz\r\n\r\nno boundary here\r\n", "ENVELOPE BODYSTRUCTURE BODY [] [TEXT] [1] [1.MIME]"},
	{"From: \"A, B\" <a@b.c>, =?utf-8?q?=C3=A9?= <d@e>\r\nTo: group: x@y, z@w;\r\nCc: undisclosed-recipients:;\r\nReply-To: \r\n" +
		"Date: not a date\r\nSubject: =?utf-8?b?w6k=?=\r\nMessage-ID: <1@2>\r\nIn-Reply-To: <3@4>\r\n\r\nx\r\n", "ENVELOPE BODYSTRUCTURE BODY"},
	{"Subject: a\r\n b\r\n\tc\r\nX: y\r\n\r\nx\r\n", "BODYSTRUCTURE [HEADER.FIELDS§(subject)]"},
	{"Content-Type: text/plain; format=flowed; charset=utf-8\r\nContent-ID: <c@d>\r\nContent-Description: des\r\n" +
		"Content-Language: en, de\r\nContent-Location: http://x\r\n\r\nx\r\n", "BODYSTRUCTURE BODY"},
}

// TestLikeDovecot: where the RFCs leave no choice, or everybody made the same,
// both servers answer alike.
func TestLikeDovecot(t *testing.T) {
	t.Parallel()
	b := besideDovecot(t)
	for _, m := range strange {
		b.ours.append("INBOX", "", m.text)
		b.theirs.append("INBOX", "", m.text)
	}
	b.ours.ok("SELECT INBOX")
	b.theirs.ok("SELECT INBOX")
	for i, m := range strange {
		for item := range strings.FieldsSeq(m.items) {
			if strings.HasPrefix(item, "[") {
				item = "BODY.PEEK" + strings.ReplaceAll(item, "§", " ")
			}
			b.same(t, fmt.Sprintf("FETCH %d %s", i+1, item))
		}
	}
	for _, command := range []string{
		"SEARCH ALL", "SEARCH SUBJECT \"a b\"", "SEARCH CHARSET UTF-8 SUBJECT {2+}\r\n\xc3\xa9", "SEARCH FROM A", "SEARCH TO x@y",
		`SEARCH HEADER X ""`, "SEARCH BODY inner", "SEARCH TEXT inner", "SEARCH TEXT pre", "SEARCH BODY post", "SEARCH BODY one",
		"SEARCH SENTSINCE 1-Jan-1994 SENTON 7-Feb-1994", "SEARCH SMALLER 30", "SEARCH LARGER 300", "SEARCH 1,3:5,*", "SEARCH 99", "SEARCH UID 5:*",
		"SEARCH UID 999:*", "SEARCH NOT 1:8", "SEARCH OR OR 1 2 (3 4)", "SEARCH (1 2)", "SEARCH ()", "SEARCH", "SEARCH FOO", "SEARCH SINCE 01-Jan-2000",
		"SEARCH RETURN (COUNT) SUBJECT nothing", "SEARCH RETURN (FOO) ALL", "FETCH 0 FLAGS", "FETCH 99 FLAGS", "UID FETCH 99 FLAGS",
		"FETCH 1:* (FLAGS", "FETCH 1 ()", "FETCH 1 FOO", "FETCH 1 (FAST)", "FETCH *:2 UID", "FETCH 2:1,1:2 UID", "FETCH 1,1 UID",
		"STORE 1 +FLAGS (\\Seen)", "STORE 1 +FLAGS (\\Foo)", "STORE 99 +FLAGS (\\Seen)", "UID STORE 99 +FLAGS (\\Seen)", "STORE 1 -FLAGS.SILENT (\\Seen)",
		"COPY 1 nowhere", "UID COPY 99 INBOX", "COPY 99 INBOX", "MOVE 99 INBOX", "UID MOVE 99 INBOX", "UID EXPUNGE 1:*", "EXPUNGE",
		"CREATE INBOX", "CREATE a", "CREATE a", "DELETE a", "DELETE a", "DELETE INBOX", "RENAME nothing x", "CREATE &AOk-", "CREATE &xx",
		`CREATE ""`, "DELETE nothing", "STATUS nowhere (MESSAGES)", "STATUS INBOX ()", "STATUS INBOX (FOO)", "FETCH 1 UID", "UID FOO",
		"APPEND nowhere {3+}\r\nabc", "UNSELECT", "CLOSE", "FETCH 1 UID",
	} {
		b.same(t, command)
	}
}

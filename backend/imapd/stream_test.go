package imapd

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// TestFetchWithoutBodies: what mail programs show in their lists is answered
// when no body can be read: headers, envelopes, structures, previews, sizes of
// what is not encoded, and searches of headers.
func TestFetchWithoutBodies(t *testing.T) {
	t.Parallel()
	s, faulty := startFaulty(t)
	c := s.login("alice")
	for i := range 3 {
		c.append("INBOX", "", mixedMessage([]byte{byte(i)}))
	}
	faulty.unreadable.Store(true)
	c.ok("SELECT INBOX")
	for _, items := range []string{
		"ALL", "FAST", "FULL", "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY)", "BODY.PEEK[HEADER]", "RFC822.HEADER",
		"BODY.PEEK[HEADER.FIELDS (SUBJECT)]", "BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT)]<2.9>", "BODY[HEADER]", "PREVIEW", "(PREVIEW (LAZY) SAVEDATE EMAILID THREADID)",
	} {
		if got := c.ok("FETCH 1:* " + items); len(got) != 3 {
			t.Errorf("%s: %d answers", items, len(got))
		}
	}
	expect(t, "preview", c.ok("FETCH 2 PREVIEW"), "* 2 FETCH (PREVIEW {13}\r\ncaf\xc3\xa9 au lait)")
	expect(t, "search", c.ok("SEARCH SUBJECT x"), "* SEARCH 1 2 3")
	c.fails("FETCH 1 BODY.PEEK[]", "NO")
}

// largest remembers the largest write.
type largest struct {
	sink
	octets int
	all    int64
}

func (w *largest) Write(p []byte) (int, error) {
	w.octets, w.all = max(w.octets, len(p)), w.all+int64(len(p))
	return len(p), nil
}

// TestFetchStreams: however large what is fetched, it is written in pieces.
func TestFetchStreams(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	account, err := st.Account(t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	box, err := account.Mailbox(t.Context(), inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer box.Close()
	text := "Subject: x\r\n" + strings.Repeat("X: y\r\n", 50_000) + "Content-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat(strings.Repeat("QUJD", 19)+"\r\n", 100_000)
	content, err := st.Stage(t.Context(), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer content.Discard()
	if _, err := box.Append(t.Context(), []mailstore.Append{{Content: content}}); err != nil {
		t.Fatal(err)
	}
	cfg, err := testConfig().withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for items, least := range map[string]int{
		"BODY.PEEK[]": len(text), "(BODY.PEEK[TEXT] BODY.PEEK[1])": 2 * 7_800_000, "BODY.PEEK[]<10.7000000>": 7_000_000,
		"BINARY.PEEK[1]": 5_700_000, "BINARY.PEEK[1]<100.5000000>": 5_000_000, "BODY.PEEK[HEADER]": 300_000, "BODY.PEEK[HEADER.FIELDS (X)]": 300_000,
	} {
		out := &largest{}
		s := &session{cfg: &cfg, w: writer{conn: out, timeout: time.Minute}}
		s.box = &selection{ground: ground{mailbox: box, told: box.View(), now: box.View()}}
		a, err := parseFetch(false)(&parser{b: []byte(" 1 " + items)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.fetch(t.Context(), a); err != nil {
			t.Fatal(items, err)
		}
		if err := s.w.flush(); err != nil {
			t.Fatal(err)
		}
		if out.octets > flushOctets+bodyStepOctets || cap(s.w.buf) > 4*(flushOctets+bodyStepOctets) || out.all < int64(least) {
			t.Errorf("%s: writes of up to %d octets, a buffer of %d, %d in all", items, out.octets, cap(s.w.buf), out.all)
		}
	}
}

// FuzzStream sends whatever as the rest of an APPEND or a REPLACE: the session
// goes on or ends, and does not break.
func FuzzStream(f *testing.F) {
	for _, seed := range []string{
		"APPEND INBOX {3+}\r\nabc {2+}\r\nxy", "APPEND INBOX (\\Seen) \"01-Jan-2020 00:00:00 +0000\" ~{1+}\r\n\x00", "APPEND INBOX CATENATE (URL \"/INBOX/;UID=1\" TEXT {3+}\r\nabc)",
		"APPEND INBOX CATENATE (TEXT {3}\r\nabc URL {13+}\r\n/INBOX/;UID=1)", "REPLACE 1 INBOX {3+}\r\nabc", "UID REPLACE 1 INBOX CATENATE (URL ;UID=1/;PARTIAL=3)",
		"APPEND {5+}\r\nINBOX {99999999+}\r\nx", "APPEND INBOX CATENATE (", "APPEND INBOX CATENATE (TEXT ~{2+}\r\na\x00 TEXT {0+}\r\n) {1+}\r\nx",
	} {
		f.Add([]byte(seed))
	}
	cfg := testConfig()
	cfg.AppendLimitOctets = 1000
	s := startServer(f, cfg)
	s.login("alice").append("INBOX", "", message("one", "text"))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(soon)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "a LOGIN alice secret\r\nb SELECT INBOX\r\nc %s\r\n", b)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(conn)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatalf("still open after %q", out)
		}
	})
}

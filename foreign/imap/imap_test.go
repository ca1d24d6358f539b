package imap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// script is a server that answers each line it gets, by what the line begins
// with behind the tag, with what stands here; "T" stands for the tag.
func script(t *testing.T, greeting string, answers map[string]string) *Client {
	t.Helper()
	client, server := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer server.Close()
		_, _ = io.WriteString(server, greeting)
		r := bufio.NewReader(server)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			tag, command, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
			for prefix, answer := range answers {
				if strings.HasPrefix(command, prefix) {
					_, _ = io.WriteString(server, strings.ReplaceAll(answer, "T@ ", tag+" "))
				}
			}
		}
	}()
	t.Cleanup(func() { _ = client.Close(); <-ended })
	c, err := newClient(t.Context(), client, 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const hello = "* OK hello\r\n"

func TestSelect(t *testing.T) {
	t.Parallel()
	c := script(t, hello, map[string]string{`SELECT "Box" (QRESYNC (7 41))`: "* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 12] x\r\n* OK [HIGHESTMODSEQ 99] x\r\n" +
		"* OK [PERMANENTFLAGS (\\Seen $Work \\*)] x\r\n* VANISHED (EARLIER) 1:3,9\r\n* 1 FETCH (UID 4 FLAGS (\\seen \\Recent $Work) MODSEQ (98))\r\nT@ OK [READ-WRITE] done\r\n"})
	s, err := c.Select(t.Context(), "Box", &Position{7, 41})
	if err != nil {
		t.Fatal(err)
	}
	if s.UIDValidity != 7 || s.UIDNext != 12 || s.ModSeq != 99 || s.Vanished.String() != "1:3,9" || !s.Keeps("$Other") || s.Keeps(`\Flagged`) {
		t.Errorf("%+v", s)
	}
	if len(s.Changed) != 1 || s.Changed[0].UID != 4 || s.Changed[0].ModSeq != 98 || !slices.Equal(s.Changed[0].Flags, []string{"$Work", `\Seen`}) {
		t.Errorf("%+v", s.Changed)
	}
	if c.Events().Any() {
		t.Error("answers to SELECT are told as events")
	}
}

func TestKeywordExhaustion(t *testing.T) {
	t.Parallel()
	c := script(t, hello, map[string]string{"SELECT": "* OK [UIDVALIDITY 7] x\r\n* OK [PERMANENTFLAGS (\\Seen $Work)] x\r\nT@ OK done\r\n"})
	s, err := c.Select(t.Context(), "Box", nil)
	if err != nil || s.Keeps("$ReplPending") || !s.Keeps("$work") {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestBodyFlowsFromLiteralToLiteral(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789", 10_000)
	c := script(t, hello, map[string]string{"UID FETCH 5": fmt.Sprintf("* 1 FETCH (UID 5 BODY[] {%d}\r\n%s FLAGS (\\Seen))\r\nT@ OK done\r\n", len(text), text)})
	var got strings.Builder
	found, err := c.Body(t.Context(), 5, func(size int64, r io.Reader) error {
		_, err := io.CopyN(&got, r, size/2) // the rest is skipped
		return err
	})
	if err != nil || !found || got.String() != text[:len(text)/2] {
		t.Errorf("found %v, %d octets, %v", found, got.Len(), err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	c := script(t, hello, map[string]string{
		"APPEND": "T@ NO [OVERQUOTA] full\r\n", "CREATE": "T@ NO [ALREADYEXISTS] is there\r\n", "UID STORE": "T@ OK [MODIFIED 7,9] some\r\n",
		"UID COPY": "T@ OK [COPYUID 3 1:2 8,11] done\r\n",
	})
	_, _, err := c.Append(t.Context(), "Box", nil, "", 3, strings.NewReader("abc"))
	if code, refused := Refused(err); !refused || code != "OVERQUOTA" {
		t.Errorf("APPEND: %v", err)
	}
	if code, _ := Refused(c.Create(t.Context(), "Box")); code != "ALREADYEXISTS" {
		t.Errorf("CREATE: %s", code)
	}
	if set, err := c.Store(t.Context(), Set{{7, 9}}, 5, true, []string{"x"}); err != nil || set.String() != "7,9" {
		t.Errorf("STORE: %v, %v", set, err)
	}
	if v, uids, err := c.Copy(t.Context(), Set{{1, 2}}, "Box"); err != nil || v != 3 || uids[1] != 8 || uids[2] != 11 {
		t.Errorf("COPY: %v %v %v", v, uids, err)
	}
}

func TestServerGoesAway(t *testing.T) {
	t.Parallel()
	c := script(t, hello, map[string]string{"NOOP": "* BYE going down\r\n"})
	err := c.do(t.Context(), nil, "NOOP")
	var e *Error
	if !errors.As(err, &e) || e.Status != "BYE" {
		t.Errorf("%v, want a BYE", err)
	}
	if _, refused := Refused(err); refused {
		t.Error("a BYE is taken for a refusal")
	}
	if err := c.do(t.Context(), nil, "NOOP"); err == nil {
		t.Error("the connection is used on")
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	c := script(t, hello, nil)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if err := c.do(ctx, nil, "NOOP"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestWake(t *testing.T) {
	t.Parallel()
	c := script(t, hello, map[string]string{"NOOP": "* STATUS \"Box\" (HIGHESTMODSEQ 5)\r\nT@ OK done\r\n"})
	c.Arm()
	time.AfterFunc(time.Millisecond, c.Wake)
	if err := c.Listen(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := c.do(t.Context(), nil, "NOOP"); err != nil {
		t.Fatal(err)
	}
	if e := c.Events(); !e.Mailboxes["Box"] {
		t.Errorf("%+v", e)
	}
}

func TestNotTLS(t *testing.T) {
	t.Parallel()
	c := script(t, hello, map[string]string{"CAPABILITY": "* CAPABILITY IMAP4rev1 STARTTLS\r\nT@ OK done\r\n", "STARTTLS": "T@ OK go\r\n* OK injected\r\n"})
	if err := c.StartTLS(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "in the clear") {
		t.Errorf("%v", err)
	}
}

func TestSets(t *testing.T) {
	t.Parallel()
	s := SetOf([]uint32{5, 1, 2, 3, 9, 5})
	if s.String() != "1:3,5,9" || !s.Contains(2) || s.Contains(4) || s.Len() != 5 {
		t.Errorf("%v", s)
	}
	s, err := ParseSet("9,7:5,6:8")
	if err != nil || s.Sorted().String() != "5:9" {
		t.Errorf("%v, %v", s.Sorted(), err)
	}
	if _, err := (Set{{1, 1<<32 - 1}}).List(100); err == nil {
		t.Error("a set of billions is listed")
	}
	for _, bad := range []string{"", "0", "1:", "a", "1,,2", "4294967296", "1:*"} {
		if _, err := ParseSet(bad); err == nil {
			t.Errorf("%q is taken for a set", bad)
		}
	}
}

func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"* 1 FETCH (UID 4 FLAGS (\\Seen) MODSEQ (98) BODY[HEADER.FIELDS (TO)] {4}\r\nTo:x BODY[] {2}\r\nhi)\r\n",
		"* LIST (\\HasNoChildren \\Subscribed) \".\" \"a \\\"b\"\r\n* STATUS INBOX (MESSAGES 1 X-GUID ab MAILBOXID (F1))\r\n",
		"* OK [PERMANENTFLAGS (\\Seen \\*)] x\r\n* VANISHED (EARLIER) 1:3\r\n+ go\r\np1 OK [COPYUID 1 2:3 4:5] done\r\n",
		"* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n* SEARCH 1 2 (MODSEQ 5)\r\n", "* BAD ~{1}\r\n", "* X ((((((((((",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &Client{conn: nowhere{}, timeout: time.Second}
		c.br = bufio.NewReader(strings.NewReader(text))
		c.sink = func(_ int64, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
		found := make(map[string]*Mailbox)
		s := &Selected{}
		for range 1000 {
			u, final, err := c.response()
			if err != nil {
				return
			}
			if final != nil {
				parseCode(final.text)
				continue
			}
			if u == nil {
				continue
			}
			c.note(u)
			if listed(u, found) != nil || s.read(u) != nil {
				return
			}
		}
	})
}

// nowhere is a connection of which only the deadlines are used.
type nowhere struct{ net.Conn }

func (nowhere) SetDeadline(time.Time) error { return nil }
func (nowhere) Close() error                { return nil }

func FuzzParseSet(f *testing.F) {
	f.Add("1:3,5")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSet(text)
		if err != nil {
			return
		}
		again, err := ParseSet(s.Sorted().String())
		if err != nil || !slices.Equal(again, s.Sorted()) {
			t.Errorf("%q became %v and then %v, %v", text, s, again, err)
		}
	})
}

package main

import (
	"bufio"
	"bytes"
	"net"
	"net/textproto"
	"strings"
	"testing"
)

func TestLargeMailboxLetters(t *testing.T) {
	t.Parallel()
	octets, seen := 0, make(map[string]bool)
	const count = 400
	for n := range count {
		text := letter(n)
		octets += len(text)
		if !bytes.Equal(text, letter(n)) {
			t.Fatalf("letter %d is another one the second time", n)
		}
		header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(text))).ReadMIMEHeader()
		if err != nil || header.Get("Subject") == "" || (n%4 > 0) != (header.Get("References") != "") {
			t.Fatalf("letter %d: header %v, %v", n, header, err)
		}
		seen[header.Get("Message-Id")] = true
		if got := bytes.Contains(text, []byte(needleBody)); got != (n%needleEvery == 11) {
			t.Errorf("letter %d: the word that is looked for: %v", n, got)
		}
	}
	if len(seen) != count {
		t.Errorf("%d letters have %d identities", count, len(seen))
	}
	if mean := octets / count; mean < 3_500 || mean > 9_000 {
		t.Errorf("a letter has %d octets on average", mean)
	}
}

// The client finds the end of a command behind literals that look like it, and
// behind lines of any length.
func TestBulkClient(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	long := strings.Repeat(" 123456", 100_000)
	answer := "* 1 FETCH (BODY[] {12}\r\nt1 OK no\r\n\r\n UID 7 BODY[TEXT] {4}\r\n{3}\r X)\r\n* SEARCH" + long + "\r\n* OK [MARK 9] here\r\nt1 OK done\r\nt2 NO never\r\n"
	go func() {
		in := bufio.NewReader(far)
		for range 2 {
			_, _ = in.ReadString('\n')
		}
	}()
	go func() { _, _ = far.Write([]byte(answer)) }()
	c := &bulkClient{imapClient: &imapClient{conn: near, in: bufio.NewReaderSize(near, bulkOctets)}}
	kept, err := c.do("FETCH 1 (BODY[])", "* OK [MARK")
	if err != nil || kept != "* OK [MARK 9] here" {
		t.Errorf("kept %q, %v", kept, err)
	}
	if want := int64(strings.Index(answer, "t2 NO")); c.octets != want {
		t.Errorf("%d octets read, want %d", c.octets, want)
	}
	if _, err := c.do("NOOP", ""); err == nil || !strings.Contains(err.Error(), "never") {
		t.Errorf("NO is %v", err)
	}
}

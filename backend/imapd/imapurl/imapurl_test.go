package imapurl

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]URL{
		"/Drafts;UIDVALIDITY=385759045/;UID=20/;section=HEADER": {Mailbox: "Drafts", UIDValidity: 385759045, UID: 20, Section: "HEADER"},
		"/Drafts;UIDVALIDITY=385759045/;UID=30/;section=1.MIME": {Mailbox: "Drafts", UIDValidity: 385759045, UID: 30, Section: "1.MIME"},
		"/INBOX/;UID=1":          {Mailbox: "INBOX", UID: 1},
		"INBOX/;uid=1":           {Mailbox: "INBOX", UID: 1},
		";UID=9":                 {UID: 9},
		"/;UID=9/;PARTIAL=5":     {UID: 9, Partial: true, Offset: 5, Octets: -1},
		";UID=9/;PARTIAL=0.1024": {UID: 9, Partial: true, Octets: 1024},
		"/a/b%20c/%C3%A9/;UID=2": {Mailbox: "a/b c/é", UID: 2},
		"/a%2Fb/;UID=2":          {Mailbox: "a/b", UID: 2},
		"imap://kim@mail/INBOX/;UID=4/;SECTION=HEADER.FIELDS%20(Subject)/;PARTIAL=1.2": {
			Server: "kim@mail", Mailbox: "INBOX", UID: 4, Section: "HEADER.FIELDS (Subject)", Partial: true, Offset: 1, Octets: 2,
		},
		"IMAP://mail/a/;UID=4;EXPIRE=2027-01-01T00:00:00Z;URLAUTH=user+kim:INTERNAL:abc": {
			Server: "mail", Mailbox: "a", UID: 4, Auth: ";EXPIRE=2027-01-01T00:00:00Z;URLAUTH=user+kim:INTERNAL:abc",
		},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		"": ErrNoUID, "/": ErrNoUID, "/INBOX": ErrNoUID, "/INBOX?SUBJECT%20x": ErrNoUID, "imap://host": ErrNoUID, "imap://": ErrNoUID,
		"/INBOX/;UID=": ErrSyntax, "/INBOX/;UID=0": ErrSyntax, "/INBOX/;UID=+1": ErrSyntax, "/INBOX/;UID=4294967296": ErrSyntax,
		"/INBOX;UID=1": ErrSyntax, "/INBOX;UIDVALIDITY=x/;UID=1": ErrSyntax, "/INBOX;X=1/;UID=1": ErrSyntax, "/a%/;UID=1": ErrSyntax,
		"/a%zz/;UID=1": ErrSyntax, "/a%00/;UID=1": ErrSyntax, "/a%0d%0a/;UID=1": ErrSyntax, "/a%ff/;UID=1": ErrSyntax, "/a b/;UID=1": ErrSyntax,
		"/\xc3\xa9/;UID=1": ErrSyntax, "/a/;UID=1/": nil, "/a/;UID=1/x": ErrSyntax, "/a/;UID=1/;SECTION=": ErrSyntax,
		"/a/;UID=1/;PARTIAL=": ErrSyntax, "/a/;UID=1/;PARTIAL=1.0": ErrSyntax, "/a/;UID=1/;PARTIAL=1.2/x": ErrSyntax,
		"http://x/a/;UID=1": ErrSyntax, "//host/a/;UID=1": ErrSyntax, "/" + strings.Repeat("a", MaxOctets) + "/;UID=1": ErrTooLong,
	} {
		if _, err := Parse(text); !errors.Is(err, want) {
			t.Errorf("%.60q: %v, want %v", text, err, want)
		}
	}
}

// FuzzParse: what is read says the same when it is composed and read again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"/Drafts;UIDVALIDITY=385759045/;UID=20/;section=HEADER", ";UID=9/;PARTIAL=5", "imap://k@h/a%2Fb/;UID=1/;SECTION=1.2/;PARTIAL=0.9",
		"/x;UIDVALIDITY=1/;UID=1;URLAUTH=anonymous:INTERNAL:0", "/%", "/;UIDVALIDITY=3/;UID=2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(u.String())
		if err != nil || again != u {
			t.Fatalf("%q is %+v, composed %q, which is %+v, %v", text, u, u.String(), again, err)
		}
	})
}

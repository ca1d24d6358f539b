package imapd

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

func TestLiteralAt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line string
		want literalMark
		ok   bool
	}{
		{"A LOGIN {5}", literalMark{octets: 5, start: 8}, true},
		{"A LOGIN {5+}", literalMark{octets: 5, nonSync: true, start: 8}, true},
		{"{0}", literalMark{}, true},
		{"~{7}", literalMark{octets: 7, start: 1}, true},
		{"{99999999999999999999999}", literalMark{octets: tooManyOctets}, true},
		{"{99999999999999999999999+}", literalMark{octets: tooManyOctets, nonSync: true}, true},
		{"{}", literalMark{}, false},
		{"{+}", literalMark{}, false},
		{"5}", literalMark{}, false},
		{"{5", literalMark{}, false},
		{"{-5}", literalMark{}, false},
		{"{5} ", literalMark{}, false},
		{"", literalMark{}, false},
	} {
		got, ok := literalAt([]byte(tt.line))
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("literalAt(%q) = %+v, %v; want %+v, %v", tt.line, got, ok, tt.want, tt.ok)
		}
	}
}

func TestParserStrings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want, rest string }{
		{`foo bar`, "foo", " bar"},
		{`foo]`, "foo]", ""},
		{`"a b" c`, "a b", " c"},
		{`"a \"b\\" c`, `a "b\`, " c"},
		{"{3}\r\na\"\r rest", "a\"\r", " rest"},
		{"{3+}\r\nabc", "abc", ""},
		{"{0}\r\n", "", ""},
		{`""`, "", ""},
	} {
		p := &parser{b: []byte(tt.in)}
		got, err := p.astring()
		if err != nil || got != tt.want || string(p.b[p.i:]) != tt.rest {
			t.Errorf("astring(%q) = %q, rest %q, %v; want %q, rest %q", tt.in, got, p.b[p.i:], err, tt.want, tt.rest)
		}
	}
	for _, in := range []string{``, ` x`, `(`, `"open`, `"bad \x"`, "\"a\r\nb\"", "{5}\r\nabc", "{3}", "{x}\r\nabc", "{3}\r\na\x00b", "\"a\x00\""} {
		p := &parser{b: []byte(in)}
		if got, err := p.astring(); err == nil {
			t.Errorf("astring(%q) = %q, want an error", in, got)
		}
	}
}

func TestParserNumbers(t *testing.T) {
	t.Parallel()
	p := &parser{b: []byte("1,3:5,*,7:*,*:2")}
	set, err := p.numSet()
	want := numSet{{first: 1, last: 1}, {first: 3, last: 5}, {first: star, last: star}, {first: 7, last: star}, {first: star, last: 2}}
	if err != nil || !reflect.DeepEqual(set, want) {
		t.Errorf("numSet = %v, %v; want %v", set, err, want)
	}
	for _, in := range []string{"", "0", "1,", "1:", ":1", "a", "4294967296", "1:0", "99999999999999999999", "1,$"} {
		if set, err := (&parser{b: []byte(in)}).numSet(); err == nil {
			t.Errorf("numSet(%q) = %v, want an error", in, set)
		}
	}
}

func TestParseCommandRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		state state
		want  string // part of the error
	}{
		{"", authenticated, "tag"},
		{"+ NOOP", authenticated, "tag"},
		{"A", authenticated, "space"},
		{"A ", authenticated, "command"},
		{"A XYZZY", authenticated, "unknown command"},
		{"A UID NOOP", authenticated, "unknown command"},
		{"A UID", authenticated, "space"},
		{"A NOOP x", authenticated, "unexpected text"},
		{"A SELECT INBOX", notAuthenticated, "state"},
		{"A FETCH 1 FLAGS", authenticated, "state"},
		{"A LOGIN a b", selected, "state"},
		{"A LOGIN a", notAuthenticated, "space"},
		{"A SELECT", authenticated, "space"},
		{"A SELECT INBOX (FROB)", authenticated, "parameter"},
		{"A SELECT INBOX (QRESYNC)", authenticated, "space"},
		{"A SELECT INBOX (QRESYNC (0 2))", authenticated, "UIDVALIDITY"},
		{"A SELECT INBOX (QRESYNC (1 0))", authenticated, "mod-sequence"},
		{"A SELECT INBOX (QRESYNC (1 9223372036854775808))", authenticated, "too large"},
		{"A SELECT INBOX (QRESYNC (4294967296 1))", authenticated, "too large"},
		{"A SELECT INBOX (QRESYNC (1 2 1:*))", authenticated, "not allowed here"},
		{"A SELECT INBOX (QRESYNC (1 2 (1:2 3)))", authenticated, "as many"},
		{"A SELECT INBOX (QRESYNC (1 2 (2,1 3,4)))", authenticated, "ascend"},
		{"A SELECT INBOX (QRESYNC (1 2 (1,1 3,4)))", authenticated, "ascend"},
		{"A SELECT INBOX (QRESYNC (1 2 (1 *)))", authenticated, "not allowed here"},
		{"A SELECT INBOX (QRESYNC (1 2 1 (1 2) 3))", authenticated, `")"`},
		{"A SELECT INBOX (QRESYNC (1 2) QRESYNC (1 2))", authenticated, "parameter"},
		{"A FETCH 1 FLAGS (CHANGEDSINCE 0)", selected, "mod-sequence"},
		{"A FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)", selected, "VANISHED"},
		{"A UID FETCH 1 FLAGS (VANISHED)", selected, "VANISHED"},
		{"A SEARCH MODSEQ 9223372036854775808", selected, "too large"},
		{"A STORE 1 (UNCHANGEDSINCE 9223372036854775808) FLAGS ()", selected, "too large"},
		{"A SEARCH EMAILID a.b", selected, "object identifier"},
		{"A FETCH 1 (FLAGS ALL)", selected, "data item"},
		{"A FETCH 1 BODY[", selected, "section"},
		{"A FETCH 1 BODY[1.]", selected, "section"},
		{"A FETCH 1 BODY[MIME]", selected, "part"},
		{"A FETCH 1 BODY[HEADER.FIELDS ()]", selected, "field names"},
		{"A FETCH 1 BODY[]<0.0>", selected, "partial"},
		{"A FETCH 1 BODY.PEEK", selected, "section"},
		{"A FETCH 1 FLAGS (FROBNICATE 1)", selected, "modifier"},
		{"A STORE 1 FLAG (x)", selected, "data item"},
		{`A STORE 1 FLAGS (\Bogus)`, selected, "system flag"},
		{`A STORE 1 FLAGS (\*)`, selected, "flag"},
		{"A SEARCH FROBNICATE", selected, "unknown search key"},
		{"A SEARCH FUZZY", selected, "space"},
		{"A SEARCH " + strings.Repeat("FUZZY ", 1000) + "ALL", selected, "deeply"},
		{"A SEARCH OLDER 0", selected, "interval"},
		{"A SEARCH $:5", selected, "unexpected text"},
		{"A SEARCH RETURN (PARTIAL 1:2 PARTIAL 3:4) ALL", selected, "twice"},
		{"A SEARCH RETURN (PARTIAL 1:2 ALL) ALL", selected, "exclude"},
		{"A SEARCH RETURN (PARTIAL 0:2) ALL", selected, "from 1"},
		{"A SEARCH RETURN (PARTIAL -1:2) ALL", selected, "both ends"},
		{"A SEARCH RETURN (PARTIAL 1:*) ALL", selected, "number"},
		{"A FETCH 1:5 FLAGS (PARTIAL 1:2)", selected, "modifier"},
		{"A SEARCH", selected, "space"},
		{"A SEARCH RETURN (SAVED) ALL", selected, "return option"},
		{"A SEARCH SINCE 32-Jan-2020", selected, "date"},
		{"A SEARCH (ALL", selected, `")"`},
		{"A SEARCH " + strings.Repeat("NOT ", 1000) + "ALL", selected, "deeply"},
		{"A SEARCH " + strings.Repeat("(", 1000) + "ALL" + strings.Repeat(")", 1000), selected, "deeply"},
		{"A LIST (FROB) \"\" *", authenticated, "selection option"},
		{"A LIST (RECURSIVEMATCH) \"\" *", authenticated, "RECURSIVEMATCH"},
		{"A STATUS INBOX (FROB)", authenticated, "status item"},
		{"A APPEND INBOX foo", authenticated, "literal"},
		{"A ENABLE", authenticated, "capability"},
	} {
		cmd := parseCommand(&parser{b: []byte(tt.in)}, tt.state)
		var bad *syntaxError
		if !errors.As(cmd.err, &bad) || !strings.Contains(bad.what, tt.want) {
			t.Errorf("parseCommand(%.60q) error is %v, want a syntax error with %q", tt.in, cmd.err, tt.want)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"A NOOP", "a1.b NOOP ", "A uid fetch 1:* flags", "A FETCH 1 ALL", "A FETCH 1,2 (UID BODY.PEEK[HEADER.FIELDS (DATE \"From\")]<0.100>)",
		"A FETCH 1 BODY[1.2.3.MIME]", "A FETCH 1 BODY[2.HEADER.FIELDS.NOT (X)]", "A FETCH 1:* (FLAGS) (CHANGEDSINCE 5)", "A FETCH 1 RFC822.HEADER",
		`A STORE 1 +FLAGS.SILENT (\Seen $Junk)`, `A STORE 1 FLAGS \Seen \Deleted`, `A STORE 1 (UNCHANGEDSINCE 5) -FLAGS ()`,
		"A SEARCH RETURN () ALL", "A SEARCH RETURN (MIN COUNT) CHARSET UTF-8 OR SEEN (NOT FROM \"x\" 1:5) UID 3", "A SEARCH HEADER X-Y \"\"",
		`A SEARCH MODSEQ "/flags/\\draft" all 5`, "A SEARCH MODSEQ 1", "A SEARCH SENTSINCE 1-Feb-2020 KEYWORD $X LARGER 5",
		"A SEARCH TEXT {3+}\r\nfoo BODY bar", "A COPY 1:2 \"x y\"", "A UID EXPUNGE 1:*", "A SELECT INBOX (CONDSTORE)", "A IDLE",
		"A SELECT INBOX (QRESYNC (1 9223372036854775807))", "A EXAMINE INBOX (QRESYNC (67890007 90060115194045000 41:211,214:541))",
		"A SELECT INBOX (QRESYNC (67890007 90060115194045000 1:29997 (5000,7500,9000,9990:9999 15000,22500,27000,29970:29979)))",
		"A SELECT INBOX (QRESYNC (1 2 (1,5:6 2,9:10)) CONDSTORE)", "A UID FETCH 300:500 (FLAGS) (CHANGEDSINCE 12345 VANISHED)",
		"A STORE 1 (UNCHANGEDSINCE 0) FLAGS ()", "A SEARCH MODSEQ 0", "A FETCH 1 (EMAILID THREADID)", "A SEARCH EMAILID M6d99ac3275bb4e THREADID T64b478a75b7ea9", "A CHECK",
		`A LIST "" *`, `A LIST (SUBSCRIBED RECURSIVEMATCH) "" ("a" "b%") RETURN (CHILDREN STATUS (MESSAGES SIZE))`, `A LIST "" ""`, `A LSUB "" %`,
		`A CREATE foo/ (USE (\Drafts))`, `A ID ("name" "x" "version" NIL)`, "A ID NIL", "A STATUS x (MESSAGES HIGHESTMODSEQ APPENDLIMIT)", "A RENAME a b",
	} {
		if cmd := parseCommand(&parser{b: []byte(in)}, selected); cmd.err != nil || cmd.action == nil {
			t.Errorf("parseCommand(%q): %v", in, cmd.err)
		}
	}
}

func TestSectionResponse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"BODY[]":                             "BODY[]",
		"body.peek[header]<5.10>":            "BODY[HEADER]<5>",
		"BODY[1.2.TEXT]":                     "BODY[1.2.TEXT]",
		"BODY[1.MIME]":                       "BODY[1.MIME]",
		"BODY[HEADER.FIELDS (Date \"X Y\")]": "BODY[HEADER.FIELDS (Date \"X Y\")]",
		"BODY[3.HEADER.FIELDS.NOT (a b)]":    "BODY[3.HEADER.FIELDS.NOT (a b)]",
		"RFC822.TEXT":                        "RFC822.TEXT",
	} {
		p := &parser{b: []byte(" 1 " + in)}
		a, err := parseFetch(false)(p)
		if err != nil || a.items[0].section.response != want {
			t.Errorf("%q: response %+v, %v; want %q", in, a.items, err, want)
		}
	}
}

func TestAppendHead(t *testing.T) {
	t.Parallel()
	date := time.Date(2020, 2, 1, 3, 4, 5, 0, time.FixedZone("", 3600))
	in := `A APPEND "Sent" (\Seen $Label) " 1-Feb-2020 03:04:05 +0100" {310+}`
	if !announcesMessage([]byte(in)) {
		t.Errorf("announcesMessage(%q) is false", in)
	}
	p := &parser{b: []byte(strings.TrimPrefix(in, `A APPEND "Sent"`))}
	a, err := parseAppendMessage(p)
	if err != nil || !a.date.Equal(date) || a.flags.system != mailstore.FlagSeen || !reflect.DeepEqual(a.flags.keywords, []string{"$Label"}) {
		t.Errorf("parseAppendMessage = %+v, %v", a, err)
	}
	for in, want := range map[string]bool{
		"A APPEND {5}":                  false,
		"A APPEND {5}\r\nINBOX {5}":     true,
		"A APPEND {5+}\r\nINBOX (\\X {": true,
		"A NOOP {5}":                    false,
		"A append inbox {5}":            true,
		"APPEND inbox {5}":              false,
	} {
		if got := announcesMessage([]byte(in)); got != want {
			t.Errorf("announcesMessage(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestDateTime(t *testing.T) {
	t.Parallel()
	for _, at := range []int64{0, 1577934245, 951782399, 1735689599, 4102444799} {
		when := time.Unix(at, 0).In(time.FixedZone("", -7*3600))
		var w writer
		w.dateTime(when)
		if want := `"` + when.UTC().Format(dateTimeLayout) + `"`; string(w.buf) != want {
			t.Errorf("dateTime(%d) = %s, want %s", at, w.buf, want)
		}
	}
}

// FuzzParseCommand holds that no octets make the parser panic, and that what
// has no action has a reason.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{
		"A SELECT INBOX (QRESYNC (5 6 1:3,9 (1,2 1,3)) CONDSTORE)", "A UID FETCH 1:* (FLAGS EMAILID) (VANISHED CHANGEDSINCE 3)", "A SEARCH EMAILID M00",
		"A NOOP", "A LOGIN {3}\r\nfoo \"b\\\"ar\"", "A FETCH 1:* (FLAGS BODY.PEEK[1.2.HEADER.FIELDS (A B)]<1.2>) (CHANGEDSINCE 3)",
		"A STORE 1,3:* +FLAGS.SILENT (\\Seen x)", "A UID SEARCH RETURN (MIN) OR NOT (SEEN) SINCE 1-Jan-2020 MODSEQ \"/x\" all 3",
		"A LIST (SUBSCRIBED) \"\" (\"*\" \"%/x\") RETURN (STATUS (MESSAGES))", "A APPEND x (\\Seen) \" 1-Jan-2020 00:00:00 +0000\" {3+}",
		"A CREATE &AOk-/x (USE (\\Sent))", "A ID (\"a\" NIL)", "A COPY *:1 &-", "A AUTHENTICATE PLAIN =", "\x00", "A SEARCH {99999999999999999999}",
		"A ESEARCH IN (mailboxes (a b) subtree-one c personal) RETURN (UPDATE CONTEXT) ALL", "A CANCELUPDATE \"x\" \"y\"", "A SORT RETURN (PARTIAL -1:-9 SAVE) (REVERSE DATE SUBJECT) UTF-8 FUZZY TEXT x", "A UID THREAD REFERENCES US-ASCII OLDER 5 $", "A FETCH $ UID",
		"A SEARCH CHARSET koi8-r FUZZY (OR SUBJECT \"a b\" BODY {1+}\r\n\xd0) UID $", "A UID FETCH 1:* FLAGS (PARTIAL 1:2 CHANGEDSINCE 3)",
		"A FETCH 1 (BINARY[1.2]<3.4> BINARY.SIZE[] BINARY.PEEK[1] PREVIEW (LAZY) SAVEDATE)", "A FETCH 1 PREVIEW (CHANGEDSINCE 1)",
		"A APPEND x (\\Seen) CATENATE (URL \"/a/;UID=1\" TEXT ~{3+}", "A UID REPLACE 4 Drafts (\\Draft) {3}", "A REPLACE * Drafts CATENATE (URL x)",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, st := range []state{notAuthenticated, selected} {
			cmd := parseCommand(&parser{b: b}, st)
			if (cmd.err == nil) == (cmd.action == nil) {
				t.Fatalf("parseCommand(%q): action %v with error %v", b, cmd.action != nil, cmd.err)
			}
		}
		if announcesMessage(b) {
			if mark, ok := literalAt(b); ok {
				cmd := streamCommand(&parser{b: b}, mark, selected)
				if (cmd.err == nil) == (cmd.action == nil) || cmd.message == nil {
					t.Fatalf("streamCommand(%q): %+v", b, cmd)
				}
			}
		}
	})
}

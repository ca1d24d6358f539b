package sortkey

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOf(t *testing.T) {
	t.Parallel()
	k := Of([]byte(`("Mon, 7 Feb 1994 21:52:25 -0800" "Re: =?utf-8?Q?gr=C3=BC=C3=9Fe?= (fwd)" (("Ann \"A\" Lee" NIL "ann" "example.com")(NIL NIL "x" "y")) `+
		`((NIL NIL "s" "t")) NIL ((NIL NIL "Team" NIL)(NIL NIL "b" "c")(NIL NIL NIL NIL)) ((NIL NIL {5}`+"\r\n"+`d(e)f "h")) NIL "see <x> <p@q>" "<\"id\"@host>")`),
		[]byte("Subject: x\r\nREFERENCES : <a@b>\r\n <c@d>\r\n\t<e@f\r\nTo: <no@t>\r\n"))
	for _, tt := range []struct{ what, got, want string }{
		{"Subject", k.Text(Subject), "GRU\u0308\u00dfE"}, {"From", k.Text(From), "ANN"}, {"To", k.Text(To), "TEAM"}, {"Cc", k.Text(Cc), "D(E)F"},
		{"DisplayFrom", k.Text(DisplayFrom), `ANN "A" LEE`}, {"DisplayTo", k.Text(DisplayTo), "TEAM"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %q, want %q", tt.what, tt.got, tt.want)
		}
	}
	if want := time.Date(1994, 2, 8, 5, 52, 25, 0, time.UTC).Unix(); k.Sent != want || !k.Dated || !k.Reply {
		t.Errorf("Sent %d, %v, reply %v; want %d", k.Sent, k.Dated, k.Reply, want)
	}
	if k.ID != number("id@host") || !slices.Equal(k.References, []uint64{number("a@b"), number("c@d")}) {
		t.Errorf("ID %d, References %d", k.ID, k.References)
	}
	k = Of([]byte(`(NIL NIL ((NIL NIL "ann" "example.com")) NIL NIL NIL NIL NIL "Your mail <of Monday> <p@q>" NIL)`), nil)
	if k.Text(DisplayFrom) != "ANN@EXAMPLE.COM" || k.Text(To) != "" || k.Dated || k.ID != 0 || !slices.Equal(k.References, []uint64{number("p@q")}) {
		t.Errorf("%+v", k)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\u00e9", 5000)
	k := Of([]byte(`(NIL "`+long+`" (("`+long+`" NIL "`+long+`" "x")) NIL NIL NIL NIL NIL NIL NIL)`), []byte("References: "+strings.Repeat("<a@b>", 5000)))
	if len(k.Text(Subject)) != maxStringOctets || len(k.Text(From)) != maxStringOctets || len(k.References) != maxReferences {
		t.Errorf("%d, %d, %d", len(k.Text(Subject)), len(k.Text(From)), len(k.References))
	}
}

func TestInstant(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{
		{"Mon, 7 Feb 1994 21:52:25 -0800", "1994-02-08T05:52:25Z"}, {"7 Feb 94 21:52 EST (east (coast))", "1994-02-08T02:52:00Z"},
		{" 7-FEB-2024 00:00:60 +0530", "2024-02-06T18:31:00Z"}, {"Mon Feb  7 21:52:25 1994", "1994-02-07T21:52:25Z"},
		{"Mon,7 February 1994", "1994-02-07T00:00:00Z"}, {"7 Feb 1994 25:00:00 -0800", "1994-02-07T00:00:00Z"},
		{"7 Feb 1994 01:00:00 nowhere", "1994-02-07T01:00:00Z"}, {"7 Feb 1994 01:00:00 +0199", "1994-02-07T01:00:00Z"},
		{"7 Feb 105 01:00:00 GMT", "2005-02-07T01:00:00Z"}, {"(x) Tue, 1 Jan 2002 (y) 10:00:00 +0000", "2002-01-01T10:00:00Z"},
		{"", ""}, {"yesterday", ""}, {"7 Foo 1994 1:1:1", ""}, {"32 Feb 1994", ""}, {"7 Feb 19940", ""}, {"0 Feb 1994", ""},
	} {
		unix, ok := instant(tt.in)
		got := ""
		if ok {
			got = time.Unix(unix, 0).UTC().Format(time.RFC3339)
		}
		if got != tt.want {
			t.Errorf("instant(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func FuzzOf(f *testing.F) {
	f.Add([]byte(`("7 Feb 1994" "Re: x" ((NIL NIL "a" "b")) NIL NIL NIL NIL NIL "<a@b>" "<c@d>")`), []byte("References: <a@b>\r\n <c"))
	f.Add([]byte(`({3}`+"\r\n"+`abc "\`), []byte("references"))
	f.Add([]byte(`((((`), []byte("references:<<>><"))
	f.Add([]byte("({99999999999999999999}\r\n"), []byte(nil))
	f.Fuzz(func(t *testing.T, envelope, header []byte) {
		k := Of(envelope, header)
		if k.Octets() > 10<<10 {
			t.Errorf("key of %d octets", k.Octets())
		}
		_ = k.Text(DisplayTo)
	})
}

func BenchmarkOf(b *testing.B) {
	envelope := []byte(`("Mon, 7 Feb 1994 21:52:25 -0800" "Re: some subject of a message" (("Ann Lee" NIL "ann" "example.com")) ` +
		`(("Ann Lee" NIL "ann" "example.com")) (("Ann Lee" NIL "ann" "example.com")) ((NIL NIL "bob" "example.org")) NIL NIL "<a@b>" "<c@d>")`)
	header := []byte(strings.Repeat("X-Some-Field: with some value in it\r\n", 30) + "References: <a@b> <c@d>\r\n <e@f>\r\n")
	b.ReportAllocs()
	for b.Loop() {
		Of(envelope, header)
	}
}

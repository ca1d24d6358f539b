package mime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-mail/postern/internal/testenv"
)

// notes writes down what it is told.
type notes struct {
	fields, lines []string
	classes       string
	bodies        int
	end           int64
	t             testing.TB
	text          string // the body, to compare places with
}

func (n *notes) Field(f Field) error {
	n.fields = append(n.fields, string(f.Text))
	n.classes += string("pmn"[f.Class])
	if f.Class != Primary {
		got := strings.ReplaceAll(strings.TrimSuffix(n.text[f.Start:f.End], "\r\n"), "\r\n", "\n")
		if name, _, _ := strings.Cut(string(f.Text), ":"); !strings.HasPrefix(got, name) || f.Start < n.end {
			n.t.Errorf("field %q is said to stand at %d to %d: %q", f.Text, f.Start, f.End, got)
		}
		n.end = f.End
	}
	return nil
}

func (n *notes) Body() error { n.bodies++; return nil }

func (n *notes) Line(l Line) error {
	n.lines = append(n.lines, string(l.Text))
	if l.Start >= 0 && (n.text[l.Start:l.Start+int64(len(l.Text))] != string(l.Text) || l.Start < n.end) {
		n.t.Errorf("line %q is said to stand at %d", l.Text, l.Start)
	}
	if l.Start >= 0 {
		n.end = l.Start + int64(len(l.Text))
	}
	return nil
}

// walk goes through a message with LF line ends.
func walk(t testing.TB, limits Limits, message string) (*notes, error) {
	t.Helper()
	header, body, _ := strings.Cut(message, "\n\n")
	var fields []string
	for _, line := range strings.Split(header, "\n") {
		if line != "" && (line[0] == ' ' || line[0] == '\t') {
			fields[len(fields)-1] += "\r\n" + line
		} else if line != "" {
			fields = append(fields, line)
		}
	}
	body = strings.ReplaceAll(body, "\n", "\r\n")
	n := &notes{t: t, text: body}
	return n, Walk(context.Background(), limits, fields, iotest.HalfReader(strings.NewReader(body)), n)
}

// messages is what walks are compared by.
func messages() map[string]string {
	multipart := "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n"
	return map[string]string{
		"plain":              "Subject: x\n folded\nX-Y : z\n\nbody\n\nmore\n",
		"multipart":          multipart + "pre\n--b\nContent-Type: text/plain\nX: 1\n\none\n--b\nX: 2\n\ntwo\n--b--\nend\n",
		"part without blank": multipart + "--b\nX: 1\n--b\nX: 2\nno field\nmore\n--b--\n",
		"part of no header":  multipart + "--b\n\none\n--b\nno field\n\nX: y\n--b--\n",
		"message":            multipart + "--b\nContent-Type: message/rfc822\n\nFrom: n\n\nnested\n--b--\n",
		"message of message": "Content-Type: message/rfc822\n\nContent-Type: message/rfc822\nA: b\n\nC: d\n\nE: f\n",
		"partial":            "Content-Type: message/partial\n\nA: b\n\nC: d\n",
		"external":           "Content-Type: message/external-body\n\nA: b\n\nC: d\n",
		"digest":             "Content-Type: multipart/digest; boundary=b\n\n--b\n\nFrom: a\n\nx\n--b\nContent-Type: text/plain\n\nFrom: c\n\n--b--\n",
		"nested multipart":   multipart + "--b\nContent-Type: multipart/alternative; boundary=bb\n\n--bb\nX: 1\n\nx\n--bb--\nbetween\n--b\nX: 2\n\ny\n--b--\n",
		"outer ends inner":   multipart + "--b\nContent-Type: multipart/mixed; boundary=\"other one\"\n\n--other one\nX: 1\n\nx\n--b\nX: 2\n\ny\n",
		"prefixes":           "Content-Type: multipart/mixed; boundary=aaa\n\n--aaa\nContent-Type: multipart/mixed; boundary=aa\n\n--aaa\nA: 1\n\n--aa\nB: 2\n\n--aaab\nC: 3\n\n--aa--\nD: 4\n",
		"case and quotes":    "CONTENT-TYPE : MULTIPART/Mixed (comment; boundary=no) ; BOUNDARY = \"b\\\"x\" \n\n--b\"x\nA: 1\n\n--b\"x--\n",
		"several boundaries": "Content-Type: multipart/mixed; boundary=b; boundary=c\n\n--b\nA: 1\n\n--c\nB: 2\n\n--b\nC: 3\n\n",
		"two content types":  "Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=b\n\n--b\nA: 1\n\nx\n",
		"folded type":        "Content-Type: multipart/mixed;\n boundary=b;\n charset=x\n\n--b\nA:\n 1\n\nx\n",
		"empty boundary":     "Content-Type: multipart/mixed; boundary=\"\"\n\n--\n--x\nA: 1\n\nx\n",
		"no boundary":        "Content-Type: multipart/mixed\n\n--x\nA: 1\n\nx\n",
		"rfc 2231":           "Content-Type: multipart/mixed; boundary*=us-ascii''b\n\n--b\nA: 1\n\nx\n",
		"boundary in header": multipart + "--b\nX: 1\n--b: x\n--bx\nY: 2\n\nx\n",
		"long lines":         multipart + strings.Repeat("x", 2047) + "\n" + strings.Repeat("y", 2048) + "\n" + strings.Repeat("z", 2049) + "\n" + strings.Repeat("w", 5000) + "\n--b\nX: " + strings.Repeat("h", 5000) + "\n t\n\n--b--\n",
		"boundary in a line": multipart + strings.Repeat("x", 2048) + "--b\nA: 1\n\n",
		"only header":        "A: b\nC: d\n",
		"bare type":          "Content-Type: multipart\n\n--b\nA: 1\n\n",
		"strange type":       "Content-Type: \"multipart\"/mixed; boundary=b\n\n--b\nA: 1\n\n",
		"application":        "Content-Type: application/x; boundary=b\n\n--b\nA: 1\n\n",
		"trailing cruft":     multipart + "--b cruft\nA: 1\n\n--b--cruft\nB: 2\n\n",
		"continuation first": multipart + "--b\n A: 1\nB: 2\n\nx\n--b\n\tx\n\ny\n",
		"global":             "Content-Type: message/global\n\nA: b\n\nC: d\n",
	}
}

// TestWalksAsPostfix: the same fields and lines that Postfix looks up.
func TestWalksAsPostfix(t *testing.T) {
	t.Parallel()
	postfix := testenv.Postfix(t, "pcre")
	for name, message := range messages() {
		// postmap looks up long lines whole, where cleanup divides them.
		n, err := walk(t, Limits{LineOctets: 8192}, message)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want := postfix.Lines("h", message); !slices.Equal(n.fields, want) {
			t.Errorf("%s: fields\n%q\nPostfix has\n%q", name, n.fields, want)
		}
		want := postfix.Lines("b", message)
		if name == "only header" { // there is no body, and Postfix says none
			want = n.lines
		}
		if !slices.Equal(n.lines, want) {
			t.Errorf("%s: lines\n%.300q\nPostfix has\n%.300q", name, n.lines, want)
		}
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	n, err := walk(t, Limits{}, messages()["message"])
	if err != nil || n.classes != "ppmn" || n.bodies != 3 {
		t.Errorf("classes %s, %d bodies, %v", n.classes, n.bodies, err)
	}
	n, err = walk(t, Limits{Flat: true}, messages()["message"])
	if err != nil || n.classes != "pp" {
		t.Errorf("flat: classes %s, %v", n.classes, err)
	}
	n, err = walk(t, Limits{AsPrograms: true}, messages()["partial"])
	if err != nil || n.classes != "pn" {
		t.Errorf("all messages: classes %s, %v", n.classes, err)
	}
}

func TestLongLines(t *testing.T) {
	t.Parallel()
	n, err := walk(t, Limits{LineOctets: 4, FieldOctets: 8}, "Subject: cut\n\nabc\nabcd\nabcde\nabcdefghi\n")
	want := []string{"", "abc", "abcd", "", "abcd", "e", "abcd", "efgh", "i"}
	if err != nil || !slices.Equal(n.lines, want) || n.fields[0] != "Subject:" {
		t.Errorf("lines %q, fields %q, %v", n.lines, n.fields, err)
	}
}

// deep is a message of n multiparts in each other.
func deep(n int) string {
	var b strings.Builder
	b.WriteString("Content-Type: multipart/mixed; boundary=b000000\n\n")
	for i := range n {
		fmt.Fprintf(&b, "--b%06d\nContent-Type: multipart/mixed; boundary=b%06d\n\n", i, i+1)
	}
	return b.String()
}

func TestNestingIsBounded(t *testing.T) {
	t.Parallel()
	if _, err := walk(t, Limits{}, deep(99)); err != nil {
		t.Errorf("99 in one: %v", err)
	}
	if _, err := walk(t, Limits{}, deep(100)); !errors.Is(err, ErrNesting) {
		t.Errorf("100 in one: %v", err)
	}
	n, err := walk(t, Limits{}, deep(10000))
	if !errors.Is(err, ErrNesting) || len(n.fields) != 101 {
		t.Errorf("10000: %d fields, %v", len(n.fields), err)
	}
}

// counting allocates nothing.
type counting struct{ fields, lines int }

func (c *counting) Field(Field) error { c.fields++; return nil }
func (c *counting) Body() error       { return nil }
func (c *counting) Line(Line) error   { c.lines++; return nil }

// TestBombs: memory does not grow with what a message holds.
func TestBombs(t *testing.T) {
	for name, body := range map[string]string{
		"a million parts":    strings.Repeat("--b\r\n\r\n", 1e6),
		"nested messages":    strings.Repeat("--b\r\nContent-Type: message/rfc822\r\n\r\n", 1e5),
		"deep":               strings.ReplaceAll(deep(10000), "\n", "\r\n"),
		"one endless line":   strings.Repeat("x", 8<<20),
		"one endless field":  "--b\r\nX: " + strings.Repeat("x\r\n ", 2<<20),
		"boundaries in vain": strings.Repeat("--a\r\n", 1e6),
	} {
		fields := []string{"Content-Type: multipart/mixed; boundary=b"}
		allocs := testing.AllocsPerRun(1, func() {
			if err := Walk(t.Context(), Limits{}, fields, strings.NewReader(body), &counting{}); err != nil && !errors.Is(err, ErrNesting) {
				t.Fatal(err)
			}
		})
		most := 1000.0
		if name == "nested messages" || name == "deep" {
			most = 20 * 1e5 // some words for each header
		}
		if allocs > most {
			t.Errorf("%s: %.0f allocations", name, allocs)
		}
	}
}

func TestWalkEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Walk(ctx, Limits{}, []string{"A: b"}, strings.NewReader("x\r\n"), &counting{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	broken := errors.New("disk")
	if err := Walk(t.Context(), Limits{}, []string{"A: b"}, iotest.ErrReader(broken), &counting{}); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// FuzzWalk: places are right, and pieces together are the body.
func FuzzWalk(f *testing.F) {
	for _, m := range messages() {
		f.Add(m)
	}
	f.Add(deep(120))
	f.Fuzz(func(t *testing.T, message string) {
		message = strings.TrimLeft(strings.ReplaceAll(message, "\r", ""), " \t\n")
		for _, limits := range []Limits{{LineOctets: 16, FieldOctets: 64}, {LineOctets: 16, FieldOctets: 64, AsPrograms: true}} {
			all, err := walk(t, limits, message)
			if err != nil && !errors.Is(err, ErrNesting) {
				t.Error(err)
			}
			sameFields(t, limits, message, all)
		}
	})
}

// headers has no use for bodies.
type headers struct{ notes }

func (h *headers) Line(Line) error { return ErrSkipBody }

// sameFields reports what a walk misses that skips bodies.
func sameFields(t testing.TB, limits Limits, message string, all *notes) {
	t.Helper()
	header, body, _ := strings.Cut(message, "\n\n")
	body = strings.ReplaceAll(body, "\n", "\r\n")
	h := &headers{notes{t: t, text: body}}
	var fields []string
	for _, line := range strings.Split(header, "\n") {
		if line != "" && (line[0] == ' ' || line[0] == '\t') && len(fields) > 0 {
			fields[len(fields)-1] += "\r\n" + line
		} else if line != "" {
			fields = append(fields, line)
		}
	}
	if err := Walk(t.Context(), limits, fields, strings.NewReader(body), h); err != nil && !errors.Is(err, ErrNesting) {
		t.Error(err)
	}
	if !slices.Equal(h.fields, all.fields) || h.classes != all.classes {
		t.Errorf("without bodies there are the fields %q, with them %q", h.fields, all.fields)
	}
}

// TestSkipBody: who skips bodies is told of every field, and of no more than is
// needed for that.
func TestSkipBody(t *testing.T) {
	t.Parallel()
	for _, m := range messages() {
		all, err := walk(t, Limits{}, m)
		if err != nil {
			t.Fatal(err)
		}
		sameFields(t, Limits{}, m, all)
	}
	broken := errors.New("read on")
	rest := io.MultiReader(strings.NewReader(strings.Repeat("x\r\n", 100<<10)), iotest.ErrReader(broken))
	if err := Walk(t.Context(), Limits{}, []string{"Subject: x"}, rest, &headers{notes{t: t}}); err != nil {
		t.Errorf("a body of nobody's interest: %v", err)
	}
}

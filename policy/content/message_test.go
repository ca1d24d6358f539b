package content

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// take makes a message of its text, below fields of ours.
func take(t testing.TB, s *Spool, limits Limits, text string, ours ...mail.Field) *Message {
	t.Helper()
	fields, end := Split([]byte(text))
	m, err := New(s, limits, ours, fields, strings.NewReader(text[end:]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func whole(t testing.TB, m *Message) string {
	t.Helper()
	text, err := io.ReadAll(m.NewReader())
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(text)) != m.Octets() {
		t.Errorf("the message has %d octets and says %d", len(text), m.Octets())
	}
	return string(text)
}

func TestMessagesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{})
	for _, tt := range []struct{ name, text, want string }{
		{"usual", "A: b\r\nC: d\r\n\te\r\n\r\nbody\r\n", ""},
		{"no body", "A: b\r\n\r\n", ""},
		{"header only", "A: b\r\n", ""},
		{"nothing", "", ""},
		{"empty header", "\r\nbody\r\n", ""},
		{"no header", "just text\r\nmore\r\n", "\r\njust text\r\nmore\r\n"},
		{"a continuation of nothing", " x\r\nA: b\r\n\r\n", "\r\n x\r\nA: b\r\n\r\n"},
		{"a line that is no field", "A: b\r\ngarbage\r\nC: d\r\n\r\nx\r\n", "A: b\r\n\r\ngarbage\r\nC: d\r\n\r\nx\r\n"},
		{"odd octets", "A : \xff\x00 b \r\nB:\r\n \r\n\t\r\n\r\n\x00\xfe\r\n", ""},
		{"one octet", "x", "\r\nx"},
	} {
		want := tt.want
		if want == "" {
			want = tt.text
		}
		m := take(t, s, Limits{}, tt.text)
		if got := whole(t, m); got != want {
			t.Errorf("%s: got %q, want %q", tt.name, got, want)
		}
	}
}

func TestEdits(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{})
	insert := func(at int, f mail.Field) mail.Edit { return mail.Edit{Insert: &mail.InsertField{At: at, Field: f}} }
	change := func(at int, f mail.Field) mail.Edit { return mail.Edit{Change: &mail.ChangeField{At: at, Field: f}} }
	for _, tt := range []struct {
		name  string
		edits []mail.Edit
		want  string // of the header, "|" between fields
		ours  int
	}{
		{"none", nil, "Received: x|A: 1|B: 2", 1},
		{"prepend", []mail.Edit{{PrependHeader: "P: 0"}, {PrependHeader: "Q: 0"}}, "Q: 0|P: 0|Received: x|A: 1|B: 2", 3},
		{"insert below ours", []mail.Edit{insert(1, "X: 0")}, "Received: x|X: 0|A: 1|B: 2", 1},
		{"insert above ours", []mail.Edit{insert(0, "X: 0")}, "X: 0|Received: x|A: 1|B: 2", 2},
		{"insert at the end and beyond", []mail.Edit{insert(3, "X: 0"), insert(99, "Y: 0")}, "Received: x|A: 1|B: 2|X: 0|Y: 0", 1},
		{"change", []mail.Edit{change(1, "A: one")}, "Received: x|A: one|B: 2", 1},
		{"delete", []mail.Edit{change(2, ""), change(1, "")}, "Received: x", 1},
		{"delete ours", []mail.Edit{change(0, "")}, "A: 1|B: 2", 0},
		{"each sees the one before", []mail.Edit{insert(1, "X: 0"), change(1, "X: 9"), change(2, "")}, "Received: x|X: 9|B: 2", 1},
		{"folds", []mail.Edit{change(1, "A: 1\n\t2\r\n 3\n4\r5\r\n\r\n6")}, "Received: x|A: 1\r\n\t2\r\n 3\r\n\t4 5\r\n\t6|B: 2", 1},
	} {
		m := take(t, s, Limits{}, "A: 1\r\nB: 2\r\n\r\nbody\r\n", "Received: x")
		if err := m.ApplyAll(tt.edits); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		header, body, _ := strings.Cut(whole(t, m), "\r\n\r\n")
		want := strings.ReplaceAll(tt.want, "|", "\r\n")
		if header != want || body != "body\r\n" || m.Ours() != tt.ours || m.Changed() != (tt.edits != nil) {
			t.Errorf("%s: got %q, %q, %d of ours, changed %t", tt.name, header, body, m.Ours(), m.Changed())
		}
	}
}

func TestEditsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{})
	good := mail.Edit{PrependHeader: "X: y"}
	const text = "A: 1\r\n\r\nbody\r\n"
	for name, bad := range map[string]mail.Edit{
		"no place":        {Change: &mail.ChangeField{At: 9, Field: "A: b"}},
		"below no place":  {Change: &mail.ChangeField{At: -1}},
		"before all":      {Insert: &mail.InsertField{At: -1, Field: "A: b"}},
		"no field":        {Insert: &mail.InsertField{Field: "hello"}},
		"no name":         {PrependHeader: ": x"},
		"a line end":      {PrependHeader: "\r\nX: y"},
		"too large":       {PrependHeader: mail.Field("X: "+strings.Repeat("x", 300<<10)).Name() + ": " + strings.Repeat("x", 300<<10)},
		"nothing":         {},
		"body that fails": {Body: io.MultiReader(strings.NewReader("half"), failing{})},
	} {
		m := take(t, s, Limits{}, text)
		if err := m.ApplyAll([]mail.Edit{good, {Body: strings.NewReader("other")}, bad}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := whole(t, m); got != text || m.Changed() {
			t.Errorf("%s: left is %q", name, got)
		}
		if err := m.Apply(bad); err == nil || whole(t, m) != text {
			t.Errorf("%s alone: %v", name, err)
		}
		m.Close()
	}
	m := take(t, s, Limits{Edits: 2}, text)
	if err := m.ApplyAll([]mail.Edit{good, good, good}); err == nil {
		t.Error("too many edits are done")
	}
	if err := m.ApplyAll([]mail.Edit{good, good}); err != nil {
		t.Error(err)
	}
	m.Close()
	if all, memory := s.Octets(); all != 0 || memory != 0 {
		t.Errorf("the spool still holds %d octets, %d in memory", all, memory)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, status.New(status.StoreDown, nil) }

// TestBodyEdits: whatever a stage gives as a body, its lines end in CRLF.
func TestBodyEdits(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolConfig{MaxMessageMemory: 1})
	for text, want := range map[string]string{
		"":                        "",
		"a":                       "a\r\n",
		"a\nb\r\nc":               "a\r\nb\r\nc\r\n",
		"a\r":                     "a \r\n",
		"a\r\r\nb\rc\n\n.\n\r.\r": "a \r\nb c\r\n\r\n.\r\n . \r\n",
		strings.Repeat("x", 5000) + "\n" + strings.Repeat("y\r\n", 4000): strings.Repeat("x", 5000) + "\r\n" + strings.Repeat("y\r\n", 4000),
	} {
		m := take(t, s, Limits{}, "A: 1\r\n\r\nbefore\r\n")
		if err := m.Apply(mail.Edit{Body: strings.NewReader(text)}); err != nil {
			t.Fatal(err)
		}
		if _, body, _ := strings.Cut(whole(t, m), "\r\n\r\n"); body != want || m.EightBit() {
			t.Errorf("%.60q became %.60q", text, body)
		}
	}
	m := take(t, s, Limits{}, "A: 1\r\n\r\nbefore\r\n")
	if err := m.ApplyAll([]mail.Edit{{Body: io.MultiReader(m.Body(), strings.NewReader("after\xff"))}, {Body: io.MultiReader(strings.NewReader("first\n"), m.Body())}}); err != nil {
		t.Fatal(err)
	}
	if got := whole(t, m); got != "A: 1\r\n\r\nfirst\r\nbefore\r\n" || m.EightBit() {
		t.Errorf("got %q", got)
	}
	if err := m.Apply(mail.Edit{Body: strings.NewReader("\xff")}); err != nil || !m.EightBit() {
		t.Errorf("a body of eight bits: %v, %t", err, m.EightBit())
	}
}

// FuzzMessage: whatever comes in and is edited, what goes out is one header with
// one body, and no line end but CRLF was added.
func FuzzMessage(f *testing.F) {
	f.Add("A: b\r\n\r\nbody\r\n", "X: y", "new\nbody", 0)
	f.Add("garbage\r\n", "X:\r\n\r\nY: z", ".\r\n.\n", 1)
	f.Add(" folded\r\nA: b", "X\r: y\n z", "\r\r\n", 2)
	s := openSpool(f, SpoolConfig{})
	f.Fuzz(func(t *testing.T, text, field, body string, at int) {
		text = strings.NewReplacer("\r\n", "\r\n", "\r", " ", "\n", "\r\n").Replace(text) // as the wire gives it
		m := take(t, s, Limits{}, text, "Received: ours")
		if got := whole(t, m); strings.ReplaceAll(got, "\r\n", "") != strings.ReplaceAll("Received: ours"+text, "\r\n", "") {
			t.Fatalf("%q became %q", text, got)
		}
		before := len(m.Fields())
		err := m.Apply(mail.Edit{Insert: &mail.InsertField{At: at, Field: mail.Field(field)}})
		if err == nil && len(m.Fields()) != before+1 || err != nil && len(m.Fields()) != before {
			t.Fatal("not one field more")
		}
		if err := m.Apply(mail.Edit{Body: strings.NewReader(body)}); err != nil {
			t.Fatal(err)
		}
		out := whole(t, m)
		if left := strings.ReplaceAll(out, "\r\n", ""); strings.ContainsAny(left, "\r\n") {
			t.Fatalf("bare CR or LF in %q", out)
		}
		fields, end := Split([]byte(out))
		if !slices.Equal(fields, m.Fields()) {
			t.Fatalf("fields %q are read as %q", m.Fields(), fields)
		}
		if rest := out[end:]; m.BodyOctets() > 0 && !strings.HasPrefix(rest, "\r\n") {
			t.Fatalf("the body %q follows without an empty line", rest)
		}
	})
}

package dkim

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// plainBody canonicalizes as RFC 6376 section 3.4 is written, all at once.
func plainBody(body string, c Canon) string {
	if c == Relaxed {
		lines := strings.Split(body, "\r\n")
		runs := regexp.MustCompile(`[ \t]+`)
		for i, line := range lines {
			lines[i] = strings.TrimSuffix(runs.ReplaceAllString(line, " "), " ")
		}
		body = strings.Join(lines, "\r\n")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body == "" && c == Relaxed {
		return ""
	}
	return body + "\r\n"
}

func checkBody(t *testing.T, body string, cuts []int) {
	t.Helper()
	for _, c := range []Canon{Simple, Relaxed} {
		want := plainBody(body, c)
		hasher := &BodyHasher{}
		limits := []int64{WholeBody, 0, 1, int64(len(want) / 2), int64(len(want)), int64(len(want)) + 1}
		numbers := make([]int, len(limits))
		for i, limit := range limits {
			numbers[i] = hasher.Want(c, limit)
		}
		last := 0
		for _, cut := range cuts {
			_, _ = hasher.Write([]byte(body[last:cut]))
			last = cut
		}
		_, _ = hasher.Write([]byte(body[last:]))
		hasher.Close()
		for i, limit := range limits {
			part := want
			if limit != WholeBody {
				part = want[:min(int(limit), len(want))]
			}
			if hasher.Sum(numbers[i]) != sha256.Sum256([]byte(part)) {
				t.Fatalf("%s of %q cut at %v, limit %d: other hash than of %q", c, body, cuts, limit, part)
			}
		}
		if hasher.Octets(c) != int64(len(want)) {
			t.Fatalf("%s of %q cut at %v: %d octets, want %d", c, body, cuts, hasher.Octets(c), len(want))
		}
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		"", "\r\n", "\r\n\r\n", " \r\n", " ", "a", "a ", "a\r", "a\r\r\n", "\r", "\r\r", "\n", "a\nb", "a\rb\r\n", " a\r\n",
		" C \r\nD \t E\r\n\r\n\r\n", "a\r\n \r\n\t\r\n", "a\r\n \r\nb\r\n", "a  \r\n\r\n\r\n  b", "\r\n\r\na", "long words without any space in them\r\nand more",
		strings.Repeat("\r\n", 3000) + "x", strings.Repeat(" \t", 3000) + "x\r\n", "caf\xc3\xa9 \xff\x00 x\r\n",
	} {
		for cut := range min(len(body), 60) {
			checkBody(t, body, []int{cut})
		}
		checkBody(t, body, nil)
	}
	seed := testenv.Seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		body := make([]byte, random.IntN(60))
		for i := range body {
			body[i] = "ab \t\r\n\n\r "[random.IntN(9)]
		}
		text := strings.ReplaceAll(string(body), "\n\r", "\r\n")
		a := random.IntN(len(text) + 1)
		checkBody(t, text, []int{a, a + random.IntN(len(text)-a+1)})
	}
}

func FuzzBody(f *testing.F) {
	f.Add([]byte("a \t\r\n\r\n b\r\r\n"), uint16(3), uint16(5))
	f.Add([]byte("\r\n\r\n"), uint16(1), uint16(1))
	f.Fuzz(func(t *testing.T, body []byte, a, b uint16) {
		first := int(a) % (len(body) + 1)
		checkBody(t, string(body), []int{first, first + int(b)%(len(body)-first+1)})
	})
}

func TestFields(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ field, relaxed string }{
		{"A: X", "a:X"},
		{"B : Y\t\r\n\tZ  ", "b:Y Z"},
		{"SUBJect:  AbC\r\n Def", "subject:AbC Def"},
		{"Empty:", "empty:"},
		{"Empty: \t ", "empty:"},
		{"No colon at all", "No colon at all"},
		{"X: a\r\nb", "x:ab"},
		{"X:\r\n a", "x:a"},
		{"Caf\xc3\x89: \xff", "caf\xc3\x89:\xff"},
	} {
		if got := string(AppendField([]byte("before "), row.field, Relaxed)); got != "before "+row.relaxed {
			t.Errorf("relaxed %q is %q, want %q", row.field, got, row.relaxed)
		}
		if got := string(AppendField(nil, row.field, Simple)); got != row.field {
			t.Errorf("simple %q is %q", row.field, got)
		}
	}
}

func FuzzField(f *testing.F) {
	f.Add("B : Y\t\r\n\tZ  ")
	f.Fuzz(func(t *testing.T, field string) {
		once := AppendField(nil, field, Relaxed)
		if twice := AppendField(nil, mail.Field(once), Relaxed); !bytes.Equal(once, twice) && strings.Contains(field, ":") {
			t.Errorf("relaxed of %q is %q, of that %q", field, once, twice)
		}
		if bytes.ContainsAny(once, "\r\n\t") && strings.Contains(field, ":") && !strings.ContainsAny(field[:strings.IndexByte(field, ':')], "\r\n\t") {
			t.Errorf("relaxed of %q is %q", field, once)
		}
	})
}

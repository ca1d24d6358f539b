package wire

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFields(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, line string
		want       []string
	}{
		{"command alone", "DONE", []string{"DONE"}},
		{"empty", "", []string{""}},
		{"parameters", "AUTH\t1\tPLAIN\tsecured", []string{"AUTH", "1", "PLAIN", "secured"}},
		{"escapes", "X\ta\x01tb\x01nc\x01ld\x01re\x010f\x011", []string{"X", "a\tb\nc\nd\re\x00f\x01"}},
		{"unknown escape stands for itself", "X\t\x01z", []string{"X", "z"}},
		{"escape at the end", "X\ta\x01", []string{"X", "a\x01"}},
		{"empty field", "X\t\ty", []string{"X", "", "y"}},
	} {
		if got := Parse([]byte(test.line)); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	fields := []string{"service=smtp", "secured", "resp=", "user=a=b"}
	for name, want := range map[string]string{"service": "smtp", "resp": "", "user": "a=b"} {
		if got, given := Value(fields, name); !given || got != want {
			t.Errorf("%s: got %q %v, want %q", name, got, given, want)
		}
	}
	for _, name := range []string{"secured", "serv", "no"} {
		if got, given := Value(fields, name); given {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestReadLine(t *testing.T) {
	t.Parallel()
	r := NewReader(strings.NewReader("A\tb\n" + strings.Repeat("x", MaxLineOctets) + "\n"))
	if fields, err := ReadLine(r); err != nil || !slices.Equal(fields, []string{"A", "b"}) {
		t.Errorf("got %q, %v", fields, err)
	}
	if _, err := ReadLine(r); !errors.Is(err, ErrLineLong) {
		t.Errorf("a line too long: %v", err)
	}
	if _, err := ReadLine(NewReader(strings.NewReader("OK\t1"))); err == nil {
		t.Error("half a line was taken for a whole one")
	}
}

func FuzzFields(f *testing.F) {
	f.Add("AUTH", "1\t", "resp=\x00\x01\r\n")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		line := Append(nil, a, b, c)
		if strings.Count(string(line), "\n") != 1 || strings.ContainsAny(string(line), "\r\x00") {
			t.Fatalf("%q is more than a line", line)
		}
		if got := Parse(line[:len(line)-1]); !slices.Equal(got, []string{a, b, c}) {
			t.Fatalf("got %q, want %q %q %q", got, a, b, c)
		}
		_ = Parse([]byte(a)) // any octets are a line
	})
}

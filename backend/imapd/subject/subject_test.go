package subject

import (
	"strings"
	"testing"
)

func TestBase(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, want string
		reply    bool
	}{
		{"", "", false}, {"Hello", "Hello", false}, {"  two\r\n\t words ", "two words", false},
		{"Re: Hello", "Hello", true}, {"RE : re:Fwd: fw:  Hello", "Hello", true}, {"Re", "Re", false}, {"Report: x", "Report: x", false},
		{"Re[2]: Hello", "Hello", true}, {"Re [x] : Hello", "Hello", true}, {"Re[2[: Hello", "Re[2[: Hello", false},
		{"[list] Hello", "Hello", false}, {"[list] Re: [list] Hello", "Hello", true}, {"Re: [a][b] Fwd: [c] Hello", "Hello", true},
		{"[list]", "[list]", false}, {"[a] [b]", "[b]", false}, {"Re: [list]", "[list]", true}, {"[a] Re:", "", true}, {"Re:", "", true},
		{"Hello (fwd)", "Hello", true}, {"Hello (FWD) (fwd) ", "Hello", true}, {"(fwd)", "", true}, {"Hello(fwd)x", "Hello(fwd)x", false},
		{"[Fwd: Hello]", "Hello", true}, {"[fwd: [Fwd: Re: Hello (fwd)] ]", "Hello", true}, {"[Fwd: Hello", "[Fwd: Hello", false},
		{"Re: [Fwd: [list] x]", "x", true}, {"[fwd:]", "", true},
		{"[unclosed Re: x", "[unclosed Re: x", false}, {"] x", "] x", false},
		{"Gr\u00fc\u00dfe: x", "Gr\u00fc\u00dfe: x", false},
	} {
		got, reply := Base(tt.in)
		if got != tt.want || reply != tt.reply {
			t.Errorf("Base(%q) = %q, %v; want %q, %v", tt.in, got, reply, tt.want, tt.reply)
		}
	}
}

// A long row of blobs must not cost its square.
func TestBaseOfManyBlobs(t *testing.T) {
	t.Parallel()
	if got, _ := Base(strings.Repeat("[x]", 1<<18) + "y"); got != "y" {
		t.Errorf("Base of many blobs = %q", got)
	}
}

func FuzzBase(f *testing.F) {
	for _, seed := range []string{"Re: [a] Fwd[1]: x (fwd)", "[fwd: [b] y]", "[", "]", "re:re", " \t\r\n", "[fwd:]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		base, _ := Base(s)
		if again, more := Base(base); again != base || more {
			t.Errorf("Base(%q) = %q, and of that %q, %v", s, base, again, more)
		}
		if !strings.Contains(flatten(s), base) {
			t.Errorf("Base(%q) = %q, which is not in it", s, base)
		}
	})
}

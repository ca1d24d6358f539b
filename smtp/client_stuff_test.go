package smtp

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/postern-mail/postern/status"
)

func clientStuffed(chunks ...string) string {
	var s clientStuffer
	var out []byte
	for _, c := range chunks {
		out = s.stuff(out, []byte(c))
	}
	return string(s.finish(out))
}

func TestClientStuff(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in, want string
	}{
		{"empty", "", ".\r\n"},
		{"plain", "a\r\nb\r\n", "a\r\nb\r\n.\r\n"},
		{"no line end", "a", "a\r\n.\r\n"},
		{"dots", ".\r\n..\r\n.a\r\na.\r\n", "..\r\n...\r\n..a\r\na.\r\n.\r\n"},
		{"bare LF", "a\n.\n", "a\r\n..\r\n.\r\n"},
		{"bare CR", "a\r.\rb\r\n", "a . b\r\n.\r\n"},
		{"CR CR LF", "a\r\r\n.\r\n", "a \r\n..\r\n.\r\n"},
		{"LF dot CR LF", "a\n.\r\nMAIL", "a\r\n..\r\nMAIL\r\n.\r\n"},
		{"CR at the end", "a\r", "a\r\n.\r\n"},
		{"CR begins a line", "\r.\r\n", " .\r\n.\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := clientStuffed(tt.in); got != tt.want {
				t.Errorf("whole: got %q, want %q", got, tt.want)
			}
			if got := clientStuffed(strings.Split(tt.in, "")...); got != tt.want {
				t.Errorf("octet by octet: got %q, want %q", got, tt.want)
			}
		})
	}
}

// FuzzClientStuff: the final dot is the only one, every CR and LF stands in a
// CRLF, and cutting the content anywhere changes nothing.
func FuzzClientStuff(f *testing.F) {
	for _, seed := range []string{"a\r\n.\r\n", "\n.\n", "\r\r\n.\r\n", ".", "a\r", "\r.\r\n\r"} {
		f.Add(seed, uint8(1))
	}
	f.Fuzz(func(t *testing.T, content string, at uint8) {
		got := clientStuffed(content)
		cut := min(int(at), len(content))
		if again := clientStuffed(content[:cut], content[cut:]); again != got {
			t.Fatalf("%q cut at %d: %q, whole %q", content, cut, again, got)
		}
		if rest := strings.ReplaceAll(got, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
			t.Fatalf("%q: stray CR or LF in %q", content, got)
		}
		if i := strings.Index("\r\n"+got, "\r\n.\r\n"); i != len(got)-3 {
			t.Fatalf("%q: end of data at %d of %q", content, i, got)
		}
	})
}

func TestClientReadReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		want     status.Reply
		ok       bool
	}{
		{"plain", "250 ok\r\n", status.Reply{Code: 250, Text: "ok"}, true},
		{"enhanced", "550 5.1.1 no\r\n", status.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "no"}, true},
		{"lines", "550-5.7.1 a\r\n550 5.7.1 b\r\n", status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "a\nb"}, true},
		{"other codes stay", "550-5.7.1 a\r\n550 5.7.2 b\r\n", status.Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "a\n5.7.2 b"}, true},
		{"another class is text", "450 5.1.1 no\r\n", status.Reply{Code: 450, Text: "5.1.1 no"}, true},
		{"version is text", "220 2.3.19.1 ready\r\n", status.Reply{Code: 220, Text: "2.3.19.1 ready"}, true},
		{"code alone", "250\r\n", status.Reply{Code: 250}, true},
		{"enhanced alone", "250 2.0.0\r\n", status.Reply{Code: 250, Enhanced: [3]int{2, 0, 0}}, true},
		{"eight bit", "550 caf\xe9 gr\u00fcn\x01\r\n", status.Reply{Code: 550, Text: "caf? gr\u00fcn?"}, true},
		{"bare CR", "550 a\rb\r\n", status.Reply{Code: 550, Text: "a?b"}, true},
		{"no code", "hello\r\n", status.Reply{}, false},
		{"1xx", "150 ok\r\n", status.Reply{}, false},
		{"6xx", "650 ok\r\n", status.Reply{}, false},
		{"no separator", "250ok\r\n", status.Reply{}, false},
		{"mixed codes", "250-a\r\n550 b\r\n", status.Reply{}, false},
		{"cut", "250-a\r\n", status.Reply{}, false},
		{"empty line", "\r\n", status.Reply{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := clientReadReply(bufio.NewReader(strings.NewReader(tt.in)))
			if (err == nil) != tt.ok || tt.ok && got != tt.want {
				t.Errorf("%q: got %+v, %v, want %+v", tt.in, got, err, tt.want)
			}
		})
	}
}

// FuzzClientReply: what is understood can be written into a log or a report,
// and is bounded.
func FuzzClientReply(f *testing.F) {
	for _, seed := range []string{"250 ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "250\n", "421 \xff\r\n", "354-\r\n354 \r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		reply, err := clientReadReply(bufio.NewReaderSize(bytes.NewReader(in), clientMaxReplyLine))
		if err != nil {
			return
		}
		if reply.Code < 200 || reply.Code > 599 || len(reply.Text) > 3*clientMaxReplyOctets {
			t.Fatalf("%q: %+v", in, reply)
		}
		if e := reply.Enhanced; e != [3]int{} && e[0] != reply.Code/100 {
			t.Fatalf("%q: enhanced %v", in, e)
		}
		if strings.ContainsFunc(reply.String(), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			t.Fatalf("%q: control character in %q", in, reply)
		}
	})
}

func TestClientExtensions(t *testing.T) {
	t.Parallel()
	got := clientExtensions("host\nstarttls\nAUTH=LOGIN\nAuth PLAIN\nSIZE 100\n\n 8bitmime ")
	for keyword, want := range map[string]string{"STARTTLS": "", "AUTH": "PLAIN LOGIN", "SIZE": "100", "8BITMIME": ""} {
		if params, offered := got[keyword]; !offered || params != want {
			t.Errorf("%s: %q, %v, want %q", keyword, params, offered, want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%v", got)
	}
}

func BenchmarkClientStuff(b *testing.B) {
	content := []byte(strings.Repeat("A line of ordinary length, as mail programs like to write them, here.\r\n", 700))
	out := make([]byte, 0, 2*len(content))
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		var s clientStuffer
		out = s.stuff(out[:0], content)
	}
}

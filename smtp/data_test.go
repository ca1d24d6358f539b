package smtp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/status"
)

// wireOf returns a wire that reads the input in pieces of at most size octets.
func wireOf(input string, size int) *wire {
	return newWire(&pieces{rest: input, size: size}, time.Minute)
}

// pieces is a connection whose client sends a text and leaves.
type pieces struct {
	net.Conn
	rest string
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.rest == "" {
		return 0, io.EOF
	}
	n := copy(b[:min(p.size, len(b))], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) SetReadDeadline(time.Time) error  { return nil }
func (p *pieces) SetWriteDeadline(time.Time) error { return nil }

func testSettings(t testing.TB, cfg ServerConfig) *settings {
	t.Helper()
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.test"
	}
	set, err := newSettings(cfg, &fakeHandler{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// readData reads DATA text as a session does, and returns what is left on the
// wire behind it.
func readData(t testing.TB, input string, size int, set *settings) (text, rest string, err error) {
	t.Helper()
	w := wireOf(input, size)
	defer w.release()
	timer := newMessageTimer(time.Minute, time.Hour, 0)
	body, err := io.ReadAll(newContentReader(newDataText(w, timer, false), set))
	if err != nil {
		return string(body), "", err
	}
	left := string(w.unread())
	left += w.raw.(*pieces).rest
	return string(body), left, nil
}

// TestDataSequences is the table of all the ways to end a line, a message or
// neither (CVE-2023-51764 and kin). Each text is followed by "\r\n.\r\n" and
// "NEXT", and read in pieces of every size, so that no boundary hides a bug.
func TestDataSequences(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, sent string
		want       string // "" with end: the row's own text ends the message
		end        bool   // the message ends within sent; want is before it
		rest       string // of sent, behind the end
	}{
		{name: "nothing", sent: "", want: "\r\n"},
		{name: "text", sent: "a", want: "a\r\n"},
		{name: "the standard end", sent: "a\r\n.\r\nb", want: "a\r\n", end: true, rest: "b"},
		{name: "end at once", sent: ".\r\nb", want: "", end: true, rest: "b"},
		{name: "end after CR CRLF", sent: "a\r\r\n.\r\nb", want: "a \r\n", end: true, rest: "b"},
		{name: "end after an empty CR line", sent: "\r\r\n.\r\nb", want: " \r\n", end: true, rest: "b"},
		{name: "end after bare CR and CRLF", sent: "a\rb\r\n.\r\nc", want: "a b\r\n", end: true, rest: "c"},
		{name: "end after a dropped line", sent: "a\n.\r\n.\r\nb", want: "a\r\n", end: true, rest: "b"},

		{name: "stuffed dot", sent: "..", want: ".\r\n"},
		{name: "stuffed line", sent: "a\r\n..b", want: "a\r\n.b\r\n"},
		{name: "unstuffed line", sent: "a\r\n.b", want: "a\r\nb\r\n"},
		{name: "dot inside", sent: "a.\r\nb.", want: "a.\r\nb.\r\n"},

		{name: "LF . LF", sent: "a\n.\nb", want: "a\r\nb\r\n"},
		{name: "LF . CRLF", sent: "a\n.\r\nb", want: "a\r\nb\r\n"},
		{name: "CRLF . LF", sent: "a\r\n.\nb", want: "a\r\nb\r\n"},
		{name: "CRLF . LF . CRLF", sent: "a\r\n.\n.\r\nb", want: "a\r\nb\r\n"},
		{name: "LF LF . LF LF", sent: "a\n\n.\n\nb", want: "a\r\n\r\n\r\nb\r\n"},
		{name: "CR . CR", sent: "a\r.\rb", want: "a . b\r\n"},
		{name: "CR . LF", sent: "a\r.\nb", want: "a .\r\nb\r\n"},
		{name: "CR . CRLF", sent: "a\r.\r\nb", want: "a .\r\nb\r\n"},
		{name: "CRLF . CR", sent: "a\r\n.\rb", want: "a\r\n b\r\n"},
		{name: "CRLF . CR CR", sent: "a\r\n.\r\rb", want: "a\r\n  b\r\n"},
		{name: "CRLF . CR CRLF", sent: "a\r\n.\r\r\nb", want: "a\r\n \r\nb\r\n"},
		{name: "LF . CR", sent: "a\n.\rb", want: "a\r\n b\r\n"},
		{name: "LF CR . CRLF", sent: "a\n\r.\r\nb", want: "a\r\n .\r\nb\r\n"},
		{name: "CR CR . CRLF", sent: "a\r\r.\r\nb", want: "a  .\r\nb\r\n"},
		{name: "CR LF LF . CRLF", sent: "a\r\n\n.\r\nb", want: "a\r\n\r\nb\r\n"},
		{name: "NUL before the dot", sent: "a\r\n\x00.\r\nb", want: "a\r\n\x00.\r\nb\r\n"},
		{name: "NUL behind the dot", sent: "a\r\n.\x00\r\nb", want: "a\r\n\x00\r\nb\r\n"},
		{name: "NUL inside CRLF", sent: "a\r\x00\n.\r\nb", want: "a \x00\r\nb\r\n"},
		{name: "blank behind the dot", sent: "a\r\n. \r\nb", want: "a\r\n \r\nb\r\n"},
		{name: "blank before the dot", sent: "a\r\n .\r\nb", want: "a\r\n .\r\nb\r\n"},
		{name: "dot line stuffed after LF", sent: "a\n..\r\nb", want: "a\r\n.\r\nb\r\n"},
		{name: "high line ends", sent: "a\x8d\x8a.\x8d\x8ab\u0085.\u2028", want: "a\x8d\x8a.\x8d\x8ab\u0085.\u2028\r\n"},
		{name: "bare LF lines", sent: "a\nb\n\nc", want: "a\r\nb\r\n\r\nc\r\n"},
		{name: "bare CR lines", sent: "a\rb\r\rc", want: "a b  c\r\n"},
		{name: "CR at the end", sent: "a\r", want: "a \r\n"},
		{name: "LF at the end", sent: "a\n", want: "a\r\n\r\n"},
		{name: "LF CR", sent: "a\n\rb", want: "a\r\n b\r\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			input, wantRest := row.sent+"\r\n.\r\nNEXT", "NEXT"
			if row.end {
				wantRest = row.rest + "\r\n.\r\nNEXT"
			}
			for size := 1; size <= len(input); size++ {
				text, rest, err := readData(t, input, size, testSettings(t, ServerConfig{}))
				if err != nil || text != row.want || rest != wantRest {
					t.Fatalf("%q in pieces of %d:\n got %q, rest %q, %v\nwant %q, rest %q", input, size, text, rest, err, row.want, wantRest)
				}
			}
		})
	}
}

// TestDataAfterBareLFCommand: the line end of DATA itself counts as half of
// the end of data only when it is CRLF.
func TestDataAfterBareLFCommand(t *testing.T) {
	t.Parallel()
	w := wireOf(".\r\na\r\n.\r\n", 100)
	text, err := io.ReadAll(newContentReader(newDataText(w, newMessageTimer(time.Minute, time.Hour, 0), true), testSettings(t, ServerConfig{})))
	if err != nil || string(text) != "a\r\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

// modelData is the specification of DATA text, one octet after the other and
// without any cleverness. It returns ok false when the text has no end.
func modelData(in string) (text, rest string, ok bool) {
	var out strings.Builder
	previousCRLF := true
	for {
		lf := strings.IndexByte(in, '\n')
		if lf < 0 {
			return out.String(), "", false
		}
		line := in[:lf]
		in = in[lf+1:]
		line, isCRLF := strings.CutSuffix(line, "\r")
		stuffed := strings.HasPrefix(line, ".")
		if line == "." {
			if isCRLF && previousCRLF {
				return out.String(), in, true
			}
			previousCRLF = isCRLF
			continue
		}
		if stuffed {
			line = line[1:]
		}
		out.WriteString(strings.ReplaceAll(line, "\r", " ") + "\r\n")
		previousCRLF = isCRLF
	}
}

// FuzzData holds the reader against the model, for any octets in pieces of
// any size, and checks what the next hop is promised: CR and LF in pairs only.
func FuzzData(f *testing.F) {
	for _, seed := range []string{
		"", ".", "a\r\n.\r\nb", "a\r\r\n.\r\nQUIT\r\n", "a\n.\r\nMAIL\r\n.\r\n", "\r\n.\r", ".\r\r\n.\r\n", "\x00\r\n.\r\n",
		"..\r\n.a\r\n.\n.\r\n.\r\n", strings.Repeat("x", 40000) + "\r\n.\r\n", strings.Repeat("\r", 5000) + "\n.\r\n",
		strings.Repeat(".\n", 3000) + "\r\n.\r\n",
	} {
		f.Add(seed, uint16(7))
		f.Add(seed, uint16(4096))
	}
	set := testSettings(f, ServerConfig{MaxMessageOctets: -1})
	f.Fuzz(func(t *testing.T, input string, size uint16) {
		text, rest, err := readData(t, input, int(size)+1, set)
		wantText, wantRest, ok := modelData(input)
		if !ok {
			if status.Of(err) != status.ConnectionLost {
				t.Fatalf("%q has no end, got %q, %v", input, text, err)
			}
			return
		}
		if err != nil || text != wantText || rest != wantRest {
			t.Fatalf("%q in pieces of %d:\n got %q, rest %q, %v\nwant %q, rest %q", input, int(size)+1, text, rest, err, wantText, wantRest)
		}
		if bare := strings.ReplaceAll(text, "\r\n", ""); strings.ContainsAny(bare, "\r\n") {
			t.Fatalf("half a line end in %q", text)
		}
	})
}

// FuzzDataRoundTrip: any text, dot-stuffed by an independent hand, arrives
// with normalised line ends, and what follows the end of data is untouched.
func FuzzDataRoundTrip(f *testing.F) {
	f.Add("hello\r\n.\r\nworld", "QUIT\r\n", uint16(3))
	f.Add(".\n.\r\n\r", ".\r\n", uint16(100))
	set := testSettings(f, ServerConfig{MaxMessageOctets: -1})
	f.Fuzz(func(t *testing.T, body, next string, size uint16) {
		// A sender that follows RFC 5321: CRLF line ends only, then stuffing.
		body = strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n", "\r", " ").Replace(body)
		if body != "" && !strings.HasSuffix(body, "\r\n") {
			body += "\r\n"
		}
		sent := strings.ReplaceAll("\r\n"+body, "\r\n.", "\r\n..")[2:] + ".\r\n" + next
		text, rest, err := readData(t, sent, int(size)+1, set)
		if err != nil || text != body || rest != next {
			t.Fatalf("sent %q\n got %q, rest %q, %v\nwant %q, rest %q", sent, text, rest, err, body, next)
		}
	})
}

// FuzzChunks: however text is cut into chunks and pieces, it arrives as the
// same lines, and nothing behind the last chunk is touched.
func FuzzChunks(f *testing.F) {
	f.Add("a\r\nb\r\r\n.\r\nc\n\rd", "NEXT", uint8(3), uint16(2))
	f.Add("\r", "\n", uint8(0), uint16(0))
	set := testSettings(f, ServerConfig{MaxMessageOctets: -1})
	f.Fuzz(func(t *testing.T, body, next string, chunkSize uint8, size uint16) {
		step := int64(chunkSize)
		w := wireOf(body+next, int(size)+1)
		defer w.release()
		left := int64(len(body))
		cut := func(time.Time) (chunk, error) {
			n := min(step, left)
			if step == 0 {
				n = left
			}
			left -= n
			return chunk{octets: n, last: left == 0}, nil
		}
		first, _ := cut(time.Time{})
		text, err := io.ReadAll(newContentReader(&chunkText{wire: w, now: first, timer: newMessageTimer(time.Minute, time.Hour, 0), more: cut}, set))
		want := strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n", "\r", " ").Replace(body)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		if rest := string(w.unread()) + w.raw.(*pieces).rest; err != nil || string(text) != want || rest != next {
			t.Fatalf("%q: got %q, rest %q, %v; want %q", body, text, rest, err, want)
		}
	})
}

// TestContentReaderSmallReads: a reader of single octets sees the same text.
func TestContentReaderSmallReads(t *testing.T) {
	t.Parallel()
	w := wireOf("a\nb\rc\r\n..\r\n.\r\n", 3)
	r := newContentReader(newDataText(w, newMessageTimer(time.Minute, time.Hour, 0), false), testSettings(t, ServerConfig{}))
	var got []byte
	for one := make([]byte, 1); ; {
		n, err := r.Read(one)
		got = append(got, one[:n]...)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
	}
	if want := "a\r\nb c\r\n.\r\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// endless is a client that repeats a message.
type endless struct {
	net.Conn
	text []byte
	at   int
}

func (e *endless) Read(b []byte) (n int, err error) {
	for n < len(b) {
		m := copy(b[n:], e.text[e.at:])
		n += m
		e.at = (e.at + m) % len(e.text)
	}
	return n, nil
}

func (e *endless) SetReadDeadline(time.Time) error { return nil }

// BenchmarkData measures reading a message of 1 MB in lines of 76 octets.
func BenchmarkData(b *testing.B) {
	line := append(bytes.Repeat([]byte{'x'}, 76), "\r\n"...)
	text := append(bytes.Repeat(line, 1<<20/len(line)), ".\r\n"...)
	w := newWire(&endless{text: text}, time.Minute)
	w.enlarge()
	set := testSettings(b, ServerConfig{})
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r := newContentReader(newDataText(w, newMessageTimer(time.Minute, time.Hour, 0), false), set)
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
			b.Fatal(err)
		}
	}
}

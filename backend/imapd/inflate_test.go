package imapd

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func inflateAll(src io.Reader) ([]byte, error) {
	return io.ReadAll(io.LimitReader(&inflater{src: src}, 1<<22))
}

func TestInflate(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text := strings.Repeat("a UID FETCH 1:* (FLAGS BODY.PEEK[HEADER])\r\n", 5000)
	for name, plain := range map[string]string{
		"nothing": "", "short": "a NOOP\r\n", "run": strings.Repeat("x", 100_000), "text": text, "noise": string(noise),
		"far": string(noise[:32<<10]) + string(noise[:32<<10]) + text,
	} {
		// The others are these, looking for longer.
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, 6, flate.BestCompression} {
			var packed bytes.Buffer
			w, _ := flate.NewWriter(&packed, level)
			for rest := plain; len(rest) > 0; { // flushed now and then, as clients do
				n := min(len(rest), 1+r.IntN(20_000))
				_, _ = io.WriteString(w, rest[:n])
				_ = w.Flush()
				rest = rest[n:]
			}
			_ = w.Close()
			for how, src := range map[string]io.Reader{"whole": bytes.NewReader(packed.Bytes()), "slow": iotest.OneByteReader(bytes.NewReader(packed.Bytes()))} {
				if how == "slow" && len(plain) > 10_000 && level != 6 {
					continue
				}
				if got, err := inflateAll(src); err != nil || string(got) != plain {
					t.Errorf("%s, level %d, %s: %d octets of %d, %v", name, level, how, len(got), len(plain), err)
				}
			}
		}
	}
}

// What was flushed is there before more comes, and a client that said little
// costs little.
func TestInflateDoesNotWait(t *testing.T) {
	t.Parallel()
	here, there := io.Pipe()
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, 6)
	z := &inflater{src: here}
	for _, line := range []string{"a NOOP\r\n", "b SELECT INBOX\r\n", strings.Repeat("c", 3000) + "\r\n", "d NOOP\r\n"} {
		packed.Reset()
		_, _ = io.WriteString(w, line)
		_ = w.Flush()
		chunk := bytes.Clone(packed.Bytes())
		go func() { _, _ = there.Write(chunk) }()
		got := make([]byte, len(line))
		if _, err := io.ReadFull(z, got); err != nil || string(got) != line {
			t.Fatalf("%q: %q, %v", line, got, err)
		}
	}
	if cap(z.window) > 8<<10 {
		t.Errorf("the window takes %d octets", cap(z.window))
	}
}

// hesitant is a source that fails before every octet.
type hesitant struct {
	r   io.Reader
	now bool
}

func (h *hesitant) Read(p []byte) (int, error) {
	if h.now = !h.now; h.now || len(p) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return h.r.Read(p[:1])
}

// A wait that is interrupted, wherever in the stream, loses nothing.
func TestInflateGoesOn(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	var plain strings.Builder
	for i := range 600 {
		plain.WriteString(strings.Repeat(string(rune('!'+r.IntN(90))), 1+r.IntN(9)))
		if i%100 == 0 {
			plain.WriteString("a UID FETCH 1:* (FLAGS BODY.PEEK[HEADER])\r\n")
		}
	}
	for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, flate.BestCompression} {
		var packed bytes.Buffer
		w, _ := flate.NewWriter(&packed, level)
		for rest := plain.String(); rest != ""; {
			n := min(len(rest), 1+r.IntN(700))
			_, _ = io.WriteString(w, rest[:n])
			_ = w.Flush()
			rest = rest[n:]
		}
		_ = w.Close()
		z := &inflater{src: &hesitant{r: &packed}}
		var got []byte
		for {
			var p [64]byte
			n, err := z.Read(p[:])
			got = append(got, p[:n]...)
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("level %d: %v", level, err)
			}
			break
		}
		if string(got) != plain.String() {
			t.Errorf("level %d: %d octets of %d", level, len(got), plain.Len())
		}
	}
}

func TestInflateRefuses(t *testing.T) {
	t.Parallel()
	for name, packed := range map[string]string{
		"block type":        "\x07",
		"stored length":     "\x01\x05\x00\x00\x00hello",
		"too far back":      "\x03\x02\x00", // a copy at the very beginning
		"too many literals": "\xfd\xff",
	} {
		if got, err := inflateAll(strings.NewReader(packed + strings.Repeat("\x00", 20))); !errors.Is(err, errDeflate) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// Who is given octets with the error may ask again.
	z := &inflater{src: strings.NewReader("\x00\x05\x00\xfa\xffhello\x06" + strings.Repeat("\x00", 20))}
	got := make([]byte, 20)
	for _, want := range []string{"hello", "", ""} {
		if n, err := z.Read(got); string(got[:n]) != want || !errors.Is(err, errDeflate) {
			t.Errorf("want %q: %q, %v", want, got[:n], err)
		}
	}
	if _, err := inflateAll(strings.NewReader("\x01\x05")); !errors.Is(err, io.EOF) && err != nil {
		t.Errorf("cut off: %v", err)
	}
}

// FuzzInflate compares with the library. It tells more of broken streams than
// that does; what both take whole is the same.
func FuzzInflate(f *testing.F) {
	for _, plain := range []string{"", "a NOOP\r\n", strings.Repeat("abc", 1000)} {
		var packed bytes.Buffer
		w, _ := flate.NewWriter(&packed, 6)
		_, _ = io.WriteString(w, plain)
		_ = w.Close()
		f.Add(packed.Bytes())
	}
	f.Add([]byte("\x07"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		theirs, theirErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), 1<<22))
		ours, ourErr := inflateAll(bytes.NewReader(packed))
		if theirErr == nil && (ourErr != nil || !bytes.Equal(ours, theirs)) {
			t.Fatalf("%x: %d octets, %v; the library has %d", packed, len(ours), ourErr, len(theirs))
		}
		if !bytes.HasPrefix(ours, theirs) && !bytes.HasPrefix(theirs, ours) {
			t.Fatalf("%x: other octets", packed)
		}
	})
}

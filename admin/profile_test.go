package admin

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/url"
	"strings"
	"testing"
)

// TestProfile takes each kind over the socket: what comes is gzip with a
// profile in it, and a mistake is told.
func TestProfile(t *testing.T) {
	t.Parallel()
	_, socket := start(t, Commands{"debug/profile": Profile}, nil)
	take := func(kind, seconds string) ([]byte, error) {
		var out bytes.Buffer
		err := Call(t.Context(), socket, "debug/profile", url.Values{"kind": {kind}, "seconds": {seconds}}, &out)
		return out.Bytes(), err
	}
	for kind, want := range map[string]string{"heap": "inuse_space", "goroutine": "goroutine", "cpu": "nanoseconds"} {
		got, err := take(kind, "1")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		unzipped, err := gzip.NewReader(bytes.NewReader(got))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if text, err := io.ReadAll(unzipped); err != nil || !bytes.Contains(text, []byte(want)) {
			t.Errorf("%s: %d octets without %q, %v", kind, len(text), want, err)
		}
	}
	for _, bad := range [][2]string{{"heat", ""}, {"cpu", "0"}, {"cpu", "long"}, {"cpu", "100000"}, {"", ""}} {
		if got, err := take(bad[0], bad[1]); err == nil || len(got) > 0 {
			t.Errorf("%q: got %d octets, %v", bad, len(got), err)
		}
	}
	if _, err := take("heat", ""); err == nil || !strings.Contains(err.Error(), "cpu") || !strings.Contains(err.Error(), "heap") {
		t.Errorf("the kinds are not named: %v", err)
	}
}

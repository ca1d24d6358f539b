package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestOneLineWhateverTheValue(t *testing.T) {
	t.Parallel()
	hostile := []string{"a\nlevel=error msg=forged", "\x1b[31mred", "q\"uo=te", "nul\x00", "bad\xffutf8", "", strings.Repeat("x", 10_000), "\u2028line"}
	for _, format := range []Format{Text, JSON} {
		for _, value := range hostile {
			var out bytes.Buffer
			log := New(Config{Format: format}, &out)
			log.Info(value, "from", value, value, value)
			line := out.String()
			if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
				t.Errorf("%s: %q gave %d lines", format, value, strings.Count(line, "\n"))
			}
			for _, r := range line[:len(line)-1] {
				if r < ' ' || r == 0x7f {
					t.Errorf("%s: control character %q in %q", format, r, line)
				}
			}
			if format == JSON {
				var m map[string]any
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Errorf("not JSON: %v: %q", err, line)
				}
			}
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := New(Config{}, &out).Named("queue").Named("scheduler").With("qid", "4A")
	log.Warn("delivery deferred", "err", errors.New("connection refused"), "attempt", 2, "dur", 1500*time.Millisecond, "odd")
	_, line, _ := strings.Cut(out.String(), " ")
	want := `warn  queue.scheduler: delivery deferred qid=4A err="connection refused" attempt=2 dur=1.5s extra=odd` + "\n"
	if line != want {
		t.Errorf("got  %q\nwant %q", line, want)
	}
}

func TestLevelIsShared(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := New(Config{Level: "error"}, &out)
	named := log.Named("smtpd")
	named.Info("hidden")
	log.SetLevel(hclog.Debug)
	named.Debug("shown")
	named.Trace("hidden")
	if got := out.String(); strings.Contains(got, "hidden") || !strings.Contains(got, "shown") {
		t.Errorf("got %q", got)
	}
}

func BenchmarkInfo(b *testing.B) {
	log := New(Config{Format: JSON}, discard{})
	b.ReportAllocs()
	for b.Loop() {
		log.Info("message accepted", "sid", "a1b2", "qid", "4AbCdE", "from", "a@example.com", "octets", int64(5120), "dur", time.Millisecond)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestIntakeLimits: the defaults, what a listener says of its own, and that the
// free space fits the largest message.
func TestIntakeLimits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		gateway, listener     string
		message, minFree      int64
		header, line, delayMS int
		lifetime              time.Duration
	}{
		"defaults":                {"", "", 50 << 20, 100 << 20, 102400, 2048, 1000, 5 * 24 * time.Hour},
		"Postfix's":               {"message_size_limit = 10240000\nqueue { queue_minfree = 0 }\n", "", 10240000, 15360000, 102400, 2048, 1000, 5 * 24 * time.Hour},
		"larger":                  {"message_size_limit = \"100 MiB\"\n", "", 100 << 20, 150 << 20, 102400, 2048, 1000, 5 * 24 * time.Hour},
		"listener's own":          {"message_size_limit = \"10 MiB\"\n", "max_message = \"200 MiB\"\n", 200 << 20, 300 << 20, 102400, 2048, 1000, 5 * 24 * time.Hour},
		"space of the operator's": {"queue {\n queue_minfree = \"1 GiB\"\n in_flow_delay = \"0s\"\n maximal_queue_lifetime = \"0s\"\n}\nheader_size_limit = \"1 MiB\"\nline_length_limit = 1024\n", "", 50 << 20, 1 << 30, 1 << 20, 1024, 0, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(sound, "gateway {\n", "gateway {\n"+tt.gateway, 1)
			text = strings.Replace(text, `listener "mx" { bind = [":25"] }`, "listener \"mx\" {\n bind = [\":25\"]\n"+tt.listener+"}", 1)
			f, err := Load(write(t, map[string]string{"postern.hcl": text, "people.ldif": "", "senders": ""}))
			if err != nil {
				t.Fatal(err)
			}
			if q := f.Queue(); q.Lifetime != tt.lifetime || q.MaxMessages != 0 {
				t.Errorf("queue %+v", q)
			}
			l := f.Gateway.Listeners[0]
			wire, session := l.Room(f, nil), l.Sessions(f)
			if wire.MaxMessageOctets != tt.message || f.MinFree("queue") != tt.minFree || session.MaxHeaderField != tt.header ||
				wire.MaxLineOctets != tt.line || session.FlowDelay != time.Duration(tt.delayMS)*time.Millisecond || len(session.FlowExempt) != 2 {
				t.Errorf("message %d, free %d, header %d, line %d, delay %v, exempt %v", wire.MaxMessageOctets, f.MinFree("queue"),
					session.MaxHeaderField, wire.MaxLineOctets, session.FlowDelay, session.FlowExempt)
			}
		})
	}
}

func TestIntakeMistakes(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"message_size_limit = 0\n":               "message_size_limit is 0",
		"header_size_limit = 100\n":              "header_size_limit is outside",
		"line_length_limit = 100\n":              "line_length_limit is outside",
		"queue {\n max_queue_messages = -1\n}\n": "max_queue_messages is negative",
	} {
		text := strings.Replace(sound, "gateway {\n", "gateway {\n"+setting, 1)
		_, err := Load(write(t, map[string]string{"postern.hcl": text, "people.ldif": "", "senders": ""}))
		if err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q: %v", setting, err)
		}
	}
}

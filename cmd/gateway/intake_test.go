package main

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/queue"
)

// TestStatusTellsOfIntake: an operator who wonders why mail is put off reads it
// in postern status; otherwise there is no line.
func TestStatusTellsOfIntake(t *testing.T) {
	t.Parallel()
	for want, stats := range map[string]queue.Stats{
		"": {}, "queue_minfree": {NoSpace: true, Full: true}, "max_queue_messages": {Full: true, Pressed: true}, "in_flow_delay": {Pressed: true},
	} {
		var b strings.Builder
		if tellIntake(&b, stats); !strings.Contains(b.String(), want) || (b.Len() == 0) != (want == "") {
			t.Errorf("%+v: %q", stats, b.String())
		}
	}
}

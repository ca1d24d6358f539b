package config

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/smtp"
)

// TestPriorities: who may ask for a priority, by mode and by what is written.
func TestPriorities(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		mode, max string
		who       smtp.PriorityPolicy
		highest   int8
	}{
		{ModeMX, "", smtp.PriorityNever, 0},
		{ModeMX, "none", smtp.PriorityNever, 0},
		{ModeMX, "2", smtp.PriorityForAll, 2},
		{ModeSubmission, "", smtp.PriorityForLogins, 4},
		{ModeSubmissions, "9", smtp.PriorityForLogins, 9},
		{ModeLocal, "-1", smtp.PriorityForLogins, -1},
		{ModeSubmission, "none", smtp.PriorityNever, 0},
	} {
		l := &SMTPListener{Mode: row.mode, MaxPriority: row.max}
		if who, highest := l.priorities(); who != row.who || highest != row.highest {
			t.Errorf("%s %q: %v to %d, want %v to %d", row.mode, row.max, who, highest, row.who, row.highest)
		}
	}
}

func TestWrongPriorities(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"priority = 10":         "A priority is a number from -9 to 9, not 10.",
		`max_priority = "high"`: `The highest priority is a number from -9 to 9 or "none", not "high".`,
		"max_priority = -10":    `not "-10".`,
		"priority = -9":         "",
		"max_priority = 9":      "",
	} {
		text := strings.Replace(sound, `listener "mx" { bind = [":25"] }`, "listener \"mx\" {\nbind = [\":25\"]\n"+setting+"\n}", 1)
		if text == sound {
			t.Fatal("the sound configuration has no such listener")
		}
		_, err := Load(write(t, map[string]string{"postern.hcl": text, "people.ldif": "", "senders": ""}))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", setting, err, want)
		}
	}
}

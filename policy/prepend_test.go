package policy

import "testing"

// TestPrependIsOneField: a value that holds line ends begins no other field, and
// ends no header.
func TestPrependIsOneField(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"X-Helo: a\r\n\r\nbody":   "X-Helo: a    body",
		"X-Helo: a\rTo: b@c\x00d": "X-Helo: a To: b@c d",
		"X-Helo: a\tb":            "X-Helo: a\tb",
	} {
		a, mistake := parsePrepend(Pos{}, given)
		if mistake != nil || a.edit.PrependHeader != want {
			t.Errorf("%q: %+v, %v", given, a, mistake)
		}
	}
}

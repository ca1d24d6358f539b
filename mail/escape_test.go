package mail

import "testing"

func TestEscapeNonASCII(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":             "",
		"mailbox full": "mailbox full",
		"Grüße, 收件人":   `Gr\x{FC}\x{DF}e, \x{6536}\x{4EF6}\x{4EBA}`,
	} {
		if got := EscapeNonASCII(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

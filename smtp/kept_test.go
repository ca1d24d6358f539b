package smtp

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/status"
)

// TestKeepToken: a token is the last word of a positive reply, or none.
func TestKeepToken(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		code       int
		text, want string
	}{
		{250, KeepText("Saved", "abc_-9"), "abc_-9"},
		{250, KeepText("", "abc"), "abc"},
		{250, "a\nb KEEP=x", "x"},
		{250, "Saved", ""},
		{250, "Saved KEEP=", ""},
		{250, "KEEP=x Saved", ""},
		{250, "KEEP=\x7f", ""},
		{250, "KEEP=" + strings.Repeat("x", maxKeptToken+1), ""},
		{452, "KEEP=x", ""},
	} {
		got, asked := KeepToken(status.Reply{Code: row.code, Text: row.text})
		if got != row.want || asked != (row.want != "") {
			t.Errorf("%d %q: %q, %v", row.code, row.text, got, asked)
		}
	}
}

// TestKeptLine: questions fit into the command lines of RFC 5321.
func TestKeptLine(t *testing.T) {
	t.Parallel()
	tokens := make([]string, 100)
	for i := range tokens {
		tokens[i] = strings.Repeat("x", 1+i%maxKeptToken)
	}
	for len(tokens) > 0 {
		n := keptLine(tokens)
		if line := "KEPT " + strings.Join(tokens[:n], " ") + "\r\n"; n < 1 || n > maxKeptTokens || len(line) > 512 {
			t.Fatalf("%d tokens, %d octets", n, len(line))
		}
		tokens = tokens[n:]
	}
}

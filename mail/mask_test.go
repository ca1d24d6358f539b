package mail_test

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
)

func TestMask(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		mask, account string
		want          bool
	}{
		{"*", "kim", true}, {"*", "", true}, {"", "", true}, {"", "kim", false},
		{"kim", "kim", true}, {"Kim", "kIM", true}, {"kim", "kimi", false}, {"k?m", "kim", true}, {"k?m", "km", false},
		{"*@example.com", "kim@example.com", true}, {"*@example.com", "kim@example.org", false},
		{"a*b*c", "abbbc", true}, {"a*b*c", "acb", false}, {"**", "x", true}, {"?*?", "x", false}, {"ü?", "ÜA", true},
		{"[k]im", "kim", false}, {"[k]im", "[k]im", true},
		{strings.Repeat("*a", 50) + "b", strings.Repeat("a", 5000), false}, // ends in time
	} {
		if got := mail.Mask(row.mask).Matches(row.account); got != row.want {
			t.Errorf("%.20q of %.20q: %v", row.mask, row.account, got)
		}
	}
}

package directory

import "testing"

func TestParseMessageQuota(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"": 0, "1000": 0, "1000S": 0, "1000000S,5000C": 5000, "5000c": 5000, "1G, 20C": 20, "C": 0, "-5C": 0, "xC": 0,
		"99999999999999999999C": 0,
	} {
		if got := parseMessageQuota(in); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

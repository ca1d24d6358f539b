package directory

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
)

func TestParseClaim(t *testing.T) {
	t.Parallel()
	a := mail.MustAddress("a@x.example")
	for v, want := range map[string]claim{
		"a@x.example":             {address: a},
		" a@X.example ":           {address: a},
		"smtp:a@x.example":        {address: a},
		"SMTP:a@x.example":        {address: a, primary: true},
		"@x.example":              {address: mail.Address{Domain: "x.example"}},
		"smtp:@x.example":         {address: mail.Address{Domain: "x.example"}},
		`"a:b"@x.example`:         {address: mail.Address{Local: "a:b", Domain: "x.example"}},
		"a@bücher.example":        {address: mail.Address{Local: "a", Domain: "xn--bcher-kva.example"}},
		"a@xn--bcher-kva.EXAMPLE": {address: mail.Address{Local: "a", Domain: "xn--bcher-kva.example"}},
	} {
		if got, ok := parseClaim(v); !ok || got != want {
			t.Errorf("parseClaim(%q) = %+v, %v; want %+v", v, got, ok, want)
		}
	}
	for _, bad := range []string{"", "@", "a", "X500:/o=x", "sip:a@x.example", "x400:a@x.example", "a@x.example,b@x.example", "a@b@c", "a@x.example\n"[:0] + "a b@x"} {
		if got, ok := parseClaim(bad); ok {
			t.Errorf("parseClaim(%q) = %+v, want none", bad, got)
		}
	}
}

func TestParseQuota(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    string
		unit int64
		want int64
	}{
		{"1024", 1, 1024}, {"1024", 1024, 1 << 20}, {"2G", 1, 2 << 30}, {"2 GB", 1024, 2 << 30}, {"5242880S", 1024, 5242880},
		{"1000S,50C", 1, 1000}, {"10m", 1, 10 << 20}, {"0", 1, 0}, {"", 1, 0}, {"unlimited", 1, 0}, {"-1", 1, 0},
		{"9223372036854775807", 1024, 0}, {"99999999999999999999", 1, 0}, {"5 parsecs", 1, 0},
	} {
		if got := parseQuota(c.v, c.unit); got != c.want {
			t.Errorf("parseQuota(%q, %d) = %d, want %d", c.v, c.unit, got, c.want)
		}
	}
}

func TestParseExpiry(t *testing.T) {
	t.Parallel()
	want := time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, v := range []string{"20240301120000Z", "20240301120000.0Z", "202403011200Z", "2024030112Z", "20240301130000+0100", "133537680000000000"} {
		if got, ok := parseExpiry(v); !ok || !got.Equal(want) {
			t.Errorf("parseExpiry(%q) = %v, %v; want %v", v, got, ok, want)
		}
	}
	for _, v := range []string{"", "0", "9223372036854775807", "never", "-5"} {
		if got, ok := parseExpiry(v); ok {
			t.Errorf("parseExpiry(%q) = %v, want never", v, got)
		}
	}
}

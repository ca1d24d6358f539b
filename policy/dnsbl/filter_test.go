package dnsbl

import (
	"net/netip"
	"testing"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		filter  string
		takes   []string
		refuses []string
	}{
		{"127.0.0.2", []string{"127.0.0.2", "::ffff:127.0.0.2"}, []string{"127.0.0.3", "127.0.1.2", "::1"}},
		{"127.0.0.[2..11;14]", []string{"127.0.0.2", "127.0.0.11", "127.0.0.14"}, []string{"127.0.0.1", "127.0.0.12", "127.0.0.255"}},
		{"127.[0..255].0.[1;3..5]", []string{"127.9.0.1", "127.255.0.5"}, []string{"127.9.1.1", "127.9.0.2"}},
	} {
		f, err := ParseFilter(tt.filter)
		if err != nil {
			t.Errorf("%s: %v", tt.filter, err)
			continue
		}
		for _, a := range tt.takes {
			if !f.Match(netip.MustParseAddr(a)) {
				t.Errorf("%s refuses %s", tt.filter, a)
			}
		}
		for _, a := range tt.refuses {
			if f.Match(netip.MustParseAddr(a)) {
				t.Errorf("%s takes %s", tt.filter, a)
			}
		}
	}
	for _, wrong := range []string{"", "127", "127.0.0", "127.0.0.", "127.0.0.2.3", "127.0.0.256", "127.0.0.[2", "127.0.0.[]", "127.0.0.[5..2]", "127.0.0.[2;]", "127.0.0.0002", "127.0.0.-1", "127.0.0.2]", "a.b.c.d"} {
		if _, err := ParseFilter(wrong); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

func TestSite(t *testing.T) {
	t.Parallel()
	s, err := ParseSite("Zen.Example.=127.0.0.[2..11]*-4")
	if err != nil || s.Domain != "zen.example" || s.Weight != -4 || !s.Filter.Match(netip.MustParseAddr("127.0.0.9")) {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = ParseSite("zen.example"); err != nil || s.Weight != 1 || s.Filter != nil {
		t.Errorf("%+v, %v", s, err)
	}
	for _, wrong := range []string{"", "=127.0.0.2", "zen..example", "[192.0.2.1]", "zen.example=", "zen.example*", "zen.example*x", "zen.example*99999999999", "a b"} {
		if _, err := ParseSite(wrong); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

// FuzzSite holds that what is taken is a domain and that each filter takes
// some answer.
func FuzzSite(f *testing.F) {
	for _, seed := range []string{"zen.example", "zen.example=127.0.0.[2..11;14]*3", "a=127.[0..255].0.1", "x*-4", "a=1.2.3.[", "=*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSite(text)
		if err != nil {
			return
		}
		if s.Domain == "" || len(s.Domain) > 255 {
			t.Fatalf("%q: %+v", text, s)
		}
		if s.Filter == nil {
			return
		}
		for _, o := range s.Filter.octets {
			if o == (octets{}) {
				t.Fatalf("%q takes nothing", text)
			}
		}
	})
}

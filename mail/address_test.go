package mail

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		in   string
		want string // "" for an error
		rest string
		utf8 bool
	}{
		{in: "<>", want: "<>"},
		{in: "<alice@example.com>", want: "<alice@example.com>"},
		{in: "<alice@EXAMPLE.com.> SIZE=1", want: "<alice@example.com>", rest: " SIZE=1"},
		{in: "<postmaster>", want: "<postmaster>"},
		{in: "<PostMaster>", want: "<PostMaster>"},
		{in: "<@a.test,@b.test:alice@example.com>", want: "<alice@example.com>"},
		{in: `<"a b"@example.com>`, want: `<"a b"@example.com>`},
		{in: `<"alice"@example.com>`, want: "<alice@example.com>"},
		{in: `<"a>b"@example.com> X=y`, want: `<"a>b"@example.com>`, rest: " X=y"},
		{in: `<"a\"b"@example.com>`, want: `<"a\"b"@example.com>`},
		{in: `<"v@external.test> ORCPT=rfc822;a"@example.com>`, want: `<"v@external.test> ORCPT=rfc822;a"@example.com>`},
		{in: "<alice@[192.0.2.1]>", want: "<alice@[192.0.2.1]>"},
		{in: "<alice@[IPv6:2001:DB8::1]>", want: "<alice@[IPv6:2001:db8::1]>"},
		{in: "<jörg@bücher.example>", want: "<jörg@xn--bcher-kva.example>", utf8: true},
		{in: "<jörg@bücher.example>"},
		{in: "alice@example.com"},
		{in: "<alice@example.com"},
		{in: "<alice>"},
		{in: "<alice@>"},
		{in: "<@example.com>"},
		{in: "<alice@b@example.com>"},
		{in: "<a b@example.com>"},
		{in: "<.alice@example.com>"},
		{in: "<al..ice@example.com>"},
		{in: "<alice@-example.com>"},
		{in: "<alice@example..com>"},
		{in: "<alice@[192.0.2.256]>"},
		{in: "<alice@[2001:db8::1]>"},
		{in: "<alice\x00@example.com>"},
		{in: "<\"a\rb\"@example.com>"},
		{in: "<" + strings.Repeat("a", 65) + "@example.com>", want: "<" + strings.Repeat("a", 65) + "@example.com>"},
		{in: "<" + strings.Repeat("a", 242) + "@example.com>", want: "<" + strings.Repeat("a", 242) + "@example.com>"},
		{in: "<" + strings.Repeat("a", 243) + "@example.com>"},
		{in: `<"` + strings.Repeat(`\"`, 125) + `"@example.com>`},
		{in: "<\xff@example.com>", utf8: true},
		{in: "<@a.test alice@example.com>"},
		{in: `<""@example.com>`},
		{in: "<alice@" + strings.Repeat("ü.", 60) + "example.com>", utf8: true}, // in A-labels above 255 octets
		{in: "<<alice@example.com>>"},
	} {
		a, rest, err := ParsePath(row.in, row.utf8)
		if row.want == "" {
			if err == nil {
				t.Errorf("ParsePath(%q) = %v, want an error", row.in, a)
			}
			continue
		}
		if err != nil || a.Path() != row.want || rest != row.rest {
			t.Errorf("ParsePath(%q) = %v, rest %q, %v; want %v, rest %q", row.in, a.Path(), rest, err, row.want, row.rest)
		}
	}
}

// FuzzParsePath holds the property that keeps relays closed: what is written
// for an address is read back as the same address, and nothing beyond it.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"<>", "<a@b.test>", `<"a\"b> X=y"@b.test>`, "<@r.test:a@b.test>", "<ö@b.test>", `<"a@b"@c.test>`, "<a%b@c.test>", "<a@[IPv6:::1]>",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, in string, utf8Allowed bool) {
		a, _, err := ParsePath(in, utf8Allowed)
		if err != nil {
			return
		}
		again, rest, err := ParsePath(a.Path()+" NEXT", utf8Allowed)
		if err != nil || again != a || rest != " NEXT" {
			t.Fatalf("%q -> %q -> %#v, rest %q, %v", in, a.Path(), again, rest, err)
		}
		if strings.ContainsAny(a.Path(), "\r\n\x00") {
			t.Fatalf("control characters in %q", a.Path())
		}
		var text Address
		if err := text.UnmarshalText([]byte(a.String())); err != nil || text != a {
			t.Fatalf("text form %q -> %#v, %v", a.String(), text, err)
		}
	})
}

package directory

import "testing"

func TestDN(t *testing.T) {
	t.Parallel()
	for _, same := range [][]DN{
		{"uid=a,dc=x", "UID=A, DC=X", "uid = a ; dc = x", `uid="a",dc=x`, `uid=\61,dc=x`},
		{`cn=Doe\, J,dc=x`, `cn=Doe\2c J,dc=x`, `cn="Doe, J",dc=x`, `cn=doe\,  j,dc=x`},
		{"a=1+b=2,dc=x", "b=2 + a=1,dc=x"},
		{`cn=a\ ,dc=x`, `cn=a\20,dc=x`, "cn=a,dc=x"},
		{"", " "},
	} {
		for _, dn := range same {
			if _, err := ParseDN(string(dn)); err != nil {
				t.Errorf("ParseDN(%q): %v", dn, err)
			}
			if !dn.Equal(same[0]) {
				t.Errorf("%q is not %q: keys %q and %q", dn, same[0], dn.Key(), same[0].Key())
			}
		}
	}
	for _, bad := range []string{"alice", "uid", "=x", "uid=a,", "uid=a,,dc=x", `uid=a\`, `uid="a`, `uid="a"b,dc=x`, "uid=<a>", "u d=a", `uid=a\zz`} {
		if dn, err := ParseDN(bad); err == nil {
			t.Errorf("ParseDN(%q) = %q, want an error", bad, dn.Key())
		}
	}
	for _, c := range []struct {
		dn, base DN
		want     bool
	}{
		{"uid=a,dc=x", "dc=x", true}, {"uid=a,dc=x", "DC=X", true}, {"dc=x", "dc=x", true}, {"uid=a,dc=x", "", true},
		{"uid=a,dc=xx", "dc=x", false}, {`uid=a\,dc=x`, "dc=x", false}, {"dc=x", "uid=a,dc=x", false},
	} {
		if got := c.dn.Under(c.base); got != c.want {
			t.Errorf("%q under %q: %v", c.dn, c.base, got)
		}
	}
}

func FuzzDN(f *testing.F) {
	for _, seed := range []string{"uid=a,dc=x", `cn="Doe, J"+sn=\2c`, `a=\`, "a=b;c=d", "a=#04"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key := DN(s).Key()
		if _, err := ParseDN(s); err != nil {
			return
		}
		if again := DN(key).Key(); again != key {
			t.Fatalf("key of %q is %q, whose key is %q", s, key, again)
		}
		// A value of anything, escaped, stays one part of one name.
		dn := "uid=" + EscapeDNValue(s) + ",dc=x"
		if _, err := ParseDN(dn); err != nil || ParentKey(DN(dn).Key()) != "dc=x" {
			t.Fatalf("%q escaped is %q, whose parent is %q: %v", s, dn, ParentKey(DN(dn).Key()), err)
		}
	})
}

package ldif_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldif"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const text = "version: 1\r\n# a comment\n  that goes on\n\n\ndn: cn=a\\, b,dc=x\r\nobjectClass: person\ncn:: YSwgYg==\ndescription: fol\n ded\n  twice\n# inside\nsn:  Spaced \nempty:\n\n" +
		"dn:: dWlkPcOkLGRjPXg=\nuid;lang-de: a\nuid: b"
	entries, err := ldif.Parse("t.ldif", strings.NewReader(text))
	if err != nil || len(entries) != 2 {
		t.Fatalf("Parse = %v, %v", entries, err)
	}
	a, b := entries[0], entries[1]
	if a.DN != `cn=a\, b,dc=x` || a.First("CN") != "a, b" || a.First("description") != "folded twice" || a.First("sn") != "Spaced " {
		t.Errorf("first entry = %+v", a)
	}
	if v := a.Values("empty"); len(v) != 1 || v[0] != "" {
		t.Errorf("an empty value = %q", v)
	}
	if b.DN != "uid=ä,dc=x" || len(b.Values("uid")) != 2 {
		t.Errorf("second entry = %+v", b)
	}
	if none, err := ldif.Parse("t.ldif", strings.NewReader("")); err != nil || len(none) != 0 {
		t.Errorf("an empty file = %v, %v", none, err)
	}
}

func TestParseMistakes(t *testing.T) {
	t.Parallel()
	const good = "dn: dc=x\nobjectClass: domain\n\n"
	for _, c := range []struct{ text, want string }{
		{"dn: dc=x\nno colon\n", `t.ldif:2: "no colon" is not "attribute: value"`},
		{good + "dn: cn=a,dc=x\nchangetype: modify\nreplace: mail\n", "t.ldif:5: \"changetype\": this is a change record"},
		{"dn: cn=a\ncn: a\n-\n", "t.ldif:3: \"-\": this is a change record"},
		{"dn: cn=a\njpegPhoto:< file:///etc/passwd\n", "t.ldif:2: jpegPhoto: values from URLs are not read"},
		{"dn: cn=a\ncn:: !!!\n", "t.ldif:2: cn: malformed base64"},
		{"cn: a\n", `t.ldif:1: an entry begins with its dn`},
		{"dn: alice\ncn: a\n", "t.ldif:1: malformed DN"},
		{"dn:\ncn: a\n", "t.ldif:1: the DN is empty"},
		{"dn:: //8=\ncn: a\n", "t.ldif:1: the DN is empty or not UTF-8"},
		{"dn: cn=a\n", `t.ldif:1: entry "cn=a" has no attributes`},
		{"dn: cn=a\ncn: a\ndn: cn=b\ncn: b\n", "t.ldif:3: a second dn"},
		{good + "dn: DC=X\nobjectClass: domain\n", `t.ldif:4: entry "DC=X" stands at line 1 already`},
		{" continued\n", "t.ldif:1: a line begins with a space"},
		{"version: 2\n", "t.ldif:1: LDIF version"},
		{"dn: cn=a\nc n: a\n", "t.ldif:2:"},
	} {
		entries, err := ldif.Parse("t.ldif", strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Parse(%q) = %v, %v; want an error with %q", c.text, entries, err, c.want)
		}
	}
	_, err := ldif.Parse("t.ldif", strings.NewReader("dn: cn=a\nbad\nworse\n\ncn: b\n"))
	if err == nil || strings.Count(err.Error(), "t.ldif:") != 3 {
		t.Errorf("three mistakes are reported as %v", err)
	}
	if _, err := ldif.Parse("t.ldif", strings.NewReader("dn: cn=a\n"+strings.Repeat("bad\n", 1000))); err == nil || strings.Count(err.Error(), "\n") > 25 {
		t.Errorf("a thousand mistakes are reported as %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("dn: uid=a,dc=x\nobjectClass: person\nuid: a\nmember: UID=B, DC=x\nuserPassword: x\n\ndn: dc=x\ndc: x\n"))
	f.Add([]byte("version: 1\ndn:: Y249YQ==\ncn:< file:///x\n\n#c\n d\n"))
	f.Add([]byte("dn: a=b\r\na: b\r\n c\r\n-\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := ldif.Parse("f", bytes.NewReader(text))
		if err != nil {
			if len(entries) > 0 {
				t.Fatal("a broken file gives entries")
			}
			return
		}
		tree := ldif.NewTree(entries)
		found, err := tree.Search(t.Context(), directory.Request{Filter: directory.And()})
		if err != nil || len(found) != len(entries) {
			t.Fatalf("%d of %d entries are found: %v", len(found), len(entries), err)
		}
		for _, e := range entries {
			e.Each(func(name string, values []string) {
				if name == "userpassword" {
					return
				}
				// What the index finds is what matching finds.
				f := directory.Equal(name, values[0])
				hits, err := tree.Search(t.Context(), directory.Request{Filter: f})
				if err != nil || len(hits) == 0 {
					t.Fatalf("%s finds nothing: %v", f, err)
				}
			})
		}
	})
}

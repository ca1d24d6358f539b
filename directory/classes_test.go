package directory_test

import (
	"slices"
	"testing"

	"github.com/postern-mail/postern/directory"
)

func TestParseClass(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text             string
		names, superiors []string
	}{
		{"( 2.16.840.1.113730.3.2.2 NAME 'inetOrgPerson' DESC 'RFC2798: Internet Organizational Person' SUP organizationalPerson STRUCTURAL MAY ( audio $ mail ) )",
			[]string{"inetOrgPerson"}, []string{"organizationalPerson"}},
		{"(1.2.3 NAME ('a' 'b') SUP ( top $ c $ d ) AUXILIARY MUST x )", []string{"a", "b"}, []string{"c", "d"}},
		{"( 1.2.3 NAME 'x' DESC 'SUP y' STRUCTURAL )", []string{"x"}, nil},
		{"( 1.2.3 DESC 'nameless' )", nil, nil},
		{"NAME", nil, nil}, {"( NAME ( 'open'", nil, nil}, {"", nil, nil},
	} {
		names, superiors := directory.ParseClass(c.text)
		if !slices.Equal(names, c.names) || !slices.Equal(superiors, c.superiors) {
			t.Errorf("%s\n names %q superiors %q, want %q and %q", c.text, names, superiors, c.names, c.superiors)
		}
	}
}

func TestClassesOfASiteAreCompleted(t *testing.T) {
	t.Parallel()
	classes := directory.Classes{"corpperson": {"inetOrgPerson"}, "inetorgperson": {"organizationalPerson"}, "loop": {"loop2"}, "loop2": {"loop"}}
	e := classes.Complete(directory.NewEntry("cn=x", map[string][]string{"objectClass": {"CorpPerson", "loop"}}))
	want := []string{"CorpPerson", "loop", "inetOrgPerson", "loop2", "organizationalPerson"}
	if got := e.Values("objectClass"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParseClass(f *testing.F) {
	f.Add("( 1.2.3 NAME ( 'a' 'b' ) DESC 'it''s' SUP ( c $ d ) MUST ( e $ f ) )")
	f.Add("(NAME'x'SUP y")
	f.Fuzz(func(t *testing.T, text string) {
		names, superiors := directory.ParseClass(text)
		if len(names) == 0 && len(superiors) > 0 {
			t.Errorf("superiors %q of a class without a name", superiors)
		}
	})
}

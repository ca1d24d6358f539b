package acl

import (
	"errors"
	"testing"
)

func TestRightsAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, plain, wire string }{
		{"", "", ""},
		{"lrs", "lrs", "lrs"},
		{"srl", "lrs", "lrs"},
		{"lrswipkxtea", "lrswipkxtea", "lrswipkxteacd"},
		{"lrswicda", "lrswikxtea", "lrswikxteacd"}, // a client of RFC 2086
		{"e", "e", "ed"},
		{"t", "t", "td"},
		{"k", "k", "kc"},
		{"x", "x", "xc"},
	} {
		r, err := Parse(row.in)
		if err != nil || r.String() != row.plain || r.Wire() != row.wire {
			t.Errorf("%q: %q, %q, %v; want %q, %q", row.in, r, r.Wire(), err, row.plain, row.wire)
		}
	}
	for _, bad := range []string{"0", "L", "lrz", "l r", "-l", "é"} {
		if _, err := Parse(bad); !errors.Is(err, ErrRight) {
			t.Errorf("%q is taken: %v", bad, err)
		}
	}
	if All.String() != letters {
		t.Errorf("all rights are %q", All)
	}
}

func TestIdentifiers(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"alice", "-alice", "alice@example.com", "anyone", "-anyone", "$staff", "-$staff", "Jürgen"} {
		if err := Check(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-", "--alice", "$", "-$", "a\x00b", "a\nb", "\xff", "u\u0308", string(make([]byte, 600))} {
		if Check(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestWhoMayDoWhat: the union of what is granted, less what is taken away.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	list := List{
		{"alice", All}, {"anyone", Lookup | Read}, {"-bob", Read}, {"$staff", Insert | Seen}, {"-$guests", Insert},
	}
	for _, row := range []struct {
		who  Who
		want string
	}{
		{Who{Account: "alice"}, "lrswipkxtea"},
		{Who{Account: "bob"}, "l"},
		{Who{Account: "carol"}, "lr"},
		{Who{Account: "carol", Groups: []string{"staff"}}, "lrsi"},
		{Who{Account: "bob", Groups: []string{"staff"}}, "lsi"},
		{Who{Account: "carol", Groups: []string{"staff", "guests"}}, "lrs"},
		{Who{Account: "staff"}, "lr"},
		{Who{Account: "$staff"}, "lr"},
	} {
		if got := list.For(row.who).String(); got != row.want {
			t.Errorf("%+v may %q, want %q", row.who, got, row.want)
		}
	}
	if got := (List{}).For(Who{Account: "alice"}); got != 0 {
		t.Errorf("an empty list grants %q", got)
	}
	if got := (List{{"authenticated", Read}}).For(Who{Account: "x"}); got != Read {
		t.Errorf("authenticated grants %q", got)
	}
}

func TestOwnLinesComeBeforeTheDefaults(t *testing.T) {
	t.Parallel()
	base := List{{"alice", All}, {"anyone", Lookup}}
	own := List{{"anyone", 0}, {"bob", Read}}
	all := own.Over(base)
	if len(all) != 3 || all[0] != (Grant{"alice", All}) || all[1] != (Grant{"anyone", 0}) || all[2] != (Grant{"bob", Read}) {
		t.Errorf("%v", all)
	}
	if len(own) != 2 || len(base) != 2 {
		t.Error("a list was changed in its place")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("lrswipkxtea")
	f.Add("cd")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(r.Wire()); err != nil || again&^All != 0 || again|r != again {
			t.Errorf("%q: %q becomes %q, %v", s, r, again, err)
		}
	})
}

package foreign

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/foreign/imap"
)

var someFlags = []string{`\Seen`, `\Flagged`, `\Deleted`, "$Work", "$Junk"}

func drawFlags(t *rapid.T, name string) []string {
	flags := rapid.SliceOfDistinct(rapid.SampledFrom(someFlags), func(s string) string { return s }).Draw(t, name)
	slices.Sort(flags)
	return flags
}

// apply is what a server does with a change.
func (c change) apply(flags []string) []string {
	out := union(flags, c.add)
	return slices.DeleteFunc(out, func(f string) bool { return slices.Contains(c.remove, f) })
}

// TestMerge holds what a merge does, on both sides, against what each side
// changed since the base.
func TestMerge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := drawFlags(t, "base")
		flags := [2][]string{drawFlags(t, "left"), drawFlags(t, "right")}
		cannot := rapid.SampledFrom(append([]string{""}, someFlags...)).Draw(t, "what the right side cannot keep")
		if slices.Contains(flags[Right], cannot) || slices.Contains(base, cannot) {
			cannot = ""
		}
		keeps := [2]func(string) bool{func(string) bool { return true }, func(f string) bool { return f != cannot }}
		agreed, todo := merge(base, flags, keeps)
		after := [2][]string{todo[Left].apply(flags[Left]), todo[Right].apply(flags[Right])}
		for _, f := range someFlags {
			was := slices.Contains(base, f)
			l, r := slices.Contains(flags[Left], f), slices.Contains(flags[Right], f)
			want := was
			if l != was || r != was {
				want = !was // somebody changed it, and nobody can have changed it to what it was
			}
			if f == cannot {
				if slices.Contains(after[Left], f) != l || slices.Contains(agreed, f) {
					t.Fatalf("%s, which the right side cannot keep, was taken from the left or agreed on", f)
				}
				continue
			}
			if slices.Contains(after[Left], f) != want || slices.Contains(after[Right], f) != want || slices.Contains(agreed, f) != want {
				t.Fatalf("%s: base %v left %v right %v became %v and %v, agreed %v", f, was, l, r, after[Left], after[Right], agreed)
			}
		}
		// Merged again, nothing is left to do.
		if again, todo := merge(agreed, after, keeps); !todo[Left].none() || !todo[Right].none() || !slices.Equal(again, agreed) {
			t.Fatalf("a second merge does %v", todo)
		}
	})
}

// TestMergeHistory lets both sides change flags again and again, with merges cut
// short between the sides: in the end both have what was changed last to each
// flag that only one side touched.
func TestMergeHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := func(string) bool { return true }
		var base []string
		var flags [2][]string
		touched := make(map[string]Side)
		last := make(map[string]bool)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0, 1:
				side := Side(rapid.IntRange(0, 1).Draw(t, "side"))
				f := rapid.SampledFrom(someFlags).Draw(t, "flag")
				if s, ok := touched[f]; ok && s != side {
					continue
				}
				touched[f] = side
				last[f] = !slices.Contains(flags[side], f)
				c := change{add: []string{f}}
				if !last[f] {
					c = change{remove: []string{f}}
				}
				flags[side] = c.apply(flags[side])
			case 2:
				agreed, todo := merge(base, flags, [2]func(string) bool{all, all})
				done := rapid.IntRange(0, 2).Draw(t, "sides done before the end")
				for _, s := range sides[:done] {
					flags[s] = todo[s].apply(flags[s])
				}
				if done == 2 {
					base = agreed
				} else {
					return // a cut, and whatever comes then, is TestCutAnywhere's
				}
			}
		}
		_, todo := merge(base, flags, [2]func(string) bool{all, all})
		for _, s := range sides {
			flags[s] = todo[s].apply(flags[s])
		}
		for f, want := range last {
			if slices.Contains(flags[Left], f) != want || slices.Contains(flags[Right], f) != want {
				t.Fatalf("%s: want %v, got %v", f, want, flags)
			}
		}
	})
}

// TestMatch: as many of a kind are paired as both sides have, whatever the order.
func TestMatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var faces [2][]face
		var kinds [2]map[int]int
		for _, s := range sides {
			kinds[s] = make(map[int]int)
			for i := range rapid.IntRange(0, 20).Draw(t, "messages") {
				kind := rapid.IntRange(0, 5).Draw(t, "kind")
				kinds[s][kind]++
				m := imap.Message{UID: uint32(i + 1), Size: int64(kind), Header: fmt.Sprintf("Message-ID: <%d@x>\r\n\r\n", kind)}
				m.Date = fmt.Sprintf("%2d-Jan-2026 10:00:00 +0000", 1+rapid.IntRange(0, 1).Draw(t, "day"))
				faces[s] = append(faces[s], faceOf(m))
			}
		}
		pairs, alone := match(faces[Left], faces[Right])
		got := make(map[fingerprint]int)
		for _, p := range pairs {
			l, r := faces[Left][p[0]], faces[Right][p[1]]
			if l.loose != r.loose {
				t.Fatalf("paired %+v with %+v", l, r)
			}
			got[l.loose]++
		}
		if len(pairs)+len(alone[Left]) != len(faces[Left]) || len(pairs)+len(alone[Right]) != len(faces[Right]) {
			t.Fatalf("%d pairs, %d and %d alone, of %d and %d", len(pairs), len(alone[Left]), len(alone[Right]), len(faces[Left]), len(faces[Right]))
		}
		want := 0
		for kind, n := range kinds[Left] {
			want += min(n, kinds[Right][kind])
		}
		if len(pairs) != want {
			t.Fatalf("%d pairs, want %d", len(pairs), want)
		}
	})
}

func TestMatchByID(t *testing.T) {
	t.Parallel()
	left := []face{{uid: 1, id: "a"}, {uid: 2, id: "b"}, {uid: 3}}
	right := []face{{uid: 7, id: "b"}, {uid: 8, id: "a", exact: fingerprint{1}, loose: fingerprint{2}}, {uid: 9, exact: fingerprint{3}, loose: fingerprint{4}}}
	pairs, alone := match(left, right)
	if want := [][2]int{{0, 1}, {1, 0}}; !slices.Equal(pairs, want) || !slices.Equal(alone[Left], []int{2}) || !slices.Equal(alone[Right], []int{2}) {
		t.Errorf("pairs %v, alone %v", pairs, alone)
	}
}

func TestFirstBaseKeepsWhatEitherHas(t *testing.T) {
	t.Parallel()
	flags := [2][]string{{`\Deleted`, `\Seen`}, {"$Work"}}
	agreed, _ := merge(firstBase(flags), flags, [2]func(string) bool{func(string) bool { return true }, func(string) bool { return true }})
	if want := []string{"$Work", `\Seen`}; !slices.Equal(agreed, want) {
		t.Errorf("%v, want %v", agreed, want)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	spaces := []space{{"", "/"}, {"", "."}, {"INBOX.", "."}, {"", ""}}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-z.& -]{1,5}(/[A-Za-z.]{1,5}){0,3}`).Draw(t, "name")
		for _, s := range spaces {
			raw, ok := s.raw(name)
			if !ok || strings.EqualFold(name, "INBOX") {
				continue
			}
			if back, ok := s.name(raw); !ok || back != name {
				t.Fatalf("%+v: %q became %q and then %q", s, name, raw, back)
			}
		}
	})
	for raw, want := range map[string]string{"INBOX": "INBOX", "INBOX.Sent": "Sent", "Other.x": "", "INBOX.a/b": "", "INBOX.INBOX": ""} {
		if name, _ := (space{"INBOX.", "."}).name(raw); name != want {
			t.Errorf("%q is %q, want %q", raw, name, want)
		}
	}
}

func TestExcluded(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"Trash": true, "Trash/2026": true, "Work": false, "Work/tmp": true, "Work/tmp/x": true} {
		if excluded([]string{"Trash", "*/tmp", "["}, name) != want {
			t.Errorf("%s: want %v", name, want)
		}
	}
}

func TestPairSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	for _, p := range []pair{
		{uid: [2]uint32{1, 1}},
		{uid: [2]uint32{1<<32 - 1, 1<<32 - 1}, id: [2]string{"left", "right"}, print: fingerprint{1, 2}, agreed: []string{"$Work", `\Seen`}},
	} {
		got, err := decodePair(p.uid[Left], p.encode())
		if err != nil || got.uid != p.uid || got.id != p.id || got.print != p.print || !slices.Equal(got.agreed, p.agreed) {
			t.Errorf("%+v became %+v, %v", p, got, err)
		}
	}
}

func FuzzDecodePair(f *testing.F) {
	f.Add(pair{uid: [2]uint32{1, 2}, id: [2]string{"a", ""}, agreed: []string{`\Seen`}}.encode())
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePair(7, b)
		if err != nil {
			return
		}
		again, err := decodePair(7, p.encode())
		if err != nil || again.uid != p.uid || !slices.Equal(again.agreed, p.agreed) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add("Message-ID: <a@b>\r\nSubject: x\r\n y\r\n\r\n")
	f.Add("no header")
	f.Fuzz(func(t *testing.T, header string) {
		m := imap.Message{UID: 1, Header: header, Date: " 1-Jan-2026 10:00:00 +0000"}
		other := m
		other.Date = " 1-Jan-2026 11:00:00 +0100" // the same instant
		if faceOf(m).exact != faceOf(other).exact {
			t.Error("the same message has two fingerprints")
		}
	})
}

func TestBehind(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"a": "b", "a\xff": "b", "ab": "ac"} {
		if got := string(behind([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

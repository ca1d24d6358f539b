package index_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/internal/testenv"
)

func idOf(n int) (id index.ID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

// person returns an entry as mail directories have them.
func person(n int) directory.Entry {
	uid := fmt.Sprintf("person%d", n)
	return directory.NewEntry(directory.DN("uid="+uid+",ou=People,dc=example,dc=com"), map[string][]string{
		"objectClass": {"top", "person", "organizationalPerson", "inetOrgPerson", "inetLocalMailRecipient"},
		"uid":         {uid}, "cn": {"Person Number " + uid}, "sn": {"Number"},
		"mail":             {uid + "@example.com", uid + ".alias@example.com"},
		"mailLocalAddress": {uid + "@mail.example.com"}, "mailHost": {"mail1.example.com"}, "mailQuota": {"1048576"},
	})
}

func search(t testing.TB, s directory.Searcher, req directory.Request) []string {
	t.Helper()
	found, err := s.Search(t.Context(), req)
	if err != nil {
		t.Fatalf("search %s below %q: %v", req.Filter, req.Base, err)
	}
	var names []string
	for _, e := range found {
		names = append(names, string(e.DN))
	}
	slices.Sort(names)
	return names
}

// TestSearchIsWhatLookingAtEachEntryGives compares the set after random changes
// with a plain list, for every kind of condition.
func TestSearchIsWhatLookingAtEachEntryGives(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	r := rand.New(rand.NewPCG(seed, 1))
	s, model := index.New(), map[index.ID]directory.Entry{}
	names := []string{"a", "B", "c d", `e\2cf`, `"quoted, comma"`, "g+cn=g", "ä"}
	tops := []string{"ou=One,dc=example", "OU=one, dc=example", "ou=two,dc=example", `ou=x\,y,dc=example`, "dc=example"}
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	key := func(e directory.Entry) string { return e.DN.Key() }
	change := func() {
		id := idOf(r.IntN(40))
		if r.IntN(4) == 0 {
			if _, ok := model[id]; s.Delete(id) != ok {
				t.Fatalf("delete of %x: the set and the model disagree", id)
			}
			delete(model, id)
			return
		}
		e := directory.NewEntry(directory.DN("cn="+pick(names)+","+pick(tops)), map[string][]string{
			"objectClass": {"top", pick([]string{"person", "group"})},
			"mail":        {fmt.Sprint(r.IntN(5), "@example.com"), fmt.Sprint(r.IntN(5), "@EXAMPLE.com")},
			"member":      {"cn=" + pick(names) + "," + pick(tops)}, "empty": {},
			"n": {fmt.Sprint(r.IntN(9))},
		})
		for other, have := range model {
			if other != id && key(have) == key(e) {
				delete(model, other)
			}
		}
		model[id] = e
		s.Put(id, e)
	}
	filters := []string{
		"(mail=1@example.com)", "(MAIL=2@EXAMPLE.COM)", "(&(objectClass=person)(mail=3@example.com))", "(|(mail=1@example.com)(n=4))",
		"(!(mail=1@example.com))", "(mail=*)", "(empty=*)", "(n>=5)", "(mail=1*)", "(member=CN=a, ou=one,dc=example)", "(nothing=x)", "(objectClass=GROUP)",
	}
	bases := []string{"", "dc=example", "ou=ONE,dc=example", `ou=x\2cy,dc=example`, "cn=a,ou=two,dc=example"}
	for round := range 300 {
		for range 5 {
			change()
		}
		if round == 150 {
			s = s.Clone()
		}
		f, err := directory.ParseFilter(filters[round%len(filters)])
		if err != nil {
			t.Fatal(err)
		}
		req := directory.Request{Base: directory.DN(bases[r.IntN(len(bases))]), Scope: directory.Scope(r.IntN(3)), Filter: f}
		var want []string
		exists := req.Base == ""
		for _, e := range model {
			exists = exists || e.DN.Under(req.Base)
			in := e.DN.Under(req.Base)
			if req.Scope == directory.ScopeOne {
				in = directory.ParentKey(key(e)) == req.Base.Key() && key(e) != req.Base.Key()
			} else if req.Scope == directory.ScopeBase {
				in = e.DN.Equal(req.Base)
			}
			if in && directory.Match(f, e) {
				want = append(want, string(e.DN))
			}
		}
		if _, err := s.Search(t.Context(), req); !exists {
			if err == nil {
				t.Fatalf("round %d: base %q does not exist and no error came", round, req.Base)
			}
			continue
		}
		slices.Sort(want)
		if got := search(t, s, req); !slices.Equal(got, want) {
			t.Fatalf("round %d: %s %s below %q\n got %q\nwant %q", round, req.Scope, f, req.Base, got, want)
		}
		if s.Len() != len(model) {
			t.Fatalf("round %d: %d entries, want %d", round, s.Len(), len(model))
		}
	}
	for id, want := range model {
		got, ok := s.Get(id)
		if !ok || got.DN != want.DN || !slices.Equal(got.Values("mail"), want.Values("mail")) {
			t.Errorf("%x came back as %q %q, want %q", id, got.DN, got.Values("mail"), want.DN)
		}
		if at, ok := s.Find(want.DN); !ok || at != id {
			t.Errorf("%q is found as %x, want %x", want.DN, at, id)
		}
		s.Delete(id)
	}
	if s.Len() != 0 || s.Octets() != 0 || s.HasBelow("dc=example") {
		t.Errorf("after all went %d entries and %d octets stay", s.Len(), s.Octets())
	}
}

func TestRenameKeepsTheIdentityAndFreesTheName(t *testing.T) {
	t.Parallel()
	s := index.New()
	s.Put(idOf(1), person(1))
	renamed := person(2)
	s.Put(idOf(1), renamed)
	s.Put(idOf(2), person(1)) // the name is given to somebody else
	all, _ := directory.ParseFilter("(objectClass=*)")
	got := search(t, s, directory.Request{Filter: all})
	want := []string{string(person(1).DN), string(renamed.DN)}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if e, _ := s.Get(idOf(1)); e.DN != renamed.DN {
		t.Errorf("the renamed entry is %q", e.DN)
	}
}

func TestAReaderNeverSeesHalfAnEntry(t *testing.T) {
	t.Parallel()
	s := index.New()
	f, _ := directory.ParseFilter("(mail=shared@example.com)")
	var running sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				found, err := s.Search(t.Context(), directory.Request{Filter: f})
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range found {
					if n := strings.TrimPrefix(e.First("n"), "v"); !slices.Equal(e.Values("copy"), []string{n, n}) {
						t.Errorf("%q with copies %q", n, e.Values("copy"))
					}
				}
			}
		})
	}
	for i := range 2000 {
		n := fmt.Sprint(i)
		s.Put(idOf(i%7), directory.NewEntry(directory.DN(fmt.Sprintf("cn=%d,ou=o%d,dc=example", i%7, i%3)), map[string][]string{
			"mail": {"shared@example.com"}, "n": {"v" + n}, "copy": {n, n},
		}))
		if i%5 == 0 {
			s.Delete(idOf((i + 3) % 7))
		}
	}
	close(stop)
	running.Wait()
}

// TestMemory keeps an entry with eight attributes below 1.2 KiB, index and all.
func TestMemory(t *testing.T) {
	const n = 20000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := index.New()
	for i := range n {
		s.Put(idOf(i), person(i))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (after.HeapAlloc - before.HeapAlloc) / n
	t.Logf("%d octets an entry, %d of them its text", each, s.Octets()/n)
	if each > 1200 {
		t.Errorf("an entry takes %d octets", each)
	}
	runtime.KeepAlive(s)
}

func BenchmarkLookup(b *testing.B) {
	s := index.New()
	for i := range 100000 {
		s.Put(idOf(i), person(i))
	}
	f := directory.And(directory.Equal("objectClass", "inetOrgPerson"), directory.Equal("mail", "person77777@example.com"))
	req := directory.Request{Base: "ou=people,dc=example,dc=com", Filter: f, Attributes: []string{"uid", "mail", "objectClass"}}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if found, err := s.Search(b.Context(), req); err != nil || len(found) != 1 {
				b.Errorf("%d found, %v", len(found), err)
			}
		}
	})
}

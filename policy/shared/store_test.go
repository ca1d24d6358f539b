package shared

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/memory"
)

func openOn(t *testing.T, disk *memory.Disk) *Store {
	t.Helper()
	kv, _ := disk.Open()
	return Open(t.Context(), kv, nil, hclog.NewNullLogger())
}

func text(t *testing.T, table *Table, key string) string {
	t.Helper()
	value, found := table.Get(key)
	if !found {
		return "-"
	}
	return string(value)
}

func inHours(n int) time.Time { return time.Now().Add(time.Duration(n) * time.Hour) }

func flush(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRestartKeepsTables(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := memory.NewDisk()
		s := openOn(t, disk)
		table := s.Table("a", TableConfig{})
		s.Table("b", TableConfig{}).Put("k", []byte("other table"), inHours(5))
		long := strings.Repeat("ä", 2000)
		table.Put("k", []byte("1"), inHours(5))
		table.Put("k", []byte("2"), inHours(5))
		table.Put(long, []byte("long"), inHours(5))
		table.Put("gone", []byte("x"), inHours(5))
		table.Put("short", []byte("x"), inHours(1))
		table.Put("empty", []byte{}, inHours(5))
		flush(t, s)
		if !table.Delete("gone") || table.Delete("gone") {
			t.Error("a key is not deleted once")
		}
		flush(t, s)
		node := s.Node()
		time.Sleep(2 * time.Hour)
		s = openOn(t, disk)
		table = s.Table("a", TableConfig{})
		if s.Node() != node {
			t.Error("the node has another number after a restart")
		}
		for key, want := range map[string]string{"k": "2", long: "long", "gone": "-", "short": "-", "empty": ""} {
			if got := text(t, table, key); got != want {
				t.Errorf("%.20s is %q after a restart, want %q", key, got, want)
			}
		}
		if got := text(t, s.Table("b", TableConfig{}), "k"); got != "other table" {
			t.Errorf("the other table has %q", got)
		}
	})
}

func TestACrashTakesTheLastSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := memory.NewDisk()
		s := openOn(t, disk)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		table := s.Table("a", TableConfig{})
		table.Put("old", []byte("1"), inHours(1))
		time.Sleep(1100 * time.Millisecond)
		table.Put("new", []byte("1"), inHours(1))
		cut := openOn(t, disk.Clone()).Table("a", TableConfig{})
		if text(t, cut, "old") != "1" || text(t, cut, "new") != "-" {
			t.Errorf("after a power cut old is %q and new is %q", text(t, cut, "old"), text(t, cut, "new"))
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got := text(t, openOn(t, disk).Table("a", TableConfig{}), "new"); got != "1" {
			t.Errorf("a stop in order lost what came last: %q", got)
		}
	})
}

// TestPowerCutAtEveryCommit cuts the power around each commit of a history: what
// comes back is a state that was, no older than the last flush that succeeded.
func TestPowerCutAtEveryCommit(t *testing.T) {
	t.Parallel()
	for cutAt := 1; cutAt < 12; cutAt++ {
		for _, how := range []memory.Fault{memory.CutBefore, memory.CutAfter, memory.UnknownLost, memory.UnknownWritten, memory.Full} {
			disk := memory.NewDisk()
			s := openOn(t, disk)
			disk.OnCommit(func(n int) memory.Fault {
				if n == cutAt {
					return how
				}
				return memory.None
			})
			table := s.Table("a", TableConfig{})
			flushed := -1
			for i := range 10 {
				table.Put("k", fmt.Append(nil, i), inHours(1))
				if s.Flush(t.Context()) == nil {
					flushed = i
				}
			}
			disk.OnCommit(nil)
			if how != memory.CutBefore && how != memory.CutAfter {
				flush(t, s)
			}
			got := text(t, openOn(t, disk).Table("a", TableConfig{}), "k")
			if flushed >= 0 && got != fmt.Sprint(flushed) && got != fmt.Sprint(flushed+1) {
				t.Errorf("fault %d at commit %d: %q came back, %d was flushed", how, cutAt, got, flushed)
			}
			if (how == memory.Full || how == memory.UnknownLost || how == memory.UnknownWritten) && got != "9" {
				t.Errorf("fault %d at commit %d passed, and %q came back", how, cutAt, got)
			}
		}
	}
}

func TestAStoreThatFailsStopsNothing(t *testing.T) {
	t.Parallel()
	disk := memory.NewDisk()
	s := openOn(t, disk)
	table := s.Table("a", TableConfig{})
	disk.SetFull(true)
	table.Put("k", []byte("1"), inHours(1))
	if err := s.Flush(t.Context()); !errors.Is(err, store.ErrFull) || !errors.Is(s.Failure(), store.ErrFull) {
		t.Errorf("flush says %v, and the state is %v", err, s.Failure())
	}
	if text(t, table, "k") != "1" {
		t.Error("what cannot be written is not even in memory")
	}
	disk.SetFull(false)
	flush(t, s)
	if s.Failure() != nil || text(t, openOn(t, disk).Table("a", TableConfig{}), "k") != "1" {
		t.Errorf("what was not written while the disk was full is not written after: %v", s.Failure())
	}

	down := errors.New("damaged")
	s = Open(t.Context(), nil, down, hclog.NewNullLogger())
	s.Table("a", TableConfig{}).Put("k", []byte("1"), inHours(1))
	if err := s.Flush(t.Context()); !errors.Is(err, down) || !errors.Is(s.Failure(), down) || text(t, s.Table("a", TableConfig{}), "k") != "1" {
		t.Errorf("without a store: %v, %v", err, s.Failure())
	}
}

func TestDamagedAndNewerRecordsAreDropped(t *testing.T) {
	t.Parallel()
	disk := memory.NewDisk()
	s := openOn(t, disk)
	s.Table("a", TableConfig{}).Put("good", []byte("1"), inHours(1))
	flush(t, s)
	disk.Put(append(tablePrefix("a"), "bad"...), []byte{formatVersion, 0xff})
	disk.Put(append(tablePrefix("a"), "newer"...), []byte{formatVersion + 1})
	ahead := record{stamp: stampAt(inHours(48)), expires: inHours(72).UnixMilli(), value: []byte("x")}
	disk.Put(append(tablePrefix("a"), "ahead"...), ahead.encode())
	old := record{expires: inHours(-1).UnixMilli(), value: []byte("x")}
	disk.Put(append(tablePrefix("unused"), "old"...), old.encode())
	s = openOn(t, disk)
	table := s.Table("a", TableConfig{})
	if got := table.Status().Entries; got != 1 || text(t, table, "good") != "1" {
		t.Errorf("%d entries were read", got)
	}
	flush(t, s)
	if err := s.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	kv, _ := disk.Open()
	left := 0
	if err := store.Scan(t.Context(), kv, []byte{tag, kindRecord}, []byte{tag, kindRecord + 1}, 10, func(store.Snapshot, []byte, []byte) error {
		left++
		return nil
	}); err != nil || left != 1 {
		t.Errorf("%d records are left: %v", left, err)
	}
}

func TestTablesAreBounded(t *testing.T) {
	t.Parallel()
	disk := memory.NewDisk()
	s := openOn(t, disk)
	table := s.Table("a", TableConfig{Entries: 100})
	table.Put("lasting", []byte("1"), inHours(100))
	for i := range 1000 {
		table.Put(fmt.Sprint("flood", i), []byte("x"), inHours(1).Add(time.Duration(i)*time.Second))
		if i%300 == 0 {
			flush(t, s)
		}
	}
	flush(t, s)
	st := table.Status()
	if st.Entries != 100 || st.Evicted != 901 || text(t, table, "lasting") != "1" || text(t, table, "flood999") != "x" || text(t, table, "flood0") != "-" {
		t.Errorf("after a flood: %+v", st)
	}
	if got := openOn(t, disk).Table("a", TableConfig{}).Status().Entries; got != 100 {
		t.Errorf("%d entries are on the disk", got)
	}
	s.Table("a", TableConfig{Entries: 10})
	if st := table.Status(); st.Entries != 10 || text(t, table, "lasting") != "1" {
		t.Errorf("with a lower bound: %+v", st)
	}
	table.Put("huge", make([]byte, MaxValue+1), inHours(1))
	if _, found := table.Get("huge"); found {
		t.Error("a value above the bound is kept")
	}
}

func TestEntriesEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := openOn(t, memory.NewDisk())
		table := s.Table("a", TableConfig{})
		table.Put("k", []byte("1"), inHours(1))
		table.Put("l", []byte("1"), inHours(2))
		time.Sleep(time.Hour)
		if text(t, table, "k") != "-" || text(t, table, "l") != "1" {
			t.Error("an entry does not end when it should")
		}
		table.Update("k", func(old []byte) ([]byte, time.Time) {
			if old != nil {
				t.Errorf("%q is seen after its end", old)
			}
			return nil, time.Time{}
		})
		var keys []string
		table.Range("", func(key string, _ []byte, _ time.Time) bool {
			keys = append(keys, key)
			return true
		})
		flush(t, s)
		if st := table.Status(); !slices.Equal(keys, []string{"l"}) || st.Entries != 1 {
			t.Errorf("%v are left, %+v", keys, st)
		}
	})
}

// TestJoinIsALattice: whoever hears of whatever in whatever order, all end up
// with the same.
func TestJoinIsALattice(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for name, merge := range map[string]Merge{"last writer": nil, "max": Max, "counts": mergeCounts} {
		for range 3000 {
			var all [3]record
			for i := range all {
				all[i] = record{epoch: random.Uint64N(3), stamp: random.Uint64N(4), expires: random.Int64N(3)}
				if random.IntN(3) > 0 {
					all[i].value = EncodeNumber(random.Uint64N(4))
				}
				if merge != nil && all[i].value != nil && name == "counts" {
					all[i].value = addCount(addCount(nil, random.Uint64N(3), random.Int64N(9)), random.Uint64N(3), random.Int64N(9)-4)
				}
			}
			a, b, c := all[0], all[1], all[2]
			ab, ba := join(merge, a, b), join(merge, b, a)
			if !ab.equal(ba) || !join(merge, a, a).equal(a) {
				t.Fatalf("%s: %v and %v make %v and %v", name, a, b, ab, ba)
			}
			if left, right := join(merge, ab, c), join(merge, a, join(merge, b, c)); !left.equal(right) {
				t.Fatalf("%s: %v, %v, %v make %v and %v", name, a, b, c, left, right)
			}
		}
	}
}

// TestCountersTellWhen: what Wait says comes true, and not much earlier.
func TestCountersTellWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openOn(t, memory.NewDisk()).Counters("sent", time.Hour, 0)
		time.Sleep(7 * time.Minute) // the slots are of 15
		if wait := c.Wait("alice", 0); wait != 0 {
			t.Errorf("nothing was counted, and it takes %v", wait)
		}
		c.Add("alice", 10)
		time.Sleep(20 * time.Minute)
		c.Add("alice", 30)
		if wait := c.Wait("alice", 40); wait != 0 {
			t.Errorf("40 are there, and to have them takes %v", wait)
		}
		for _, most := range []int64{39, 35, 30, 29, 15, 1, 0} {
			wait := c.Wait("alice", most)
			time.Sleep(wait - 2*time.Minute)
			before := c.Total("alice")
			time.Sleep(2 * time.Minute)
			after := c.Total("alice")
			if wait <= 0 || wait > 75*time.Minute || after > most || before <= most && most != 0 {
				t.Errorf("%d after %v: %d two minutes before, then %d", most, wait, before, after)
			}
			// As before, for the next one.
			c.Forget("alice")
			restart := 15*time.Minute - time.Duration(time.Now().UnixNano())%(15*time.Minute) + 7*time.Minute
			time.Sleep(restart)
			c.Add("alice", 10)
			time.Sleep(20 * time.Minute)
			c.Add("alice", 30)
		}
	})
}

func TestCountersSlide(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := memory.NewDisk()
		s := openOn(t, disk)
		c := s.Counters("sent", time.Hour, 0)
		c.Add("alice", 10)
		c.Add("alice", 5)
		c.Add("alice", -3)
		c.Add("bob", -7)
		c.Add("bob", 1)
		if a, b := c.Total("alice"), c.Total("bob"); a != 12 || b != 1 {
			t.Errorf("alice %d, bob %d", a, b)
		}
		flush(t, s)
		c = openOn(t, disk).Counters("sent", time.Hour, 0)
		if got := c.Total("alice"); got != 12 {
			t.Errorf("after a restart alice has %d", got)
		}
		commits := disk.Commits()
		brief := s.Counters("brief", time.Minute, 0)
		brief.Add("alice", 1)
		flush(t, s)
		if brief.Total("alice") != 1 || disk.Commits() != commits {
			t.Errorf("counts of a minute are written: %d commits more", disk.Commits()-commits)
		}
		time.Sleep(45 * time.Minute)
		c.Add("alice", 2)
		if got := c.Total("alice"); got != 14 {
			t.Errorf("after three quarters of the window alice has %d", got)
		}
		var keys []string
		c.Range("", func(key string, total int64) bool {
			keys = append(keys, fmt.Sprint(key, total))
			return true
		})
		if !slices.Equal(keys, []string{"alice14", "bob1"}) {
			t.Errorf("all: %v", keys)
		}
		time.Sleep(31 * time.Minute)
		if got := c.Total("alice"); got != 2 {
			t.Errorf("after the window alice has %d", got)
		}
		c.Forget("alice")
		if got := c.Total("alice"); got != 0 {
			t.Errorf("forgotten, alice has %d", got)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(record{1, 2, 3, []byte("x")}.encode())
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		if err != nil || !again.equal(r) {
			t.Errorf("%v is read as %v: %v", r, again, err)
		}
		if got := mergeCounts(r.value, r.value); string(mergeCounts(got, got)) != string(got) {
			t.Errorf("counts %x are not stable", r.value)
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	kv, _ := memory.NewDisk().Open()
	table := Open(b.Context(), kv, nil, hclog.NewNullLogger()).Table("a", TableConfig{})
	until, value := inHours(1), []byte("12345678")
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.Put(keys[i%len(keys)], value, until)
	}
}

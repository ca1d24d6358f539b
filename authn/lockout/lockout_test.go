package lockout

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

var testKey = make([]byte, KeyOctets)

// notices keeps what a Memory tells.
type notices struct {
	mu  sync.Mutex
	all []Notice
}

func (n *notices) add(one Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, one)
}

func (n *notices) of(what string) (found []Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, one := range n.all {
		if one.What == what {
			found = append(found, one)
		}
	}
	return found
}

func open(t *testing.T, cfg Config, kv store.Store) (*Memory, *notices) {
	t.Helper()
	told := &notices{}
	m, err := New(cfg, testKey, kv, told.add, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m, told
}

func from(address string) netip.Addr { return netip.MustParseAddr(address) }

// guess is one attempt with a wrong password; it reports whether it was asked
// about.
func guess(m *Memory, login, password, address string) bool {
	return attempt(m, Try{login, password, from(address)}, func(t Try) { m.Failed(t, Wrong, 0, time.Now()) })
}

// login is one attempt with the right password.
func login(m *Memory, name, address string) bool {
	return attempt(m, Try{name, "right", from(address)}, func(t Try) { m.Succeeded(t, true, time.Now()) })
}

func attempt(m *Memory, t Try, learn func(Try)) bool {
	if _, repeated := m.Repeated(t, time.Now()); repeated {
		return false
	}
	done, err := m.Admit(t, time.Now())
	if err != nil {
		if status.Of(err) != status.AuthTooMany {
			panic(err)
		}
		return false
	}
	defer done()
	learn(t)
	return true
}

func TestWaitsDoubleUpToTheLongest(t *testing.T) {
	t.Parallel()
	cfg := Config{Delay: time.Second, MaxDelay: time.Minute}
	for count, want := range map[uint64]time.Duration{
		0: 0, 3: 0, 4: time.Second, 5: 2 * time.Second, 9: 32 * time.Second, 10: time.Minute, 80: time.Minute, 1 << 62: time.Minute,
	} {
		if got := cfg.wait(count, 3); got != want {
			t.Errorf("after %d failures, 3 free: %v, want %v", count, got, want)
		}
	}
	if cfg.wait(1000, -1) != 0 {
		t.Error("a guard that is off has people wait")
	}
}

// TestDirectoryIsNeverLocked guesses without an end, from everywhere, and
// counts what a directory with that threshold and window would see.
func TestDirectoryIsNeverLocked(t *testing.T) {
	t.Parallel()
	for _, threshold := range []int{3, 5, 10} {
		synctest.Test(t, func(t *testing.T) {
			m, _ := open(t, Config{DirectoryThreshold: threshold, DirectoryWindow: 30 * time.Minute, SprayAccounts: -1}, nil)
			if !login(m, "alice", "198.51.100.1") {
				t.Fatal("the first login was held off")
			}
			var seen []time.Time
			for i := range 2000 {
				address := fmt.Sprintf("203.0.%d.%d", i%200, i%7)
				if i%3 == 0 {
					address = "198.51.100.9" // as if from where alice lives
				}
				if guess(m, "alice", fmt.Sprint("guess", i), address) {
					seen = append(seen, time.Now())
				}
				time.Sleep(17 * time.Second)
			}
			if len(seen) < threshold-2 {
				t.Errorf("threshold %d: only %d guesses went upstream", threshold, len(seen))
			}
			for i := threshold - 1; i < len(seen); i++ {
				if seen[i].Sub(seen[i-threshold+1]) < 30*time.Minute {
					t.Fatalf("threshold %d: %d failures within %v", threshold, threshold, seen[i].Sub(seen[i-threshold+1]))
				}
			}
		})
	}
}

// TestGoodClientsDoNotWaitForStrangers has thousands guess at an account while
// its owner goes on working, at home and after a new lease of the telephone.
func TestGoodClientsDoNotWaitForStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, told := open(t, Config{SprayAccounts: -1}, nil)
		if !login(m, "alice", "192.0.2.7") || !login(m, "alice", "2001:db8:1:200::7") {
			t.Fatal("the first login was held off")
		}
		for i := range 500 {
			guess(m, "alice", fmt.Sprint("guess", i), fmt.Sprintf("203.0.%d.%d", i/250, i%250))
			for _, home := range []string{"192.0.2.7", "192.0.2.99", "2001:db8:1:2ff::1"} {
				if !login(m, "alice", home) {
					t.Fatalf("alice was held off at %s after %d guesses of strangers", home, i)
				}
			}
			time.Sleep(time.Second)
		}
		if login(m, "alice", "198.51.100.1") {
			t.Error("a stranger with the right password did not have to wait: guessing goes on there")
		}
		if len(told.of("account")) == 0 {
			t.Error("nobody was told")
		}
		time.Sleep(2 * time.Hour)
		if !login(m, "alice", "198.51.100.1") {
			t.Error("held off long after the guessing ended")
		}
	})
}

// TestOldTelephone repeats one wrong password for a day: it counts once at a
// time and makes nobody wait.
func TestOldTelephone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := open(t, Config{}, nil)
		asked := 0
		for range 24 * 60 {
			if guess(m, "alice", "old", "192.0.2.7") {
				asked++
			}
			time.Sleep(time.Minute)
		}
		// 0, 15, 45, 105, 225, 465 and 945 minutes, and then 720 at most.
		if asked != 7 {
			t.Errorf("the old password went upstream %d times in a day, want 7", asked)
		}
		if !login(m, "alice", "192.0.2.7") {
			t.Error("the new password has to wait because of the old one")
		}
	})
}

func TestPasswordThatBecameRight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := open(t, Config{}, nil)
		old, next := VersionOf("pwdChangedTime=1;"), VersionOf("pwdChangedTime=2;")
		try := Try{"alice", "soon right", from("192.0.2.7")}
		m.Failed(try, Wrong, old, time.Now())
		for range 3 {
			if asOf, repeated := m.Repeated(try, time.Now()); !repeated || asOf != old || asOf == next {
				t.Errorf("repeated %v as of %v, want as of the version it was wrong for", repeated, asOf)
			}
			time.Sleep(3 * time.Hour) // while the version is known nobody asks again
		}
		m.Succeeded(try, true, time.Now())
		if _, repeated := m.Repeated(try, time.Now()); repeated {
			t.Error("a password that was right is remembered as wrong")
		}
		if VersionOf("") != 0 || VersionOf("a") == VersionOf("b") || VersionOf("a") == 0 {
			t.Error("versions are not told apart")
		}
	})
}

func TestSprayingFromOneSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, told := open(t, Config{SprayAccounts: 5}, nil)
		login(m, "zoe", "203.0.113.9")
		asked := 0
		for i := range 50 {
			if guess(m, fmt.Sprint("person", i), fmt.Sprint("Summer", i), "203.0.113.9") {
				asked++
			}
			time.Sleep(time.Second)
		}
		if asked != 5 || len(told.of("spraying source")) != 1 || m.Counts().SprayingSource != 1 {
			t.Errorf("%d accounts were asked about, told %v", asked, told.all)
		}
		if !login(m, "zoe", "203.0.113.9") {
			t.Error("somebody familiar there was held off with the attacker")
		}
		if !login(m, "yves", "203.0.113.10") {
			t.Error("a neighbour was held off")
		}
	})
}

func TestSprayingFromEverywhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, told := open(t, Config{SprayAccounts: 5}, nil)
		asked := 0
		for i := range 100 {
			if guess(m, fmt.Sprint("person", i), "Summer2026!", fmt.Sprintf("2001:db8:%x::1", i)) {
				asked++
			}
		}
		if asked != 5 || len(told.of("spraying password")) != 1 {
			t.Errorf("%d accounts were asked about, told %v", asked, told.all)
		}
		if !guess(m, "person99", "another", "2001:db8:63::1") {
			t.Error("another password is held off too")
		}
		time.Sleep(time.Hour)
		if !guess(m, "person98", "Summer2026!", "2001:db8:62::1") {
			t.Error("held off after the window")
		}
	})
}

// TestOfficeIsNoAttacker has many people behind one address mistype.
func TestOfficeIsNoAttacker(t *testing.T) {
	t.Parallel()
	m, told := open(t, Config{}, nil)
	const people = 300
	for i := range people {
		login(m, fmt.Sprint("person", i), "192.0.2.1")
	}
	for i := range people {
		if !guess(m, fmt.Sprint("person", i), fmt.Sprint("typo", i), "192.0.2.1") || !login(m, fmt.Sprint("person", i), "192.0.2.1") {
			t.Fatalf("person %d was held off", i)
		}
	}
	if len(told.all) > 0 {
		t.Errorf("told %v", told.all)
	}
}

func TestNetworksEscalate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := open(t, Config{NetworkFailures: 2, WideFailures: 6, SprayAccounts: -1}, nil)
		asked := 0
		for i := range 60 { // each address stays below its own bound
			if guess(m, fmt.Sprint("p", i), fmt.Sprint("x", i), fmt.Sprintf("2001:db8:0:%x::1", i)) {
				asked++
			}
		}
		if asked != 7 {
			t.Errorf("%d guesses of a /56 were asked about, want its 6 and the one that made it wait", asked)
		}
		if guess(m, "q", "x", "2001:db8:0:ff::1") || !guess(m, "q", "x", "2001:db8:0:100::1") {
			t.Error("the wider network ends at another place than /56")
		}
		if narrow(netip.Addr{}).IsValid() || narrow(from("::ffff:192.0.2.7")).String() != "192.0.2.7/32" || wide(from("192.0.2.7")).String() != "192.0.2.0/24" {
			t.Error("networks of addresses")
		}
		m, _ = open(t, Config{NetworkFailures: 1, SprayAccounts: 3, AllowNetworks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, nil)
		for i := range 30 {
			if !guess(m, fmt.Sprint("p", i), fmt.Sprint("x", i), "192.0.2.1") {
				t.Fatalf("an allowed network was held off after %d", i)
			}
		}
	})
}

func TestUnknownLoginsWaitLikeKnownOnes(t *testing.T) {
	t.Parallel()
	history := func(why Failure) (asked []bool) {
		synctest.Test(t, func(t *testing.T) {
			m, _ := open(t, Config{SprayAccounts: -1}, nil)
			for i := range 60 {
				try := Try{"alice", fmt.Sprint("x", i), from(fmt.Sprintf("203.0.113.%d", i))}
				asked = append(asked, attempt(m, try, func(t Try) { m.Failed(t, why, 0, time.Now()) }))
				time.Sleep(20 * time.Second)
			}
		})
		return asked
	}
	if known, unknown := history(Wrong), history(Unknown); !slices.Equal(known, unknown) || !slices.Contains(known, false) {
		t.Errorf("waiting tells whether a login exists:\n%v\n%v", known, unknown)
	}
}

func TestUnlock(t *testing.T) {
	t.Parallel()
	m, _ := open(t, Config{}, nil)
	block := func() {
		for i := range 20 {
			for _, who := range []string{"alice", "bob"} {
				guess(m, who, fmt.Sprint("x", i), fmt.Sprintf("203.0.113.%d", i))
				guess(m, who, fmt.Sprint("y", i), "192.0.2.1")
			}
		}
	}
	block()
	if login(m, "alice", "198.51.100.1") {
		t.Fatal("alice does not have to wait")
	}
	if n := m.Unlock(Filter{Login: "alice"}); n == 0 {
		t.Error("nothing was unlocked")
	}
	if !guess(m, "alice", "x0", "198.51.100.1") {
		t.Error("a wrong password is remembered after the unlock")
	}
	if login(m, "bob", "198.51.100.1") {
		t.Error("bob was unlocked with alice")
	}
	if rows, _ := m.Rows(Filter{Login: "bob", Waiting: true}, 10, time.Now()); len(rows) == 0 || rows[0].Until.IsZero() {
		t.Errorf("bob waits, and the rows are %+v", rows)
	}
	if n := m.Unlock(Filter{Network: netip.MustParsePrefix("192.0.2.0/24")}); n == 0 {
		t.Error("no network was unlocked")
	}
	if rows, _ := m.Rows(Filter{Network: netip.MustParsePrefix("192.0.2.1/32")}, 10, time.Now()); len(rows) != 0 {
		t.Errorf("left of the network: %+v", rows)
	}
	m.Unlock(Filter{})
	if rows, total := m.Rows(Filter{}, 10, time.Now()); len(rows) != 0 || total != 0 || !login(m, "bob", "198.51.100.1") {
		t.Errorf("left after all was unlocked: %+v", rows)
	}
}

// TestGuessesStayBounded has an attacker fill the tables; what matters
// of real accounts is not pushed out by logins that nobody has.
func TestManyGuessesStayBounded(t *testing.T) {
	t.Parallel()
	const bound = 1000
	m, _ := open(t, Config{Entries: bound, SprayAccounts: -1, NetworkFailures: -1, WideFailures: -1}, nil)
	for i := range 20 {
		guess(m, "alice", fmt.Sprint("x", i), fmt.Sprintf("203.0.113.%d", i))
	}
	now := time.Now()
	for i := range 30_000 {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		m.Failed(Try{"nobody" + fmt.Sprint(i), fmt.Sprint(i), address}, Unknown, 0, now)
	}
	for name, size := range m.Sizes() {
		if size > bound {
			t.Errorf("%s has %d entries, bound %d", name, size, bound)
		}
	}
	for _, table := range m.persisted() {
		if len(table.dirty) > 2*bound || len(table.entries) != table.order.Len() {
			t.Errorf("%d changes wait for the store, bound %d entries", len(table.dirty), bound)
		}
	}
	if login(m, "alice", "198.51.100.1") {
		t.Error("alice's failures were pushed out by logins that nobody has")
	}
}

func TestTableForgetsWhatWasTouchedLeast(t *testing.T) {
	t.Parallel()
	const bound = 1000
	table := newTable('x')
	for i := range 100_000 {
		table.touch(fmt.Sprint(i), bound).last = int64(i)
		table.touch("0", bound).last = int64(i)
	}
	if len(table.entries) != bound || len(table.dirty) != bound || table.get("0") == nil || table.get("99999") == nil || table.get("99000") != nil {
		t.Errorf("holds %d, %d changed; want the youngest %d and the one that is touched all the time", len(table.entries), len(table.dirty), bound)
	}
	if n := len(table.take(10)); n != 10 || len(table.dirty) != bound-10 {
		t.Errorf("took %d, %d are left", n, len(table.dirty))
	}
	table.expire(time.Millisecond, 100_000)
	if len(table.entries) != 0 || len(table.dirty) != 10 {
		t.Errorf("%d entries after all expired, %d to be deleted in the store, where 10 are", len(table.entries), len(table.dirty))
	}
}

func TestRace(t *testing.T) {
	t.Parallel()
	m, _ := open(t, Config{Entries: 50}, nil)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = m.Run(ctx) })
	for w := range 4 {
		all.Go(func() {
			for i := range 300 {
				who, address := fmt.Sprint("p", i%7), fmt.Sprintf("203.0.113.%d", (i+w)%250)
				guess(m, who, fmt.Sprint(i), address)
				login(m, who, address)
				m.Rows(Filter{}, 3, time.Now())
				m.Unlock(Filter{Login: who})
				_ = m.Check(who, from(address), time.Now())
				m.Strike(Try{who, "", from(address)}, i%2 == 0, time.Now())
				_ = m.Configure(Config{Entries: 40})
				m.Counts()
				m.Sizes()
			}
		})
	}
	time.AfterFunc(0, stop)
	all.Wait()
	if len(m.underWay) != 0 {
		t.Errorf("%d places are still taken", len(m.underWay))
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{{Entries: -1}, {Delay: time.Hour}, {SprayAccounts: maxSet + 1}, {Decay: -1}, {SprayWindow: -1}} {
		if _, err := New(cfg, testKey, nil, nil, hclog.NewNullLogger()); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
	if _, err := New(Config{}, testKey[:8], nil, nil, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "8 octets") {
		t.Errorf("a short key: %v", err)
	}
}

package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/imapd/sortkey"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

// storedSorts are commands whose answers need keys.
var storedSorts = []string{
	"SORT (SUBJECT) UTF-8 ALL", "SORT (REVERSE FROM DATE) UTF-8 ALL", "UID THREAD REFERENCES UTF-8 ALL", "UID SORT (DISPLAYFROM) UTF-8 20:90",
}

func answers(c *client) (got []string) {
	for _, command := range storedSorts {
		got = append(got, strings.Join(c.ok(command)[:1], "\n"))
	}
	return got
}

// aliceInbox opens alice's INBOX beside the server.
func aliceInbox(t *testing.T, st *mailstore.Store) *mailstore.Mailbox {
	t.Helper()
	account, err := st.Account(t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	box, err := account.Mailbox(t.Context(), inbox)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { box.Close(); account.Close() })
	return box
}

// TestStoredSortKeys: the answers are the same with keys that were stored, by a
// server that has none in memory, with keys that are missing, and with such as
// make no sense.
func TestStoredSortKeys(t *testing.T) {
	t.Parallel()
	st := openStore(t)
	s := startServerOn(t, testConfig(), st)
	c := s.login("alice")
	const n = 150
	for i := range n {
		k := i * 37 % n
		m := sortable{date: fmt.Sprintf("%d Jan 2001 10:00:00 +0000", 1+k%28), from: fmt.Sprintf("Person %d <p%d@example.com>", k%9, k%7), subject: fmt.Sprintf("Re: about %d", k/3), id: fmt.Sprintf("<%d@x>", i)}
		if i > 0 {
			m.references = fmt.Sprintf("<%d@x>", i*7%i)
		}
		m.add(c)
	}
	c.ok("SELECT INBOX")
	want := answers(c)
	c.ok("NOOP") // what was left for later is done

	box := aliceInbox(t, st)
	stored := func() (keys []mailstore.SortKey) {
		if err := box.SortKeys(t.Context(), sortkey.Made, 1, n, func(k mailstore.SortKey) error { keys = append(keys, k); return nil }); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	keys := stored()
	if len(keys) < 100 {
		t.Fatalf("%d keys are stored", len(keys))
	}
	again := func(what string) {
		t.Helper()
		c := startServerOn(t, testConfig(), st).login("alice")
		c.ok("SELECT INBOX")
		if got := answers(c); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		c.ok("NOOP")
	}
	again("stored keys")

	nonsense := slices.Clone(keys)
	for i := range nonsense {
		nonsense[i].Key = "no key"
	}
	if err := box.KeepSortKeys(t.Context(), sortkey.Made, nonsense); err != nil {
		t.Fatal(err)
	}
	again("keys that make no sense")
	if got := stored(); !slices.Equal(got, keys) {
		t.Error("the keys were not stored again")
	}
	if err := box.KeepSortKeys(t.Context(), sortkey.Made+" otherwise", nonsense); err != nil {
		t.Fatal(err)
	}
	again("keys that were made otherwise")

	// They are what is sorted by: with each other's keys the order differs.
	swapped := slices.Clone(keys)
	for i := range swapped {
		swapped[i].Key = keys[len(keys)-1-i].Key
	}
	if err := box.KeepSortKeys(t.Context(), sortkey.Made, swapped); err != nil {
		t.Fatal(err)
	}
	c = startServerOn(t, testConfig(), st).login("alice")
	c.ok("SELECT INBOX")
	if got := c.ok(storedSorts[0]); got[0] == want[0] {
		t.Error("stored keys are not used")
	}
}

// TestSortingIsBounded: what would take more memory than there is for sorting is
// refused, and nothing of it stays taken.
func TestSortingIsBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t, testConfig(), openStore(t))
	s.sorting.limit = 5000
	s.start()
	c := s.login("alice")
	for i := range 40 {
		sortable{subject: fmt.Sprintf("%d %s", i, strings.Repeat("x", 300))}.add(c)
	}
	c.ok("SELECT INBOX")
	for _, command := range []string{"SORT (SUBJECT) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL", "SORT (ARRIVAL SIZE ARRIVAL SIZE ARRIVAL SIZE ARRIVAL SIZE ARRIVAL SIZE ARRIVAL SIZE) UTF-8 ALL"} {
		c.fails(command, "NO [LIMIT]")
	}
	c.ok("SORT (SUBJECT) UTF-8 1:5")
	c.ok("SORT (ARRIVAL) UTF-8 ALL")
	c.ok("NOOP")
	if taken := s.sorting.taken.Load(); taken != 0 {
		t.Errorf("%d octets are taken for nothing", taken)
	}
}

// TestSmallSortBesideLarge: whoever sorts as much as may be leaves memory for
// those who sort a little.
func TestSmallSortBesideLarge(t *testing.T) {
	t.Parallel()
	s := sorting{limit: 64 << 10}
	large, err := s.take(0)
	for err == nil {
		err = large.more(512)
	}
	small, err := s.take(1 << 10)
	if err != nil {
		t.Errorf("beside a large one: %v", err)
	}
	if err := small.more(1); err == nil {
		t.Error("a share grew from what is kept for small ones")
	}
	small.end()
	large.end()
	if taken := s.taken.Load(); taken != 0 {
		t.Errorf("%d octets stay taken", taken)
	}
}

// TestKeyCacheKeepsOthers: keys that are too many to be kept do not drive out
// those of other mailboxes.
func TestKeyCacheKeepsOthers(t *testing.T) {
	t.Parallel()
	c := newKeyCache(1000)
	small, large := mailboxID{uidValidity: 1}, mailboxID{uidValidity: 2}
	c.put(small, &keyTable{octets: 400})
	c.put(large, &keyTable{octets: 500})
	c.put(large, &keyTable{octets: 1001})
	if got := c.get(small).octets; got != 400 {
		t.Errorf("of the other mailbox %d octets are kept", got)
	}
	if got := c.get(large).octets; got != 0 || c.octets != 400 || c.order.Len() != 1 {
		t.Errorf("%d octets of the large one, %d in all, %d tables", got, c.octets, c.order.Len())
	}
}

// TestKeysToStoreAreCounted: keys that are yet to be stored take of the memory for
// sorting after the command that made them, and give it back.
func TestKeysToStoreAreCounted(t *testing.T) {
	t.Parallel()
	server := &Server{sorting: sorting{limit: 1 << 20}}
	s := &session{server: server}
	fresh := &keyTable{}
	for uid := range imap.UID(storedWorth) {
		fresh.add(keyRow{uid: uid + 1})
	}
	for range 2 { // the second takes the place of the first
		held, err := server.sorting.take(1000)
		if err != nil {
			t.Fatal(err)
		}
		s.keepLater(&ground{}, fresh, fresh, &held)
		held.end()
		if taken := server.sorting.taken.Load(); s.later == nil || taken != 1000 {
			t.Errorf("%d octets are taken for what is to be stored", taken)
		}
	}
	s.laterShare.end()
	s.laterShare.end()
	if taken := server.sorting.taken.Load(); taken != 0 {
		t.Errorf("%d octets stay taken", taken)
	}
}

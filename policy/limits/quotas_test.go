package limits

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// book is QuotaCounters in which no time passes.
type book struct {
	mu sync.Mutex
	n  map[string]int64
}

func newBook() *book { return &book{n: make(map[string]int64)} }

func (b *book) Add(key string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n[key] += n
}

func (b *book) Total(key string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n[key]
}

func (b *book) Range(prefix string, each func(string, int64) bool) {
	b.mu.Lock()
	found := make(map[string]int64)
	for key, n := range b.n {
		if strings.HasPrefix(key, prefix) {
			found[key] = n
		}
	}
	b.mu.Unlock()
	for key, n := range found {
		if !each(key, n) {
			return
		}
	}
}

func (b *book) Forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.n, key)
}

func (b *book) Wait(key string, most int64) time.Duration {
	return time.Duration(b.Total(key)-most) * 10 * time.Minute
}

// staff are accounts with what the directory says of them.
type staff map[string]map[string][]string

func (s staff) AccountOf(_ context.Context, id mail.Identity) (mail.Account, error) {
	attributes, ok := s[id.Authentication]
	if id.Authentication == "gone" {
		return mail.Account{}, status.Errorf(status.NoSuchUser, "no such account")
	}
	if !ok {
		return mail.Account{}, status.Errorf(status.DirectoryDown, "no answer")
	}
	return mail.Account{Name: id.Authentication, Attributes: attributes}, nil
}

// daily is a quota of recipients per day.
func daily(name string, most int64) Quota {
	q := Quota{Name: name}
	q.Most[RecipientsDay] = most
	return q
}

func who(login string) mail.Identity { return mail.Identity{Authentication: login} }

// TestQuotaCounts: accepted recipients count, those of refused messages and
// those refused by others do not, and messages under way do while they are.
func TestQuotaCounts(t *testing.T) {
	t.Parallel()
	var notices []Notice
	ledger := NewLedger(newBook(), newBook(), func(n Notice) { notices = append(notices, n) })
	q := NewQuotas([]Quota{daily("everybody", 5)}, ledger, nil, nil)
	take := func(a *Allowance, n int) (taken int) {
		for range n {
			if a.Take() == nil {
				taken++
			}
		}
		return taken
	}
	begin := func() *Allowance { return q.Begin(t.Context(), who("alice")) }
	a := begin()
	if take(a, 3) != 3 {
		t.Fatal("refused within the quota")
	}
	b := begin()
	if n := take(b, 3); n != 2 {
		t.Errorf("%d beside three under way, of five", n)
	}
	a.Settle(false) // refused at the end of data
	a.Settle(true)  // too late
	if n := take(b, 5); n != 3 {
		t.Errorf("%d more after three were given back", n)
	}
	b.Return()
	b.Return()
	b.Settle(true)
	c := begin()
	if n := take(c, 9); n != 2 {
		t.Errorf("%d after three were sent", n)
	}
	err := c.Take()
	reply := status.ReplyOf(err)
	if reply.String() != "450 4.7.1 Error: sending quota exceeded: 5 recipients in 1 day; try again in 10 minutes" {
		t.Errorf("said %s", reply)
	}
	c.Settle(true)
	if len(notices) != 1 || notices[0] != (Notice{"alice", "everybody", RecipientsDay, 5}) {
		t.Errorf("notices %v", notices)
	}
	if used := ledger.Used("", 10); len(used) != 1 || used[0] != (Usage{"alice", [kinds]int64{2, 2, 5, 5}}) {
		t.Errorf("used %+v", used)
	}
	if len(ledger.pending) != 0 {
		t.Errorf("%d pending", len(ledger.pending))
	}
	if a := q.Begin(t.Context(), who("bob")); a.Take() != nil {
		t.Error("another account is held")
	}
	if first, again := ledger.Reset("alice"), ledger.Reset("alice"); !first || again {
		t.Error("reset tells wrong whether anything was counted")
	}
	if begin().Take() != nil {
		t.Error("held after a reset")
	}
}

// TestReturnedRecipients: a message of which every recipient was refused by
// others leaves nothing behind.
func TestReturnedRecipients(t *testing.T) {
	t.Parallel()
	ledger := NewLedger(newBook(), newBook(), func(Notice) {})
	quota := Quota{Name: "x"}
	quota.Most[MessagesHour] = 1
	q := NewQuotas([]Quota{quota}, ledger, nil, nil)
	a := q.Begin(t.Context(), who("alice"))
	for range 3 {
		if err := a.Take(); err != nil {
			t.Fatal(err)
		}
		a.Return()
	}
	a.Settle(true)
	if len(ledger.pending) != 0 || len(ledger.Used("", 1)) != 0 {
		t.Errorf("left %v, %v", ledger.pending, ledger.Used("", 1))
	}
	b := q.Begin(t.Context(), who("alice"))
	for range 2 {
		if err := b.Take(); err != nil {
			t.Errorf("the one message with two recipients: %v", err)
		}
	}
	b.Settle(true)
	if err := q.Begin(t.Context(), who("alice")).Take(); status.Of(err) != status.QuotaExceeded || !strings.Contains(status.ReplyOf(err).Text, "1 messages in 1 hour; try again in 10 minutes") {
		t.Errorf("the second message: %v", err)
	}
}

// clubs are groups with their members; the group down@ is of a directory that
// does not answer.
type clubs map[string][]string

func (c clubs) Belongs(_ context.Context, who mail.Poster, group mail.Address) (bool, error) {
	if group.Local == "down" {
		return false, status.Errorf(status.DirectoryDown, "no answer")
	}
	members, ok := c[group.String()]
	if !ok {
		return false, status.Errorf(status.NoSuchUser, "no such group")
	}
	return slices.Contains(members, who.Identity.Authentication), nil
}

func group(name string) []mail.Address {
	return []mail.Address{{Local: mail.LocalPart(name), Domain: "example.com"}}
}

// TestWhoseQuota: the first that fits, by attribute and group, and an account's
// own number; who cannot be told is put off.
func TestWhoseQuota(t *testing.T) {
	t.Parallel()
	people := staff{
		"alice": {"employeetype": {"Marketing"}}, "bob": {"memberof": {"cn=x"}, "maxmail": {"x", "7"}}, "carol": {}, "dave": {}, "erin": {"employeetype": {"marketing"}},
	}
	groups := clubs{"students@example.com": {"dave", "erin"}}
	students, marketing, members, all := daily("students", 20), daily("marketing", 1000), daily("members", 50), daily("everybody", 10)
	marketing.Attribute, marketing.Values = "employeeType", []string{"marketing"}
	members.Attribute, members.DayAttribute = "memberOf", "maxMail"
	students.Groups = group("students")
	all.Except = []string{"root"}
	both, unsure, mistaken := students, daily("unsure", 5), daily("mistaken", 5)
	both.Attribute = "employeeType"
	unsure.Groups = append(group("down"), group("students")...)
	mistaken.Groups = group("nobody")
	for name, row := range map[string]struct {
		quotas []Quota
		want   map[string]string
	}{
		"attributes": {[]Quota{marketing, members, all}, map[string]string{
			"alice": "marketing 1000", "bob": "members 7", "carol": "everybody 10", "gone": "everybody 10", "down": "451 4.4.3", "root": "451 4.4.3",
		}},
		"everybody":          {[]Quota{all}, map[string]string{"down": "everybody 10", "root": "none"}},
		"groups":             {[]Quota{students, all}, map[string]string{"dave": "students 20", "alice": "everybody 10", "down": "everybody 10"}},
		"group and another":  {[]Quota{both}, map[string]string{"erin": "students 20", "dave": "none", "alice": "none", "down": "451 4.4.3"}},
		"a group is missing": {[]Quota{unsure, all}, map[string]string{"dave": "unsure 5", "alice": "451 4.4.3"}},
		"not asked":          {[]Quota{all, unsure}, map[string]string{"alice": "everybody 10"}},
		"no such group":      {[]Quota{mistaken, all}, map[string]string{"alice": "451 4.3.5"}},
	} {
		q := NewQuotas(row.quotas, NewLedger(newBook(), newBook(), func(Notice) {}), people, groups)
		for login, want := range row.want {
			got := "none"
			switch a := q.Begin(t.Context(), who(login)); {
			case a == nil:
			case a.unknown != nil:
				reply := status.ReplyOf(a.Take())
				got = reply.String()[:len(want)]
				a.Return()
				a.Settle(true)
			default:
				got = fmt.Sprint(a.quota.Name, " ", a.quota.Most[RecipientsDay])
			}
			if got != want {
				t.Errorf("%s: %s has %s, want %s", name, login, got, want)
			}
		}
	}
	if (*Quotas)(nil).Begin(t.Context(), who("alice")) != nil {
		t.Error("no quotas, and an allowance")
	}
	var none *Allowance
	if none.Take() != nil || none.Held() {
		t.Error("no allowance, and held")
	}
	none.Return()
	none.Settle(true)
}

// TestComeBack: times as people say them, never too short.
func TestComeBack(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		0: "1 minute", time.Second: "1 minute", time.Minute + 1: "2 minutes", 90 * time.Minute: "90 minutes", 91 * time.Minute: "2 hours", 6 * time.Hour: "6 hours",
	} {
		if got := comeBack(wait); got != want {
			t.Errorf("%v: %s, want %s", wait, got, want)
		}
	}
}

// TestHoldBeyondQuota: nothing is refused, and the message is known to be beyond.
func TestHoldBeyondQuota(t *testing.T) {
	t.Parallel()
	quota := daily("everybody", 1)
	quota.Hold = true
	notices := 0
	ledger := NewLedger(newBook(), newBook(), func(Notice) { notices++ })
	q := NewQuotas([]Quota{quota}, ledger, nil, nil)
	for i, held := range []bool{false, true, true} {
		a := q.Begin(t.Context(), who("alice"))
		if err := a.Take(); err != nil || a.Held() != held {
			t.Errorf("message %d: held %t, %v", i, a.Held(), err)
		}
		a.Settle(true)
	}
	if notices != 1 || ledger.Over() != 2 {
		t.Errorf("%d notices, %d over", notices, ledger.Over())
	}
}

// TestQuotaHolds: many messages at once do not get more together than the quota.
func TestQuotaHolds(t *testing.T) {
	t.Parallel()
	ledger := NewLedger(newBook(), newBook(), func(Notice) {})
	q := NewQuotas([]Quota{daily("everybody", 100)}, ledger, nil, nil)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			a := q.Begin(context.Background(), who("alice"))
			for range 10 {
				if err := a.Take(); err != nil && !errors.As(err, new(*status.Error)) {
					t.Error(err)
				}
			}
			a.Settle(i%2 == 0)
		})
	}
	all.Wait()
	if n := ledger.sent("alice", RecipientsDay); n > 100 {
		t.Errorf("%d were sent of 100", n)
	}
	if len(ledger.pending) != 0 {
		t.Error("something is pending")
	}
}

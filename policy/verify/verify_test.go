package verify

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// memory is a Memory without bounds.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	until  map[string]time.Time
}

func newMemory() *memory {
	return &memory{values: make(map[string][]byte), until: make(map[string]time.Time)}
}

func (m *memory) Get(key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !time.Now().Before(m.until[key]) {
		return nil, false
	}
	return m.values[key], true
}

func (m *memory) Put(key string, value []byte, expires time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[key], m.until[key] = value, expires
}

// hop is a next hop that answers as it is told to.
type hop struct {
	mu    sync.Mutex
	asked int
	takes time.Duration
	reply status.Reply
	class mail.OutcomeClass
	peer  bool
}

func (h *hop) probe(ctx context.Context, to mail.Address) mail.Outcome {
	h.mu.Lock()
	h.asked++
	o := mail.Outcome{Recipient: to, Class: h.class, Reply: h.reply, FromPeer: h.peer}
	takes := h.takes
	h.mu.Unlock()
	select {
	case <-time.After(takes):
		return o
	case <-ctx.Done():
		return mail.Outcome{Recipient: to, Class: mail.Deferred, Reply: status.ConnectionLost.Reply()}
	}
}

func (h *hop) says(class mail.OutcomeClass, peer bool, reply status.Reply) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.class, h.peer, h.reply = class, peer, reply
}

func (h *hop) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

var (
	taken   = status.Reply{Code: 250, Enhanced: [3]int{2, 1, 5}, Text: "Ok"}
	refused = status.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "No such user"}
	putOff  = status.Reply{Code: 450, Enhanced: [3]int{4, 2, 0}, Text: "Greylisted"}
)

func newStage(t *testing.T, v *Verifier, name string, args map[string][]string) policy.Stage {
	t.Helper()
	s, err := v.Stages()[name](policy.Spec{Name: name, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func evaluate(t *testing.T, s policy.Stage) string {
	t.Helper()
	tx := &mail.Transaction{Phase: mail.PhaseRecipient, Envelope: mail.Envelope{ReversePath: mail.MustAddress("Who@There.example")}, Recipient: &mail.Recipient{Address: mail.MustAddress("Who@There.example")}}
	v, err := s.Evaluate(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	if v.Action == mail.Dunno {
		return "ok"
	}
	return v.Action.String() + " " + v.WireReply().String()
}

// TestRows holds the answers of both restrictions against what the next hop
// says, with the operator's codes.
func TestRows(t *testing.T) {
	t.Parallel()
	const said = "the next hop said: 550 5.1.1 No such user (in reply to RCPT TO command)"
	for _, tt := range []struct {
		class mail.OutcomeClass
		peer  bool
		reply status.Reply
		args  map[string][]string
		want  string // with CODE, SUBJECT
	}{
		{mail.Delivered, true, taken, nil, "ok"},
		{mail.Bounced, true, refused, nil, "defer_if_permit 450 4.1.N SUBJECT rejected: unverified address: " + said},
		{mail.Bounced, true, refused, map[string][]string{"code": {"550"}}, "reject 550 5.1.N SUBJECT rejected: undeliverable address: " + said},
		{mail.Bounced, true, refused, map[string][]string{"code": {"550"}, "reason": {"Unknown here"}}, "reject 550 5.1.N SUBJECT rejected: undeliverable address: Unknown here"},
		{mail.Bounced, true, refused, map[string][]string{"code": {"250"}}, "ok"},
		{mail.Deferred, true, putOff, map[string][]string{"code": {"550"}}, "defer_if_permit 450 4.1.N SUBJECT rejected: unverified address: the next hop said: 450 4.2.0 Greylisted (in reply to RCPT TO command)"},
		{mail.Deferred, false, status.ConnectionFailed.Reply(), map[string][]string{"code": {"550"}}, "defer_if_permit 450 4.1.N SUBJECT rejected: unverified address: Connection failed"},
		{mail.Deferred, false, status.ConnectionFailed.Reply(), map[string][]string{"tempfail_action": {"defer"}, "defer_code": {"451"}}, "reject 451 4.1.N SUBJECT rejected: unverified address: Connection failed"},
		{mail.Deferred, false, status.ConnectionFailed.Reply(), map[string][]string{"defer_code": {"250"}}, "ok"},
	} {
		for name, subject := range map[string][2]string{
			Sender: {"7", "<Who@there.example>: Sender address"}, Recipient: {"1", "<Who@there.example>: Recipient address"},
		} {
			h := &hop{class: tt.class, peer: tt.peer, reply: tt.reply}
			v, err := New(Config{}, newMemory(), h.probe, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(strings.Replace(tt.want, "1.N", "1."+subject[0], 1), "SUBJECT", subject[1], 1)
			if got := evaluate(t, newStage(t, v, name, tt.args)); !strings.EqualFold(got, want) {
				t.Errorf("%s: %s\nwant %s", name, got, want)
			}
		}
	}
}

// TestMemory goes through the times of what is remembered.
func TestMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hop{class: mail.Delivered, peer: true, reply: taken}
		v, _ := New(Config{}, newMemory(), h.probe, nil)
		s := newStage(t, v, Recipient, map[string][]string{"code": {"550"}})
		step := func(what string, after time.Duration, want string, asked int) {
			t.Helper()
			time.Sleep(after)
			got := evaluate(t, s)
			synctest.Wait()
			if !strings.HasPrefix(got, want) || h.count() != asked {
				t.Errorf("%s: %s, asked %d times; want %s, %d", what, got, h.count(), want, asked)
			}
		}
		step("first", 0, "ok", 1)
		step("remembered", 6*24*time.Hour, "ok", 1)
		h.says(mail.Bounced, true, refused)
		step("refreshed behind the back", 2*24*time.Hour, "ok", 2)
		step("a success outlives a failure", time.Hour, "ok", 2)
		step("tried again", 3*time.Hour, "ok", 3)
		step("expired", 31*24*time.Hour, "reject 550", 4)
		step("negative", 2*time.Hour, "reject 550", 4)
		h.says(mail.Delivered, true, taken)
		step("refreshed", 2*time.Hour, "reject 550", 5)
		step("found again", time.Second, "ok", 5)
	})
}

// TestSlowHop: the client waits no longer than it may, one probe runs for all
// who ask, and its answer is there afterwards.
func TestSlowHop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hop{class: mail.Delivered, peer: true, reply: taken, takes: time.Minute}
		v, _ := New(Config{}, newMemory(), h.probe, nil)
		s := newStage(t, v, Sender, map[string][]string{"code": {"550"}})
		began := time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if got := evaluate(t, s); got != "defer_if_permit 450 4.1.7 <Who@there.example>: Sender address rejected: unverified address: Address verification in progress" {
					t.Error(got)
				}
			})
		}
		all.Wait()
		if waited := time.Since(began); waited != 6*time.Second || h.count() != 1 {
			t.Errorf("waited %s, asked %d times", waited, h.count())
		}
		time.Sleep(time.Minute)
		if got := evaluate(t, s); got != "ok" || h.count() != 1 {
			t.Errorf("%s, asked %d times", got, h.count())
		}
		// A hop that never answers is given up.
		h.mu.Lock()
		h.takes = 24 * time.Hour
		h.mu.Unlock()
		v.begin("x@y.example", mail.MustAddress("x@y.example"))
		time.Sleep(probeTimeout)
		synctest.Wait()
		if r, _ := v.remembered("x@y.example", time.Now()); r.State != doubtful {
			t.Errorf("%+v", r)
		}
	})
}

// TestProbesAreBounded: who finds no room is put off, and nothing piles up.
func TestProbesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &hop{takes: time.Second}
		v, _ := New(Config{MaxProbes: 2}, newMemory(), h.probe, nil)
		started := 0
		for i := range 10 {
			a := mail.MustAddress(fmt.Sprintf("a%d@b.example", i))
			if v.begin(a.String(), a) != nil {
				started++
			}
		}
		if started != 2 {
			t.Errorf("%d probes", started)
		}
		if r := v.look(t.Context(), mail.MustAddress("z@b.example")); r.State != pending {
			t.Errorf("%+v", r)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(v.flights) != 0 || len(v.slots) != 0 {
			t.Error("probes were left")
		}
	})
}

// TestBadMemory: what is no record is none.
func TestBadMemory(t *testing.T) {
	t.Parallel()
	h := &hop{class: mail.Delivered, peer: true, reply: taken}
	for _, junk := range []string{"", "{", `{"state":99}`, `{"state":0}`, "null"} {
		m := newMemory()
		m.Put("who@there.example", []byte(junk), time.Now().Add(time.Hour))
		v, _ := New(Config{}, m, h.probe, nil)
		if got := evaluate(t, newStage(t, v, Recipient, nil)); got != "ok" {
			t.Errorf("%q: %s", junk, got)
		}
	}
}

// TestAttributes refuses what does not make sense: no outage is permanent.
func TestAttributes(t *testing.T) {
	t.Parallel()
	v, _ := New(Config{}, newMemory(), nil, nil)
	for _, args := range []map[string][]string{
		{"defer_code": {"550"}}, {"code": {"354"}}, {"code": {"x"}}, {"tempfail_action": {"reject"}}, {"nosuch": {"x"}},
	} {
		if _, err := v.Stages()[Sender](policy.Spec{Name: Sender, Args: args}); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

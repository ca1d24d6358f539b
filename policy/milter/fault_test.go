package milter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// faults are filters out of their minds: at each of these the session's on_error
// decides, and nothing is edited.
func faults() map[string]*filter {
	half := "raw:\x00\x00\x00\x20hX-Half"
	at := func(command byte, replies ...string) *filter {
		return &filter{options: agree(6, allActions, 0), says: map[byte][][]string{command: {replies, replies, replies}}}
	}
	flood := append(slices.Repeat([]string{say('h', "X-Flood\x001\x00")}, maxEdits+1), "c")
	large := append(slices.Repeat([]string{say('h', "X-Large\x00"+strings.Repeat("x", 60_000)+"\x00")}, 20), "c")
	body := append(slices.Repeat([]string{say('b', strings.Repeat("x", 60_000))}, 20), "c")
	f := map[string]*filter{
		"options refused":              {options: func([]byte) []byte { return nil }},
		"options cut short":            {options: func([]byte) []byte { return []byte("\x00\x00") }},
		"a version too new":            {options: agree(7, 0, 0)},
		"a version too old":            {options: agree(1, 0, 0)},
		"unknown steps":                {options: agree(6, 0, 1<<25)},
		"unknown actions":              {options: agree(6, 1<<20, 0)},
		"macros of an unknown stage":   {options: agree(6, 0, 0, "\x00\x00\x00\x30j\x00")},
		"half an edit":                 at(cmdEOM, say('h', "X-A\x001\x00"), half),
		"an edit and an end":           {options: agree(6, allActions, 0), says: map[byte][][]string{cmdEOM: {{say('h', "X-A\x001\x00"), "raw:\x00"}}}},
		"a packet of nothing":          at(cmdEOM, "raw:\x00\x00\x00\x00"),
		"a packet of 4 GiB":            at(cmdEOM, "raw:\xff\xff\xff\xffb"),
		"junk":                         at(cmdMail, "raw:220 mail.example ESMTP\r\n"),
		"an unknown reply":             at(cmdMail, "Z"),
		"an edit out of place":         at(cmdRcpt, say('h', "X-A\x001\x00"), "c"),
		"an edit in the body":          at(cmdBody, say('+', "<x@example.com>\x00"), "c"),
		"a flood of edits":             at(cmdEOM, flood...),
		"a flood of text":              at(cmdEOM, large...),
		"a flood of body":              at(cmdEOM, body...),
		"progress forever":             at(cmdMail, slices.Repeat([]string{"p"}, 1000)...),
		"a reply that is positive":     at(cmdEOM, "y250 2.0.0 ok\x00"),
		"a reply that is none":         at(cmdEOM, "yno\x00"),
		"discard before any message":   at(cmdHelo, "d"),
		"skip out of place":            at(cmdHeader, "s"),
		"skip not agreed":              at(cmdBody, "s"),
		"skip at the end":              at(cmdEOM, "s"),
		"no name of a field":           at(cmdEOM, say('h', "\x00\x00"), "c"),
		"a field in a name":            at(cmdEOM, say('h', "X-A: 1\nX-B\x001\x00"), "c"),
		"an edit of nothing":           at(cmdEOM, "h", "c"),
		"an index cut short":           at(cmdEOM, "i\x00", "c"),
		"no address":                   at(cmdEOM, say('+', "<a b c>\x00"), "c"),
		"a recipient that is nobody":   at(cmdEOM, say('+', "<>\x00"), "c"),
		"edits it did not ask for":     {options: agree(6, actAddHeaders, 0), says: map[byte][][]string{cmdEOM: {{say('-', "<b@example.com>\x00"), "c"}, {say('-', "<b@example.com>\x00"), "c"}}}},
		"quarantine it didn't ask for": {options: agree(6, 0, 0), says: map[byte][][]string{cmdEOM: {{say('q', "x\x00"), "c"}, {say('q', "x\x00"), "c"}}}},
	}
	for _, command := range []byte("CHMRTLNBE") {
		f["silent at "+string(command)] = &filter{silent: string(command)}
		f["closes at "+string(command)] = at(command)
		f["closes at "+string(command)].says[command] = [][]string{nil, nil, nil}
		f["half a packet at "+string(command)] = at(command, "raw:\x00\x00\x00\x09")
	}
	return f
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name := range faults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, onError := range []OnError{Accept, TempFail, Hold, Shutdown} {
				f := newFilter(t, faults()[name])
				m := f.milter(func(c *Config) {
					c.OnError, c.CommandTimeout, c.ContentTimeout, c.MaxBody = onError, 50*time.Millisecond, 50*time.Millisecond, 1<<20
				})
				d := m.dialogue(t)
				d.all()
				expectFault(t, onError, d)
			}
		})
	}
}

// expectFault looks at what a session's verdicts led to.
func expectFault(t *testing.T, onError OnError, d *dialogue) {
	t.Helper()
	var held bool
	var refusal *mail.Verdict
	var detail string
	for _, v := range d.verdicts {
		if v.Detail != "" {
			detail = v.Detail
		}
		held = held || v.Action == mail.Hold
		if v.Action == mail.Reject && refusal == nil {
			refusal = &v
		}
		if len(v.Edits) > 0 {
			t.Errorf("%s: edits of a filter that failed: %+v", onError, v.Edits)
		}
	}
	want := map[OnError]string{TempFail: "451 4.7.1 Service unavailable - try again later", Shutdown: "421 4.7.0 Service unavailable - try again later"}[onError]
	got := ""
	if refusal != nil {
		got = refusal.WireReply().String()
	}
	if got != want || held != (onError == Hold) || !strings.Contains(detail, "milter test") {
		t.Errorf("%s: refused by %q, held %v, detail %q", onError, got, held, detail)
	}
}

// A filter that only hangs up behind its back does no harm.
func TestFilterDown(t *testing.T) {
	t.Parallel()
	for _, onError := range []OnError{Accept, TempFail, Hold, Shutdown} {
		m, err := New(Config{Name: "test", Network: "unix", Address: testenv.TempDir(t) + "/none", OnError: onError}, hclog.NewNullLogger(), nil)
		if err != nil {
			t.Fatal(err)
		}
		d := m.dialogue(t)
		d.all()
		expectFault(t, onError, d)
	}
}

// Where the restriction has an on_error of its own, the chain is told.
func TestErrorsForTheChain(t *testing.T) {
	t.Parallel()
	m, err := New(Config{Name: "test", Network: "unix", Address: testenv.TempDir(t) + "/none", OnError: Accept}, hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := m.Stage(true).Attend()
	defer a.Close()
	tx := mail.Transaction{Client: client()}
	for _, phase := range []mail.Phase{mail.PhaseConnect, mail.PhaseHelo, mail.PhaseMail, mail.PhaseRecipient} {
		tx.Phase = phase
		v, err := a.Step(context.Background(), &tx)
		if want := phase >= mail.PhaseMail; (err != nil) != want || v.Action != mail.Dunno || want && status.Of(err) != status.FilterDown {
			t.Errorf("%v: %+v, %v", phase, v, err)
		}
	}
}

// A failure at one message is forgotten at the next, on another connection.
func TestNextMessageAfterAFailure(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{says: map[byte][][]string{cmdEOM: {nil}}})
	m := f.milter(nil)
	d := m.dialogue(t)
	if v := d.all(); v.Reason != status.FilterDown {
		t.Fatalf("verdict %+v", v)
	}
	d.a.Abort()
	if v := d.transaction(); v.Action != mail.Dunno || v.Detail != "" || f.dialled() != 2 {
		t.Errorf("verdict %+v on connection %d", v, f.dialled())
	}
}

// A message that cannot be read is our trouble: nothing is held against the filter.
func TestUnreadableMessage(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	m := f.milter(func(c *Config) { c.OnError = Accept })
	d := m.dialogue(t)
	d.message.read = errors.New("disk gone")
	d.step(mail.PhaseMail)
	d.tx.Phase, d.tx.Message = mail.PhaseEndOfData, d.message
	v, err := d.a.Content(context.Background(), &d.tx)
	if status.Of(err) != status.StoreDown || v.Action != mail.Dunno {
		t.Errorf("verdict %+v, %v", v, err)
	}
	if m.breaker.Failures() != 0 {
		t.Error("the filter is blamed")
	}
}

// Connections are used again, and one that ended meanwhile is replaced without
// anybody noticing.
func TestReuse(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	m := f.milter(nil)
	for range 3 {
		d := m.dialogue(t)
		if v := d.all(); v.Detail != "" {
			t.Fatalf("verdict %+v", v)
		}
		d.a.Close()
	}
	if f.dialled() != 1 {
		t.Errorf("%d connections", f.dialled())
	}
	m.mu.Lock()
	idle := m.idle[0]
	m.mu.Unlock()
	// The filter is gone without the client having been told yet.
	if err := idle.net.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if idle.fresh() {
			return errors.New("the connection seems alive")
		}
		return nil
	})
	d := m.dialogue(t)
	if v := d.all(); v.Detail != "" || v.Action != mail.Dunno || f.dialled() != 2 {
		t.Errorf("verdict %+v on connection %d", v, f.dialled())
	}
}

// A filter that ends a connection at the first thing it hears of the next
// session is asked again on a new one.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{says: map[byte][][]string{cmdConnect: {{"c"}, nil}}})
	m := f.milter(nil)
	d := m.dialogue(t)
	d.all()
	d.a.Close()
	d = m.dialogue(t)
	if v := d.all(); v.Detail != "" || v.Action != mail.Dunno || f.dialled() != 2 {
		t.Errorf("verdict %+v on connection %d", v, f.dialled())
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	m := f.milter(func(c *Config) { c.MaxIdle = 2 })
	var all []*dialogue
	for range 5 {
		d := m.dialogue(t)
		d.all()
		all = append(all, d)
	}
	for _, d := range all {
		d.a.Close()
	}
	m.mu.Lock()
	idle := len(m.idle)
	m.mu.Unlock()
	if idle != 2 {
		t.Errorf("%d are kept", idle)
	}
	m.closeIdle(time.Now().Add(time.Hour), false)
	if m.takeIdle() != nil {
		t.Error("old ones are kept")
	}
}

// Filters that do without connection and HELO are not troubled by sessions
// without mail, once that is known.
func TestSessionsWithoutMail(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{options: agree(6, allActions, noConnect|noHelo)})
	m := f.milter(func(c *Config) { c.MaxIdle = 0 })
	d := m.dialogue(t)
	d.all()
	d.a.Close()
	for range 3 {
		d := m.dialogue(t)
		d.step(mail.PhaseConnect)
		d.step(mail.PhaseHelo)
		d.a.Close()
	}
	if f.dialled() != 1 {
		t.Errorf("%d connections", f.dialled())
	}
	d = m.dialogue(t)
	if d.all(); f.dialled() != 2 || !slices.ContainsFunc(f.all()[1:], func(s string) bool { return strings.HasPrefix(s, "D C") }) {
		t.Errorf("heard %q", f.all())
	}
}

// One line when a filter goes down, one when it is back; meanwhile it is left
// alone.
func TestOneLineForEachChange(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	log := hclog.New(&hclog.LoggerOptions{Output: &lines, Level: hclog.Info})
	registry := prometheus.NewRegistry()
	address := testenv.TempDir(t) + "/f"
	m, err := New(Config{Name: "test", Network: "unix", Address: address, OnError: Accept}, log, registry)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		d := m.dialogue(t)
		d.all()
		d.a.Close()
	}
	if n := strings.Count(lines.String(), "\n"); n != 1 || !strings.Contains(lines.String(), "milter is down") {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
	if got := gauge(t, registry, "gateway_milter_up"); got != 0 {
		t.Errorf("gateway_milter_up is %v", got)
	}
	m.breaker.Resume()
	f := newFilter(t, &filter{})
	m.cfg.Address = f.address
	for range 3 {
		d := m.dialogue(t)
		d.all()
		d.a.Close()
	}
	if n := strings.Count(lines.String(), "\n"); n != 2 || !strings.Contains(lines.String(), "milter is back") {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
	if got := gauge(t, registry, "gateway_milter_up"); got != 1 {
		t.Errorf("gateway_milter_up is %v", got)
	}
	m.closeIdle(time.Time{}, true)
	if got := gauge(t, registry, "gateway_milter_connections"); got != 0 {
		t.Errorf("%v connections are left", got)
	}
}

func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// anywhere is domains, recipients and audit of a gateway that takes all mail.
type anywhere struct{}

func (anywhere) Class(mail.Domain) policy.DomainClass { return policy.Local }
func (anywhere) Record(mail.Event)                    {}

// TestManyMessagesAtASilentFilter: a hundred messages at once, at a filter that
// takes them and never decides, end as on_error says, within the time of the
// list, and nothing is left that waits. It runs alone, for it counts goroutines.
func TestManyMessagesAtASilentFilter(t *testing.T) { //nolint:paralleltest // see above
	before := runtime.NumGoroutine()
	t.Run("all", manyMessagesAtASilentFilter)
	testenv.Eventually(t, 2*time.Minute, func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

func manyMessagesAtASilentFilter(t *testing.T) {
	for _, onError := range []OnError{Accept, TempFail, Hold} {
		t.Run(string(onError), func(t *testing.T) {
			t.Parallel() // with each other: all they do is wait
			f := newFilter(t, &filter{silent: string(cmdEOM)})
			m, err := New(Config{Name: "test", Network: "unix", Address: f.address, OnError: onError}, hclog.NewNullLogger(), nil)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := policy.Build(policy.Config{ContentTimeout: 6 * time.Second, AcceptUnlisted: true}, map[policy.List][]policy.Spec{
				policy.ListRelay: {{Name: "reject_unauth_destination"}}, policy.ListContent: {{Name: "milter"}},
			}, policy.Deps{Domains: anywhere{}, Audit: anywhere{}, Logger: hclog.NewNullLogger(), Stages: map[string]func(policy.Spec) (policy.Stage, error){
				"milter": func(policy.Spec) (policy.Stage, error) { return m.Stage(false), nil },
			}})
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for range 100 {
				s := chain.Session()
				tx := &mail.Transaction{Client: client(), Envelope: mail.Envelope{ReversePath: address("a@sender.example")}}
				for _, tx.Phase = range []mail.Phase{mail.PhaseConnect, mail.PhaseHelo, mail.PhaseMail, mail.PhaseData} {
					if d := s.Evaluate(t.Context(), tx); d.Refused {
						t.Fatalf("phase %v: %+v", tx.Phase, d)
					}
				}
				all.Go(func() {
					defer s.Close()
					tx.Phase, tx.Message = mail.PhaseEndOfData, newLetter()
					d := s.Evaluate(t.Context(), tx)
					if d.Refused != (onError == TempFail) || d.Hold != (onError == Hold) || d.Refused && d.Verdict.Reason != status.FilterDown {
						t.Errorf("%+v", d)
					}
				})
			}
			all.Wait()
			if _, st := m.State(); !st.Down || st.Failure == nil {
				t.Errorf("the filter counts as %+v", st)
			}
		})
	}
}

// TestRehearsalIsNotCounted: what is only tried out is in no metric of decisions.
func TestRehearsalIsNotCounted(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	registry := prometheus.NewRegistry()
	m, err := New(Config{Name: "test", Network: "unix", Address: f.address}, hclog.NewNullLogger(), registry)
	if err != nil {
		t.Fatal(err)
	}
	d := m.dialogue(t)
	ctx := policy.Rehearsal(t.Context())
	for _, d.tx.Phase = range []mail.Phase{mail.PhaseConnect, mail.PhaseHelo, mail.PhaseMail, mail.PhaseData} {
		if _, err := d.a.Step(ctx, &d.tx); err != nil {
			t.Fatal(err)
		}
	}
	d.tx.Phase, d.tx.Message = mail.PhaseEndOfData, d.message
	if _, err := d.a.Content(ctx, &d.tx); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if name := family.GetName(); name == "gateway_milter_replies_total" || family.GetMetric()[0].GetHistogram().GetSampleCount() > 0 {
			t.Errorf("%s is counted: %v", name, family)
		}
	}
}

// A session that ends while a filter is silent does not wait for it.
func TestEndedSession(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{silent: "M"})
	m := f.milter(func(c *Config) { c.CommandTimeout = time.Hour })
	d := m.dialogue(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		f.waitFor("H helo.example")
		cancel()
	}()
	d.tx.Phase = mail.PhaseMail
	if v, err := d.a.Step(ctx, &d.tx); err != nil || v.Reason != status.FilterDown {
		t.Errorf("%+v, %v", v, err)
	}
	if m.breaker.Failures() != 0 {
		t.Error("the filter is blamed")
	}
}

func TestCheckAndAddresses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"unix:/run/m.sock": "unix /run/m.sock", "local:/run/m.sock": "unix /run/m.sock", "inet:127.0.0.1:8891": "tcp 127.0.0.1:8891",
		"inet:8891@localhost": "tcp localhost:8891", "inet6:8891@::1": "tcp [::1]:8891", "inet:[::1]:8891": "tcp [::1]:8891",
		"unix:run/m": "error", "inet:8891": "error", "inet::8891": "error", "": "error", "smtp:x": "error", "unix:": "error", "/run/m": "error",
	} {
		network, address, err := ParseAddress(in)
		got := network + " " + address
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	for _, c := range []Config{{}, {Address: "x", OnError: "reject"}, {Address: "x", Protocol: 7}, {Address: "x", Protocol: 1}} {
		if c.Check() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

// Messages in memory: what a filter of this process costs for each.
func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			f := newFilter(b, &filter{})
			d := f.milter(nil).dialogue(b)
			d.message.body = strings.Repeat("0123456789abcdef", size/16)
			d.step(mail.PhaseConnect)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				d.verdicts = d.verdicts[:0]
				if v := d.transaction(); v.Action != mail.Dunno {
					b.Fatalf("verdict %+v", v)
				}
			}
		})
	}
}

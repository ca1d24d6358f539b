package dnsbl

import (
	"context"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// TestRehearsal: who only asks what would happen is told, and neither what the
// list says nor how it does is noted.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	f := start(t, Config{})
	for _, text := range []string{"reject_rbl_client(list=rbl.example)", "dns_score(lists=rbl.example*3&reject=3)"} {
		for range 2 {
			v, err := f.stage(t, text).Evaluate(policy.Rehearsal(t.Context()), from("192.0.2.3"))
			if err != nil || v.Action != mail.Reject {
				t.Errorf("%s: %+v, %v", text, v, err)
			}
		}
	}
	if n := len(f.memory.answers); n != 0 {
		t.Errorf("%d answers are remembered", n)
	}
	f.dns.Fail("9.2.0.192.dead.example", "A", "SERVFAIL")
	s := f.stage(t, "reject_rbl_client(list=dead.example)")
	for range 2 * windowSize {
		if v, err := s.Evaluate(policy.Rehearsal(t.Context()), from("192.0.2.9")); err != nil || v.Action != mail.Dunno || v.Detail == "" {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	for _, st := range f.States() {
		if st.Down {
			t.Errorf("%s is down after a rehearsal: %s", st.List, st.Reason)
		}
	}
}

// TestEnd: when Run returns no lookup is under way, none begins, and a list that
// was not waited for is not blamed.
func TestEnd(t *testing.T) {
	t.Parallel()
	f := start(t, Config{Lists: []ListConfig{{Domain: "slow.example", Untested: true, Timeout: time.Hour}}})
	asked := make(chan struct{}, 1)
	f.dns.Answer("3.2.0.192.slow.example", "A", func(wire.ResponseWriter, *wire.Msg) {
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	s := f.stage(t, "reject_rbl_client(list=slow.example)")
	s.(policy.Starter).Start(from("192.0.2.3"))
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Run(ctx); err != nil {
		t.Fatal(err)
	}
	d := f.lists["slow.example"]
	d.mu.Lock()
	under := len(d.flights)
	d.mu.Unlock()
	if under != 0 || d.health.row != 0 {
		t.Errorf("%d lookups under way, %d failures", under, d.health.row)
	}
	if v := f.evaluateStage(t, s, from("192.0.2.3")); v.Action != mail.Dunno || v.Detail == "" {
		t.Errorf("%+v", v)
	}
}

package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// BenchmarkRecipient is one RCPT through the default lists.
func BenchmarkRecipient(b *testing.B) {
	f := &fixture{}
	chain, err := Build(Config{Networks: prefixes("127.0.0.0/8", "10.0.0.0/8")}, DefaultMX(), deps(f))
	if err != nil {
		b.Fatal(err)
	}
	benchmarkRCPT(b, chain)
}

// BenchmarkTwentyStages is one RCPT through the lists of a company: eight tables
// and twelve restrictions of other kinds, of which all but the last ones let
// others decide.
func BenchmarkTwentyStages(b *testing.B) {
	benchmarkRCPT(b, twentyStages(b))
}

// cpu-us/op is what does not depend on what else the machine does.
func benchmarkRCPT(b *testing.B, chain *Chain) {
	tx := transaction("s@mx.example", "alice@example.com")
	s := chain.Session()
	b.ReportAllocs()
	before := processorTime(b)
	defer func() { b.ReportMetric(float64(processorTime(b)-before)/float64(b.N)/1e3, "cpu-us/op") }()
	for b.Loop() {
		if s.Evaluate(b.Context(), tx).Refused {
			b.Fatal("refused")
		}
	}
}

func processorTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// twentyStages is a chain whose tables have 10,000 lines each.
func twentyStages(tb testing.TB) *Chain {
	dir := tb.TempDir()
	table := func(name, line string) string {
		var text strings.Builder
		for i := range 10000 {
			fmt.Fprintf(&text, line+"\n", i/256, i%256)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text.String()), 0o600); err != nil {
			tb.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	table("hosts", "host%d-%d.bad.example REJECT")
	table("nets", "203.%d.%d.0/24 REJECT")
	table("people", "user%d-%d@bad.example REJECT")
	f := &fixture{}
	chain, err := Build(Config{Networks: prefixes("127.0.0.0/8", "10.0.0.0/8"), TableDir: dir}, map[List][]Spec{
		ListClient: words("permit_mynetworks check_client_access(table=cidr:nets) check_client_access(table=hosts)"),
		ListHelo:   words("permit_mynetworks reject_invalid_helo_hostname reject_non_fqdn_helo_hostname check_helo_access(table=hosts)"),
		ListSender: words("permit_mynetworks reject_non_fqdn_sender reject_unknown_sender_domain check_sender_access(table=people) check_sender_access(table=hosts)"),
		ListRelay:  words("permit_mynetworks permit_authenticated reject_unauth_destination"),
		ListRecipient: words("reject_non_fqdn_recipient check_recipient_access(table=people) check_recipient_access(table=hosts) " +
			"reject_multi_recipient_bounce reject_unlisted_recipient"),
	}, deps(f))
	if err != nil {
		tb.Fatal(err)
	}
	return chain
}

// TestNoGrowthPerRecipient: the hundredth recipient of a message takes no more
// memory than the second.
func TestNoGrowthPerRecipient(t *testing.T) {
	chain := twentyStages(t)
	s := chain.Session()
	tx := transaction("s@mx.example", "alice@example.com")
	cost := func() float64 {
		return testing.AllocsPerRun(50, func() {
			if s.Evaluate(context.Background(), tx).Refused {
				t.Fatal("refused")
			}
		})
	}
	tx.Phase, tx.Recipient = mail.PhaseMail, nil
	s.Evaluate(context.Background(), tx)
	tx.Phase, tx.Recipient = mail.PhaseRecipient, &mail.Recipient{Address: mail.MustAddress("alice@example.com")}
	first := cost()
	for range 100 {
		tx.Envelope.Recipients = append(tx.Envelope.Recipients, *tx.Recipient)
	}
	if later := cost(); later > first {
		t.Errorf("%v allocations at first, %v later", first, later)
	}
}

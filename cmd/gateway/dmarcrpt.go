package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/policy/mailauth/dmarcrpt"
	"github.com/postern-mail/postern/store"
)

// dmarcResults hands what DMARC found to the reporter, which is made after the
// first generation and outlives each. Empty where nobody reports.
type dmarcResults struct {
	atomic.Pointer[dmarcrpt.Reporter]
}

// Note implements mailauth.Counter.
func (d *dmarcResults) Note(e mailauth.Evaluation) {
	if r := d.Load(); r != nil {
		r.Note(e)
	}
}

// openDMARCReporter makes what reports on DMARC, where that is configured.
func (s *server) openDMARCReporter(f *config.File, kv store.Store) error {
	cfg := f.DMARCReports()
	if cfg.Organization == "" {
		return nil
	}
	r, err := dmarcrpt.New(cfg, dmarcrpt.Deps{
		Store: kv, Records: dmarcRecords{&s.current}, Mailer: reportMailer{s.queue, &s.current}, Audit: s.audit,
		Metrics: s.metrics, Log: s.log.Named("dmarcrpt"),
	})
	if err == nil {
		s.dmarcResults.Store(r)
	}
	return err
}

// dmarcRecords looks up what domains publish, by the resolver and the list of
// suffixes in force.
type dmarcRecords struct{ *current }

// Lookup implements dmarcrpt.Records.
func (d dmarcRecords) Lookup(ctx context.Context, domain string) (*dmarc.Record, error) {
	return d.Load().authentic.dmarc.Lookup(ctx, domain)
}

// Authorized implements dmarcrpt.Records.
func (d dmarcRecords) Authorized(ctx context.Context, domain string, to dmarc.ReportURI) (bool, error) {
	return d.Load().authentic.dmarc.Authorized(ctx, domain, to)
}

func dmarcCommand() *cobra.Command {
	return dailyReportsCommand("dmarc", "List, show and send the DMARC reports to other domains")
}

// dmarcReports is what operators see of the reports on DMARC.
func (s *server) dmarcReports() dailyReports[dmarcrpt.Entry] {
	return dailyReports[dmarcrpt.Entry]{
		find: func() (dailyReporter[dmarcrpt.Entry], error) {
			if r := s.dmarcResults.Load(); r != nil {
				return r, nil
			}
			return nil, fmt.Errorf("nothing is reported: %s has no gateway { dmarc { reports { ... } } }", s.path)
		},
		columns: []string{"DAY", "DOMAIN", "MESSAGES", "FAILED", "DUE", "ATTEMPTS", "LAST"},
		row: func(e dmarcrpt.Entry) []any {
			return []any{e.Day, e.Domain, e.Messages, e.Failed, e.Due.Format(time.RFC3339), e.Attempts, e.Last}
		},
	}
}

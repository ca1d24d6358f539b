package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/delivery/tlsrpt"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/store"
)

// tlsSessions hands what deliveries tell of their connections to the reporter,
// which is made after the first generation and outlives each. Empty where
// nobody reports.
type tlsSessions struct {
	atomic.Pointer[tlsrpt.Reporter]
}

// Note implements tlspolicy.Sessions.
func (t *tlsSessions) Note(s tlspolicy.Session) {
	if r := t.Load(); r != nil {
		r.Note(s)
	}
}

// openReporter makes what reports on TLS, where that is configured.
func (s *server) openReporter(f *config.File, kv store.Store) error {
	if f.Gateway.TLSReports == nil {
		return nil
	}
	r, err := tlsrpt.New(f.TLSReports(), tlsrpt.Deps{
		Store: kv, Resolver: names{&s.current}, Mailer: reportMailer{s.queue, &s.current}, Audit: s.audit,
		Metrics: s.metrics, Log: s.log.Named("tlsrpt"),
	})
	if err == nil {
		s.tlsSessions.Store(r)
	}
	return err
}

// names asks the DNS by the resolver in force.
type names struct{ *current }

// TXT implements tlsrpt.Resolver.
func (n names) TXT(ctx context.Context, name string) (dns.Answer[string], error) {
	return n.Load().resolver.TXT(ctx, name)
}

// Addresses implements tlsrpt.Resolver.
func (n names) Addresses(ctx context.Context, name string) (dns.Answer[netip.Addr], error) {
	return n.Load().resolver.Addresses(ctx, name)
}

// reportMailer queues reports of ours.
type reportMailer struct {
	queue *queue.Queue
	*current
}

// Send implements tlsrpt.Mailer.
func (m reportMailer) Send(ctx context.Context, e mail.Envelope, message []byte) (mail.QueueID, error) {
	to := e.Recipients[0]
	found, err := ourRecipients{m.current}.Resolve(ctx, to.Address)
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		e.Recipients = nil
	}
	for _, r := range found {
		r.Accepted, r.Notify = to.Accepted, to.Notify
		e.Recipients = append(e.Recipients, r)
	}
	staged, err := m.queue.Stage(ctx, bytes.NewReader(m.Load().signOwn(message)))
	if err != nil {
		return "", err
	}
	id := queue.NewID()
	return id, m.queue.Accept(context.WithoutCancel(ctx), queue.Submission{ID: id, Envelope: e, Content: staged})
}

func tlsrptCommand() *cobra.Command {
	return dailyReportsCommand("tlsrpt", "List, show and send the reports on TLS to other domains")
}

// tlsReports is what operators see of the reports on TLS.
func (s *server) tlsReports() dailyReports[tlsrpt.Entry] {
	return dailyReports[tlsrpt.Entry]{
		find: func() (dailyReporter[tlsrpt.Entry], error) {
			if r := s.tlsSessions.Load(); r != nil {
				return r, nil
			}
			return nil, fmt.Errorf("nothing is reported: %s has no gateway { tls_reports { ... } }", s.path)
		},
		columns: []string{"DAY", "DOMAIN", "SUCCEEDED", "FAILED", "DUE", "ATTEMPTS", "LAST"},
		row: func(e tlsrpt.Entry) []any {
			return []any{e.Day, e.Domain, e.Succeeded, e.Failed, e.Due.Format(time.RFC3339), e.Attempts, e.Last}
		},
	}
}

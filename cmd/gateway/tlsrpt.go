package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"sync/atomic"
	"text/tabwriter"
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
	staged, err := m.queue.Stage(ctx, bytes.NewReader(message))
	if err != nil {
		return "", err
	}
	id := queue.NewID()
	return id, m.queue.Accept(context.WithoutCancel(ctx), queue.Submission{ID: id, Envelope: e, Content: staged})
}

func tlsrptCommand() *cobra.Command {
	c := &cobra.Command{Use: "tlsrpt", Short: "List, show and send the reports on TLS to other domains"}
	list := &cobra.Command{
		Use: "list", Short: "List the reports that are being counted or wait to be sent", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return callServer(c, "tlsrpt/list", flagArgs(c, "json")) },
	}
	list.Flags().Bool("json", false, "one JSON object a line")
	show := &cobra.Command{
		Use: "show DOMAIN", Short: "Print the reports on a domain as they are so far", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, domain []string) error {
			return callServer(c, "tlsrpt/show", url.Values{"domain": domain})
		},
	}
	send := &cobra.Command{
		Use: "send DOMAIN", Short: "Send the reports on a domain for days that have ended now", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, domain []string) error {
			return callServer(c, "tlsrpt/send", url.Values{"domain": domain})
		},
	}
	c.AddCommand(list, show, send)
	return c
}

// reporter returns what reports on TLS.
func (s *server) reporter() (*tlsrpt.Reporter, error) {
	r := s.tlsSessions.Load()
	if r == nil {
		return nil, fmt.Errorf("nothing is reported: %s has no gateway { tls_reports { ... } }", s.path)
	}
	return r, nil
}

func (s *server) replyTLSReports(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := s.reporter()
	if err != nil {
		return err
	}
	if args.Get("json") == "true" {
		lines := json.NewEncoder(out)
		return r.List(ctx, func(e tlsrpt.Entry) error { return lines.Encode(e) })
	}
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "DAY\tDOMAIN\tSUCCEEDED\tFAILED\tDUE\tATTEMPTS\tLAST")
	found := false
	err = r.List(ctx, func(e tlsrpt.Entry) error {
		found = true
		_, err := fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%d\t%s\n", e.Day, e.Domain, e.Succeeded, e.Failed, e.Due.Format(time.RFC3339), e.Attempts, e.Last)
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		fmt.Fprintln(out, "Nothing was counted yet for a domain that asks for reports.")
		return nil
	}
	return table.Flush()
}

func (s *server) replyTLSReport(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := s.reporter()
	if err != nil {
		return err
	}
	reports, err := r.Show(ctx, args.Get("domain"))
	if err == nil && len(reports) == 0 {
		err = fmt.Errorf("nothing was counted about %s", args.Get("domain"))
	}
	for _, text := range reports {
		fmt.Fprint(out, text)
	}
	return err
}

func (s *server) replySendTLSReport(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := s.reporter()
	if err != nil {
		return err
	}
	n, err := r.Send(ctx, args.Get("domain"))
	if err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintf(out, "no report on %s waits to be sent; the one of today is complete when the UTC day ends\n", args.Get("domain"))
		return nil
	}
	fmt.Fprintf(out, "%d report(s) sent\n", n)
	return nil
}

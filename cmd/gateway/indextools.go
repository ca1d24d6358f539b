package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/backend/mailstore"
)

var (
	metricIndexWaiting  = newMetric(prometheus.GaugeValue, "gateway_mailstore_index_waiting_accounts", "Accounts with messages that wait for the search index.")
	metricIndexMessages = newMetric(prometheus.CounterValue, "gateway_mailstore_index_messages_total", "Messages that were indexed for searching, by result.", "result")
	metricIndexOctets   = newMetric(prometheus.CounterValue, "gateway_mailstore_index_octets_total", "Octets of the messages that were indexed.")
	metricIndexRemoved  = newMetric(prometheus.CounterValue, "gateway_mailstore_index_removed_total", "Documents removed from the search index because their messages are gone.")

	indexMetrics = []metric{metricIndexWaiting, metricIndexMessages, metricIndexOctets, metricIndexRemoved}
)

func (s *server) putIndex(put func(m metric, value float64, labels ...string)) {
	if s.mailstore == nil {
		return
	}
	n := s.mailstore.IndexStats()
	if !n.Enabled {
		return
	}
	put(metricIndexWaiting, float64(n.Waiting))
	put(metricIndexMessages, float64(n.Messages), "ok")
	put(metricIndexMessages, float64(n.Failed), "unreadable")
	put(metricIndexOctets, float64(n.Octets))
	put(metricIndexRemoved, float64(n.Removed))
}

// indexRun keeps search indexes up to date until ctx ends.
func (s *server) indexRun(ctx context.Context) error {
	err := s.mailstore.RunIndex(ctx)
	<-ctx.Done() // without an index there is nothing to run
	return err
}

// indexCommands adds what the control socket answers about the search index.
func (s *server) indexCommands(c admin.Commands) {
	if s.mailstore == nil {
		return
	}
	c["index/status"] = s.replyIndexStatus
	c["index/rebuild"] = s.replyIndexRebuild
}

// indexedAccounts are the accounts that an operator names: one, or all.
func (s *server) indexedAccounts(ctx context.Context, args url.Values) ([]string, error) {
	if name := args.Get("account"); name != "" {
		_, err := s.mailstore.AccountIndex(ctx, name)
		return []string{name}, err
	}
	names, err := s.mailstore.Accounts(ctx)
	slices.Sort(names)
	return names, err
}

// listedIndex is the index of an account in JSON.
type listedIndex struct {
	Account   string `json:"account"`
	State     string `json:"state"`
	Messages  int64  `json:"messages"`
	Size      int64  `json:"mail_octets"`
	Documents int    `json:"documents"`
	Segments  int    `json:"segments"`
	Octets    int64  `json:"index_octets"`
	Text      int64  `json:"text_octets"`
}

func (s *server) replyIndexStatus(ctx context.Context, args url.Values, out io.Writer) error {
	names, err := s.indexedAccounts(ctx, args)
	if err != nil {
		return err
	}
	asJSON := wantsJSON(args)
	lines := json.NewEncoder(out)
	table := newTable(out)
	if !asJSON {
		if n := s.mailstore.IndexStats(); n.Enabled {
			fmt.Fprintf(out, "%d account(s) wait; %d message(s) indexed since the start, %d could not be read\n", n.Waiting, n.Messages, n.Failed)
		} else {
			fmt.Fprintln(out, "The search index is switched off: backend { search_index { enabled = false } }.")
		}
		fmt.Fprintln(table, "ACCOUNT\tSTATE\tMESSAGES\tDOCUMENTS\tMAIL\tTEXT\tINDEX\tOF TEXT")
	}
	for _, name := range names {
		a, err := s.mailstore.AccountIndex(ctx, name)
		if err != nil {
			return err
		}
		if asJSON {
			err = lines.Encode(listedIndex{name, indexState(a), a.Messages, a.MailSize, a.Documents, a.Segments, a.Octets, a.Text})
		} else {
			_, err = fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\t%s\t%d %%\n", name, indexState(a), a.Messages, a.Documents,
				mebibytes(a.MailSize), mebibytes(a.Text), mebibytes(a.Octets), 100*a.Octets/cmp.Or(a.Text, 1))
		}
		if err != nil {
			return err
		}
	}
	return table.Flush()
}

// indexState says how an index stands. Messages that are copies of others are
// one document, so that fewer documents than messages need not be a lack.
func indexState(a mailstore.AccountIndex) string {
	switch {
	case a.Messages == 0:
		return "empty"
	case !a.Current:
		return "none"
	}
	return "built"
}

func mebibytes(octets int64) string { return fmt.Sprintf("%.1f MiB", float64(octets)/(1<<20)) }

// rebuildProgress is how far a rebuild has come.
type rebuildProgress struct {
	account          atomic.Pointer[string]
	messages, octets atomic.Int64
	all              int64 // messages
	start            time.Time
}

func (p *rebuildProgress) String() string {
	done, took := p.messages.Load(), time.Since(p.start)
	text := fmt.Sprintf("%s: %d of %d message(s), %s, %.0f/s", *p.account.Load(), done, p.all, mebibytes(p.octets.Load()), float64(done)/max(took.Seconds(), 0.001))
	if done > 0 && done < p.all {
		left := time.Duration(float64(took) / float64(done) * float64(p.all-done))
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return text
}

// replyIndexRebuild builds indexes anew, and tells now and then how far it is.
func (s *server) replyIndexRebuild(ctx context.Context, args url.Values, out io.Writer) error {
	names, err := s.indexedAccounts(ctx, args)
	if err != nil {
		return err
	}
	p := &rebuildProgress{start: time.Now()}
	for _, name := range names {
		a, err := s.mailstore.AccountIndex(ctx, name)
		if err != nil {
			return err
		}
		p.account.CompareAndSwap(nil, &name)
		p.all += a.Messages
	}
	ended := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(progressOnTerminal)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				fmt.Fprintln(out, p)
			}
		}
	})
	var failed error
	for _, name := range names {
		p.account.Store(&name)
		err := s.mailstore.RebuildIndex(ctx, name, func(octets int64) {
			p.messages.Add(1)
			p.octets.Add(octets)
		})
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	close(ended)
	telling.Wait()
	if err := errors.Join(failed, ctx.Err()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d account(s): %d message(s), %s, in %s\n", len(names), p.messages.Load(), mebibytes(p.octets.Load()), time.Since(p.start).Round(time.Millisecond))
	return err
}

func indexCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "index", Short: "Tell how the search index does, and build it anew",
		Long: "The search index tells searches which messages they need not read. It builds itself\n" +
			"in the background; searches find the same without it.",
	}
	status := &cobra.Command{
		Use: "status [ACCOUNT]", Short: "Tell what the index of each account has, and how large it is", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return callIndex(c, "status", args, "json") },
	}
	status.Flags().Bool("json", false, "one JSON object a line")
	c.AddCommand(status, &cobra.Command{
		Use: "rebuild [ACCOUNT]", Short: "Build the index of an account, or of all, anew", Args: cobra.MaximumNArgs(1),
		Long: "Removes the index of an account, or of all, one after the other, and builds it anew, as fast\n" +
			"as it goes. Searches go on meanwhile and read what is not in the index yet. Every two\n" +
			"seconds it tells how far it is. Ending it does no harm: the server goes on in the background.",
		RunE: func(c *cobra.Command, args []string) error { return callIndex(c, "rebuild", args) },
	})
	return c
}

func callIndex(c *cobra.Command, name string, args []string, flags ...string) error {
	return askServer(c, "index/"+name, args, []string{"account"}, flags...)
}

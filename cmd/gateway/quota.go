package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/limits"
	"github.com/postern-mail/postern/policy/shared"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/status"
)

// newLedger returns what is counted of accounts, over restarts and gateways.
func newLedger(facts *shared.Store, audit auditor, log hclog.Logger) *limits.Ledger {
	notify := func(n limits.Notice) {
		log.Warn("an account reached its sending quota: its password may be stolen", "login", n.Account, "quota", n.Quota, "most", n.Most, "of", n.Kind.String())
		audit.Record(mail.Event{Kind: mail.EventPolicy, Result: "limited", Reason: status.QuotaExceeded.String(), Login: n.Account, Stage: "quota." + n.Quota,
			Detail: fmt.Sprintf("%d %s", n.Most, n.Kind)})
	}
	return limits.NewLedger(facts.Counters("quota hour", time.Hour, 0), facts.Counters("quota day", 24*time.Hour, 0), notify)
}

// quotas has smtpd ask about the quotas of a configuration.
type quotas struct{ *limits.Quotas }

// Begin implements smtpd.Quotas.
func (q quotas) Begin(ctx context.Context, id mail.Identity) smtpd.Allowance {
	if a := q.Quotas.Begin(ctx, id); a != nil {
		return a
	}
	return nil
}

// quotasOf returns what a generation says of quotas; nil for nothing.
func (l *limiting) quotasOf(g *generation) smtpd.Quotas {
	var asked limits.Accounts
	if people := g.people(); people != nil {
		asked = people
	}
	if q := limits.NewQuotas(g.file.Quotas(), l.ledger, asked, people{g}); q != nil {
		return quotas{q}
	}
	return nil
}

// limitCommands adds what the control socket answers about limits.
func (s *server) limitCommands(c admin.Commands) {
	if s.limits != nil {
		c["limits/list"] = s.limits.replyList
		c["limits/reset"] = s.limits.replyReset
	}
}

// replyList shows clients whose events count now, and what accounts sent; of one
// of them alone where it is named.
func (l *limiting) replyList(_ context.Context, args url.Values, out io.Writer) error {
	of := args.Get("of")
	network, err := networkOf(of)
	table := newTable(out)
	clients := 0
	for _, row := range l.clients.Rows(mostRows) {
		if of != "" && (err != nil || !network.Overlaps(row.Network)) {
			continue
		}
		if clients++; clients == 1 {
			fmt.Fprintln(table, "LISTENER\tCLIENT\tCONNECTIONS\tMESSAGES\tRECIPIENTS\tTLS\tAUTH\tWITHIN\tWAITS")
		}
		waits := "no"
		for event, held := range row.Held {
			if held {
				waits = mail.ClientEvent(event).String()
			}
		}
		n := row.Counts
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", row.Service, row.Network, n[mail.ClientConnects], n[mail.ClientSendsMessage],
			n[mail.ClientNamesRecipient], n[mail.ClientStartsTLS], n[mail.ClientAuthenticates], row.Unit, waits)
	}
	accounts := 0
	for _, u := range l.ledger.Used(of, mostRows) {
		if accounts++; accounts == 1 {
			fmt.Fprintln(table, "\nACCOUNT\tMESSAGES/H\tMESSAGES/DAY\tRECIPIENTS/H\tRECIPIENTS/DAY")
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\n", u.Account, u.Sent[limits.MessagesHour], u.Sent[limits.MessagesDay], u.Sent[limits.RecipientsHour], u.Sent[limits.RecipientsDay])
	}
	if clients+accounts == 0 {
		fmt.Fprintln(table, "Nothing is counted now.")
	}
	return table.Flush()
}

// networkOf reads an address or a network.
func networkOf(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

func (l *limiting) replyReset(_ context.Context, args url.Values, out io.Writer) error {
	of := args.Get("of")
	if of == "" {
		return errors.New("whose limits to reset is missing: an address, a network or an account")
	}
	if network, err := networkOf(of); err == nil {
		_, err = fmt.Fprintf(out, "%d client(s) of %s begin anew.\n", l.clients.Forget(network), network)
		return err
	}
	if !l.ledger.Reset(of) {
		return fmt.Errorf("nothing is counted of %q; postern limits list tells names", of)
	}
	_, err := fmt.Fprintf(out, "%s begins anew.\n", of)
	return err
}

func limitsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "limits", Short: "See and reset what is counted of clients and accounts",
		Long: "Clients are counted where the configuration bounds their rates (limits), accounts where it\n" +
			"bounds what they send (quota).",
	}
	show := func(use, short string, args cobra.PositionalArgs) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(c *cobra.Command, args []string) error {
			values := url.Values{}
			if len(args) > 0 {
				values.Set("of", args[0])
			}
			return callServer(c, "limits/list", values)
		}}
	}
	c.AddCommand(
		show("list", "List what counts now", cobra.NoArgs),
		show("show KEY", "Show what counts of an address, a network or an account", cobra.ExactArgs(1)),
		&cobra.Command{
			Use: "reset KEY", Short: "Let an address, a network or an account begin anew", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return callServer(c, "limits/reset", url.Values{"of": {args[0]}})
			},
		})
	return c
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/lockout"
)

// mostRows is how many entries are shown at once.
const mostRows = 1000

// loginCommands adds what the control socket answers about logins.
func (s *server) loginCommands(c admin.Commands) {
	c["auth/status"] = s.replyAuthStatus
	c["auth/unlock"] = s.replyAuthUnlock
	for name, reply := range appPasswordReplies {
		c["app-password/"+name] = func(ctx context.Context, args url.Values, out io.Writer) error {
			return reply(appPasswords{s.current.Load(), s.logins.apps}, ctx, args, out)
		}
	}
}

// everybody is what stands for all logins and networks.
const everybody = "ALL"

// lockoutFilter reads what an operator names: a login, a network or an address
// of one, or everybody.
func lockoutFilter(what string) (lockout.Filter, error) {
	if what == everybody {
		return lockout.Filter{}, nil
	}
	if p, err := netip.ParsePrefix(what); err == nil {
		return lockout.Filter{Network: p.Masked()}, nil
	}
	if a, err := netip.ParseAddr(what); err == nil {
		a = a.Unmap().WithZone("")
		return lockout.Filter{Network: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	login, err := authn.CanonicalLogin(what)
	if err != nil {
		return lockout.Filter{}, fmt.Errorf("%q is no login, network or %s: %w", what, everybody, err)
	}
	return lockout.Filter{Login: login}, nil
}

func (s *server) replyAuthStatus(_ context.Context, args url.Values, out io.Writer) error {
	f, err := lockoutFilter(cmp.Or(args.Get("of"), everybody))
	if err != nil {
		return err
	}
	f.Waiting = args.Get("of") == "" && args.Get("all") != "true"
	rows, total := s.logins.memory.Rows(f, mostRows, time.Now())
	if wantsJSON(args) {
		return jsonLines(out, rows)
	}
	if total == 0 {
		if f.Waiting {
			_, err = fmt.Fprintln(out, "Nobody has to wait.")
		} else {
			_, err = fmt.Fprintln(out, "No failures are remembered.")
		}
		return err
	}
	return printFailures(out, rows, total)
}

func printFailures(out io.Writer, rows []lockout.Row, total int) error {
	table := newTable(out, "LOGIN", "NETWORK", "FAILURES", "UPSTREAM", "LAST", "WAITS", "NOTE")
	for _, r := range rows {
		network, waits, note := "", "no", ""
		if r.Network.IsValid() {
			network = r.Network.String()
		}
		if !r.Until.IsZero() {
			waits = time.Until(r.Until).Round(time.Second).String()
		}
		switch {
		case r.Spraying:
			note = "tries many accounts"
		case r.Unknown:
			note = "nobody has this login"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", cmp.Or(r.Login, "*"), cmp.Or(network, "*"), r.Failures, r.Upstream, r.Last.Format(time.DateTime), waits, note)
	}
	if total > len(rows) {
		fmt.Fprintf(table, "... and %d more\n", total-len(rows))
	}
	return table.Flush()
}

func (s *server) replyAuthUnlock(_ context.Context, args url.Values, out io.Writer) error {
	what := args.Get("of")
	if what == "" {
		return errors.New("whom to unlock is missing")
	}
	f, err := lockoutFilter(what)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d entries about %s are forgotten.\n", s.logins.memory.Unlock(f), what)
	return err
}

func authCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "auth", Short: "See and clear what is remembered of wrong passwords",
		Long: "Whoever shows wrong passwords has to wait, by account, by network and by both: the lockout\n" +
			"block of the configuration says how. These commands ask the running server.",
	}
	status := &cobra.Command{
		Use: "status [LOGIN|NETWORK]", Short: "Tell who has to wait, or what is remembered of one", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return askServer(c, "auth/status", args, []string{"of"}, "all", "json")
		},
	}
	status.Flags().Bool("all", false, "those who need not wait, too")
	status.Flags().Bool("json", false, "one JSON object a line")
	c.AddCommand(status, &cobra.Command{
		Use: "unlock LOGIN|NETWORK|ALL", Short: "Forget wrong passwords", Args: cobra.ExactArgs(1),
		Long: "Forgets what is remembered against a login, also its wrong passwords, which are asked about\n" +
			"again; against a network with its addresses; or, for ALL, against everybody. A lockout in the\n" +
			"directory itself is undone there.",
		RunE: func(c *cobra.Command, args []string) error {
			return callServer(c, "auth/unlock", url.Values{"of": {args[0]}})
		},
	})
	return c
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/mail"
)

// sessionCommands adds what the control socket answers about who is connected.
func (s *server) sessionCommands(c admin.Commands) {
	if s.mailstore == nil {
		return
	}
	c["sessions"] = s.replySessions
	c["kick"] = s.replyKick
}

// sessionFilter selects sessions as an operator names them.
type sessionFilter struct {
	user []string // the names of one person; nil for everybody
	id   mail.SessionID
	from netip.Prefix // not valid for everywhere
}

// wants reports whether a session is selected.
func (f *sessionFilter) wants(i sessions.Info) bool {
	if f.id != "" && f.id != i.ID {
		return false
	}
	if f.from.IsValid() && !f.from.Contains(i.Remote.Addr()) {
		return false
	}
	if f.user == nil {
		return true
	}
	for _, name := range f.user {
		if i.Login != "" && (strings.EqualFold(name, i.Login) || strings.EqualFold(name, i.Account)) {
			return true
		}
	}
	return false
}

// sessionFilterOf reads what an operator names. A person may be named by any
// login or address the directory knows; where that does not answer, by the name
// that the list shows.
func (s *server) sessionFilterOf(ctx context.Context, args url.Values) (*sessionFilter, error) {
	f := &sessionFilter{id: mail.SessionID(args.Get("session"))}
	if user := args.Get("user"); user != "" {
		f.user = []string{user}
		known := mailboxes{&s.current}
		if account, err := known.Account(ctx, user); err == nil {
			f.user = append(f.user, account.Name)
		}
		if address, err := mail.ParseAddress(user); err == nil {
			if account, err := known.AccountOf(ctx, address); err == nil {
				f.user = append(f.user, account.Name)
			}
		}
	}
	if from := args.Get("from"); from != "" {
		var err error
		if f.from, err = parseNetwork(from); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// parseNetwork reads a network, or an address as the network of it alone.
func parseNetwork(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network such as 192.0.2.0/24", text)
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (s *server) replySessions(ctx context.Context, args url.Values, out io.Writer) error {
	f, err := s.sessionFilterOf(ctx, args)
	if err != nil {
		return err
	}
	found := s.sessions.List(f.wants)
	if wantsJSON(args) {
		return jsonLines(out, found)
	}
	if len(found) == 0 {
		_, err := fmt.Fprintln(out, "No session is like that.")
		return err
	}
	return printSessions(out, found, time.Now())
}

func printSessions(out io.Writer, found []sessions.Info, now time.Time) error {
	table := newTable(out, "SESSION", "LISTENER", "LOGIN", "FROM", "TLS", "STATE", "MAILBOX", "SINCE", "IDLE", "LAST", "IN", "OUT")
	for _, i := range found {
		from := "local"
		if i.Remote.IsValid() {
			from = i.Remote.String()
		}
		tls := cmp.Or(strings.TrimPrefix(i.TLS, "TLSv"), "no")
		if i.Compressed {
			tls += "+deflate"
		}
		state, idle := i.State.String(), "busy"
		if !i.IdleSince.IsZero() {
			idle = roughly(now.Sub(i.IdleSince))
		}
		if i.Ending {
			state = "ending"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, i.Listener, cmp.Or(whose(i), "-"), from, tls, state,
			cmp.Or(i.Mailbox, "-"), roughly(now.Sub(i.Since)), idle, cmp.Or(i.Command, "-"), octets(i.In), octets(i.Out))
	}
	fmt.Fprintf(table, "%d session(s)\n", len(found))
	return table.Flush()
}

// whose names who is logged in, and whose mailboxes that are if another's.
func whose(i sessions.Info) string {
	if i.Account == i.Login {
		return i.Login
	}
	return i.Login + " as " + i.Account
}

// roughly is a time as people say it.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// octets is a number of octets in three digits or so.
func octets(n uint64) string {
	for _, unit := range []string{"", "K", "M", "G"} {
		if n < 10_000 {
			return fmt.Sprintf("%d%s", n, unit)
		}
		n >>= 10
	}
	return fmt.Sprintf("%dT", n)
}

func (s *server) replyKick(ctx context.Context, args url.Values, out io.Writer) error {
	if args.Get("user") == "" && args.Get("session") == "" && args.Get("from") == "" {
		return errors.New("whom to disconnect is missing: a login, --session ID or --from NETWORK")
	}
	f, err := s.sessionFilterOf(ctx, args)
	if err != nil {
		return err
	}
	kicked := s.sessions.Kick(f.wants)
	if len(kicked) == 0 {
		return errors.New("no session is like that, or it is being ended already")
	}
	for _, i := range kicked {
		s.audit.Record(mail.Event{Kind: mail.EventAuth, Result: "disconnected", Service: i.Protocol, Session: i.ID, Remote: i.Remote, Login: i.Login,
			Detail: "by " + admin.Operator(ctx)})
	}
	s.log.Info("sessions ended by an operator", "operator", admin.Operator(ctx), "sessions", len(kicked))
	_, err = fmt.Fprintf(out, "%d session(s) ended\n", len(kicked))
	return err
}

func sessionsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "sessions [USER]", Short: "List who is connected to the mailboxes", Args: cobra.MaximumNArgs(1),
		Long: "Lists the sessions of the backend's listeners, the oldest first: who is logged in, from where, in which\n" +
			"mailbox, what the last command was, for how long nothing has been under way, and octets in and out.\n" +
			"USER is a login or address of one person.",
		RunE: func(c *cobra.Command, args []string) error {
			return askServer(c, "sessions", args, []string{"user"}, "from", "session", "json")
		},
	}
	c.Flags().String("from", "", "sessions from `NETWORK`, or an address")
	c.Flags().String("session", "", "the session with this `ID`")
	c.Flags().Bool("json", false, "one JSON object a line")
	return c
}

func kickCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "kick [USER]", Short: "End sessions of the mailboxes", Args: cobra.MaximumNArgs(1),
		Long: "Ends the sessions of a person, those from a network, or one: with a word to the client, as soon as its\n" +
			"command under way is answered, and at the latest after five seconds. What is named together must all be\n" +
			"true. Clients connect again by themselves: to keep somebody out, disable the account in the directory.",
		RunE: func(c *cobra.Command, args []string) error {
			return askServer(c, "kick", args, []string{"user"}, "from", "session")
		},
	}
	c.Flags().String("from", "", "sessions from `NETWORK`, or an address")
	c.Flags().String("session", "", "the session with this `ID`")
	return c
}

var (
	metricClients  = newMetric(prometheus.GaugeValue, "gateway_backend_sessions", "Sessions of the mailboxes open now, by protocol and state.", "protocol", "state")
	sessionMetrics = []metric{metricClients}
)

// putSessions puts the figures of the backend's sessions.
func (s *server) putSessions(put func(metric, float64, ...string)) {
	for _, c := range s.sessions.Counts() {
		put(metricClients, float64(c.Sessions), c.Protocol, c.State.String())
	}
}

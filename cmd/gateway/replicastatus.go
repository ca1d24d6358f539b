package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/backend/replica"
	"github.com/postern-mail/postern/backend/replica/link"
)

// The words for how a node of a pair does, which load balancers read.
const (
	pairReady      = "ready"       // with its partner
	pairCatchingUp = "catching-up" // it has not all mailboxes yet
	pairIsolated   = "isolated"    // it serves, without its partner
	pairStale      = "stale"       // it is from a backup and must not serve
)

// pairReport is what replica status tells, in JSON too.
type pairReport struct {
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"` // of a state that is not ready
	Refused bool   `json:"refused"`          // an operator must act
	Mode    string `json:"mode"`
	Node    uint16 `json:"node"`

	QueuedSync       int `json:"queued_sync"`
	QueuedHigh       int `json:"queued_high"`
	QueuedLow        int `json:"queued_low"`
	QueuedFailed     int `json:"queued_failed"`
	QueuedFullResync int `json:"queued_full_resync"`
	WaitingFailed    int `json:"waiting_failed"`
	KnownUsers       int `json:"known_users"`

	LagOperations uint64  `json:"lag_operations"`
	LagOctets     int64   `json:"lag_octets"`
	LagSeconds    float64 `json:"lag_seconds"`
	Attached      int     `json:"attached_accounts"`
	Paused        bool    `json:"paused"`
	PeerJoining   bool    `json:"partner_catching_up"`

	Bootstrap *joiningReport `json:"catching_up,omitempty"` // while this server has not all accounts

	Partner *partnerReport `json:"partner,omitempty"`
}

// partnerReport is the connection.
type partnerReport struct {
	Configured  string    `json:"configured"`
	Remote      string    `json:"remote"`
	Node        uint16    `json:"node"`
	Pin         string    `json:"pin"`
	Software    string    `json:"software"`
	Since       time.Time `json:"since"`
	RTT         float64   `json:"round_trip_seconds"`
	ClockOffset float64   `json:"clock_offset_seconds"`
	Sessions    uint64    `json:"sessions"`
	Differences []string  `json:"differences,omitempty"`
}

// joiningReport is how far a server that joins has come.
type joiningReport struct {
	Accounts      int      `json:"accounts"`
	Done          int      `json:"done"`
	Octets        int64    `json:"octets"`
	Moved         int64    `json:"octets_done"`
	SecondsLeft   float64  `json:"seconds_left"`
	StuckAccounts int      `json:"stopped_accounts"`
	Stuck         []string `json:"stopped,omitempty"` // a few of them
}

func asJoining(b replica.BootstrapProgress) *joiningReport {
	return &joiningReport{
		Accounts: b.Accounts, Done: b.Done, Octets: b.Octets, Moved: b.Moved, SecondsLeft: b.Left.Seconds(),
		StuckAccounts: b.StuckAccounts, Stuck: b.Stuck,
	}
}

// pairState tells how the node does, without reading accounts.
func (s *server) pairState() (word, reason string, refused bool) {
	l, h := s.pair.link.Status(), s.pair.node.Health()
	switch {
	case s.draining():
		_, phase, sessions, _ := s.drain.state()
		return healthDraining, fmt.Sprintf("%s; %d client(s)", phase, sessions), l.Refused
	case h.Stale != "":
		return pairStale, h.Stale + "; see postern replica rejoin", false
	case h.Joining:
		return pairCatchingUp, "not all mailboxes are here yet", l.Refused
	case h.PeerStale != "":
		return pairIsolated, h.PeerStale, true
	case !l.Connected:
		return pairIsolated, l.Failure, l.Refused
	}
	return pairReady, "", false
}

func (s *server) pairReport(ctx context.Context) (pairReport, error) {
	st, err := s.pair.node.Status(ctx)
	l := s.pair.link.Status()
	r := pairReport{
		Mode: st.Mode, Node: uint16(s.current.Load().file.Backend.Node),
		QueuedSync: st.QueuedSync, QueuedHigh: st.QueuedHigh, QueuedLow: st.QueuedLow, QueuedFailed: st.QueuedFailed,
		QueuedFullResync: st.QueuedFullResync, WaitingFailed: st.WaitingFailed, KnownUsers: st.KnownUsers,
		LagOperations: st.Lag.Operations, LagOctets: st.Lag.Octets, LagSeconds: st.Lag.Age.Seconds(), Attached: st.Lag.Attached,
		Paused: st.PausedAll, PeerJoining: st.PeerJoining,
	}
	if st.Joining {
		r.Bootstrap = asJoining(st.Bootstrap)
	}
	r.State, r.Reason, r.Refused = s.pairState()
	if l.Sessions > 0 {
		r.Partner = &partnerReport{
			Configured: l.Partner, Remote: l.Peer.Remote, Node: l.Peer.Node, Pin: l.Peer.Pin.String(), Software: l.Peer.Software, Since: l.Since,
			RTT: l.Stats.RTT.Seconds(), ClockOffset: l.Stats.ClockOffset.Seconds(), Sessions: l.Sessions, Differences: l.Differences,
		}
	}
	return r, err
}

// replyReplicaStatus answers replica status.
func (s *server) replyReplicaStatus(ctx context.Context, args url.Values, out io.Writer) error {
	if mask := args.Get("mask"); mask != "" {
		rows, err := s.pair.node.Accounts(ctx, mask)
		if err != nil {
			return err
		}
		return tellAccounts(out, rows, wantsJSON(args), s.pairModes())
	}
	r, err := s.pairReport(ctx)
	if err != nil {
		return err
	}
	if wantsJSON(args) {
		return json.NewEncoder(out).Encode(r)
	}
	return tellPair(out, r)
}

// tellPair prints the counters under the labels of doveadm replicator status,
// and below what that does not know.
func tellPair(out io.Writer, r pairReport) error {
	for _, line := range []struct {
		label string
		n     int
	}{
		{"Queued 'sync' requests", r.QueuedSync}, {"Queued 'high' requests", r.QueuedHigh}, {"Queued 'low' requests", r.QueuedLow},
		{"Queued 'failed' requests", r.QueuedFailed}, {"Queued 'full resync' requests", r.QueuedFullResync},
		{"Waiting 'failed' requests", r.WaitingFailed}, {"Total number of known users", r.KnownUsers},
	} {
		fmt.Fprintf(out, "%-30s%d\n", line.label, line.n)
	}
	table := newTable(out)
	fmt.Fprintf(table, "\nstate\t%s\n", strings.TrimSuffix(r.State+": "+r.Reason, ": "))
	fmt.Fprintf(table, "node\t%d, %s\n", r.Node, r.Mode)
	if p := r.Partner; p != nil {
		tellPartner(table, r, p)
	}
	fmt.Fprintf(table, "lag\t%d operation(s), %d octets under way, the oldest for %s\n", r.LagOperations, r.LagOctets, seconds(r.LagSeconds))
	fmt.Fprintf(table, "attached\t%d account(s)\n", r.Attached)
	if b := r.Bootstrap; b != nil {
		fmt.Fprintf(table, "joining\t%d of %d account(s), %d of %d octets are here; %s left\n", b.Done, b.Accounts, b.Moved, b.Octets, seconds(b.SecondsLeft))
		if b.StuckAccounts > 0 {
			fmt.Fprintf(table, "stopped\t%d account(s) do not come: %s; postern replica status MASK tells why of each, postern replica resume tries again\n",
				b.StuckAccounts, strings.Join(b.Stuck, " "))
		}
	}
	if r.Paused {
		fmt.Fprintln(table, "paused\tall accounts; postern replica resume ends it")
	}
	return table.Flush()
}

func tellPartner(table io.Writer, r pairReport, p *partnerReport) {
	from := "since " + p.Since.Format(time.RFC3339)
	if r.State == pairIsolated {
		from = "gone " + from
	}
	fmt.Fprintf(table, "partner\t%s, node %d, %s\n", p.Remote, p.Node, from)
	fmt.Fprintf(table, "program\t%s\n", p.Software)
	fmt.Fprintf(table, "network\tround trip %s, clock %s ahead, session number %d\n", seconds(p.RTT), seconds(p.ClockOffset), p.Sessions)
	for _, d := range p.Differences {
		fmt.Fprintf(table, "differs\t%s\n", d)
	}
	if r.PeerJoining {
		fmt.Fprintln(table, "partner\thas not all mailboxes yet")
	}
}

func seconds(s float64) time.Duration {
	d := time.Duration(s * float64(time.Second))
	if d.Abs() >= time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Microsecond)
}

// accountReport is a line of replica status MASK, in JSON.
type accountReport struct {
	Account       string     `json:"username"`
	Priority      string     `json:"priority"`
	FastSync      *time.Time `json:"fast_sync"`
	FullSync      *time.Time `json:"full_sync"`
	SuccessSync   *time.Time `json:"success_sync"`
	Failed        bool       `json:"failed"`
	Failure       string     `json:"failure,omitempty"`
	LagOperations uint64     `json:"lag_operations"`
	LagOctets     int        `json:"lag_octets"`
	LagSeconds    float64    `json:"lag_seconds"`
	Home          uint8      `json:"home"`
	Mode          string     `json:"mode"`
	LastVerify    *time.Time `json:"last_verify"`
	VerifiedSame  bool       `json:"verified_same"`
	State         string     `json:"state"`
}

func whenever(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func asReport(a replica.AccountState, mode func(string) string) accountReport {
	r := accountReport{
		Account: a.Name, FastSync: whenever(a.Success), FullSync: whenever(a.Full), SuccessSync: whenever(a.Success),
		LagOperations: a.Operations, LagOctets: a.Octets, Home: a.Home, Mode: mode(a.Name), LastVerify: whenever(a.Verified.At),
		VerifiedSame: a.Verified.Same, State: a.State,
		Failure: cmp.Or(a.Quarantine, a.Failure),
	}
	if a.Operations > 0 && !a.Since.IsZero() {
		r.LagSeconds = time.Since(a.Since).Seconds()
	}
	switch p := a.Priority(); p {
	case "failed":
		r.Priority, r.Failed = "none", true
	case "full":
		r.Priority = "low"
	default:
		r.Priority = p
	}
	return r
}

// tellAccounts prints the columns of doveadm replicator status MASK, and ours.
func tellAccounts(out io.Writer, rows []replica.AccountState, asJSON bool, mode func(string) string) error {
	if asJSON {
		lines := json.NewEncoder(out)
		for _, a := range rows {
			if err := lines.Encode(asReport(a, mode)); err != nil {
				return err
			}
		}
		return nil
	}
	table := newTable(out, "username", "priority", "fast sync", "full sync", "success sync", "failed", "lag-ops", "lag-age", "home", "verified", "state")
	for _, a := range rows {
		r := asReport(a, mode)
		failed, verified := "-", since(r.LastVerify)
		if r.Failed {
			failed = "y"
		}
		if r.LastVerify != nil && !r.VerifiedSame {
			verified += " DIFFERS"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\tnode%d\t%s\t%s\n", r.Account, r.Priority, since(r.FastSync), since(r.FullSync),
			since(r.SuccessSync), failed, r.LagOperations, clock(time.Duration(r.LagSeconds*float64(time.Second))), r.Home, verified,
			strings.TrimSuffix(r.State+": "+r.Failure, ": "))
	}
	return table.Flush()
}

// since is how long ago something was, as doveadm prints it.
func since(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return clock(time.Since(*t))
}

func clock(d time.Duration) string {
	s := int(max(0, d).Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

// replyReplicaSessions answers replica sessions: the connection, and what is
// done over it now.
func (s *server) replyReplicaSessions(_ context.Context, args url.Values, out io.Writer) error {
	rows := s.pair.node.Sessions()
	if wantsJSON(args) {
		return tellAccounts(out, rows, true, s.pairModes())
	}
	l := s.pair.link.Status()
	table := newTable(out)
	if l.Connected {
		fmt.Fprintf(table, "connected\t%s, node %d, since %s\n", l.Peer.Remote, l.Peer.Node, l.Since.Format(time.RFC3339))
		fmt.Fprintln(table, "\nCLASS\tSENT\tRECEIVED\tQUEUED\tOUTSTANDING\tSTALLS")
		for c := range link.Classes {
			st := l.Stats.Classes[c]
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\n", link.Class(c), st.SentOctets, st.ReceivedOctets, st.Queued, st.Outstanding, st.Stalls)
		}
	} else {
		fmt.Fprintf(table, "not connected\t%s\n", l.Failure)
	}
	fmt.Fprintln(table, "\nusername\ttype\tstatus")
	for _, a := range rows {
		kind := "incremental"
		if a.Merging {
			kind = "full"
		}
		fmt.Fprintf(table, "%s\t%s\t%s, %d operation(s) behind\n", a.Name, kind, a.State, a.Operations)
	}
	return table.Flush()
}

func replicaStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "status [MASK]", Short: "Tell how the pair does, or the accounts that MASK names", Args: cobra.MaximumNArgs(1),
		Long: "Prints the counters of doveadm replicator status under the same labels, and how the pair does. With MASK, in which\n" +
			"* stands for any characters, the columns of doveadm replicator status MASK and further ones, a line an account; --json\n" +
			"has durability and octets, too.\n" +
			"--check prints one line for monitoring and ends with 0 (fine), 1 (isolated, or catching up), 2 (somebody must act)\n" +
			"or 3 (not known, as no server answers).",
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "json")
			if len(args) > 0 {
				values.Set("mask", args[0])
			}
			if check, _ := c.Flags().GetBool("check"); check {
				return checkPair(c)
			}
			return callServer(c, "replica/status", values)
		},
	}
	c.Flags().Bool("json", false, "one JSON object, or one a line with MASK")
	c.Flags().Bool("check", false, "one line and an exit status, for monitoring")
	return c
}

// checkPair is a check as monitoring systems know it.
func checkPair(c *cobra.Command) error {
	var text strings.Builder
	var r pairReport
	err := callServerTo(c, "replica/status", url.Values{"json": {"true"}}, &text)
	if err == nil {
		err = json.Unmarshal([]byte(text.String()), &r)
	}
	if err != nil {
		return &exitStatus{status: 3, err: fmt.Errorf("UNKNOWN: %w", err)}
	}
	level, why := judgePair(r)
	line := fmt.Sprintf("%s: %s, %d accounts, %d operation(s) behind for %s", []string{"OK", "WARNING", "CRITICAL"}[level], why, r.KnownUsers, r.LagOperations, seconds(r.LagSeconds))
	if level == 0 {
		_, err := fmt.Fprintln(c.OutOrStdout(), line)
		return err
	}
	fmt.Fprintln(c.OutOrStdout(), line)
	return &exitStatus{status: level, err: errors.New(why)}
}

// lateSeconds is how far behind the partner may be before a check warns.
const lateSeconds = 300

// judgePair is 0 for fine, 1 for degraded, 2 for somebody must act.
func judgePair(r pairReport) (level int, why string) {
	switch {
	case r.State == pairStale || r.Refused:
		return 2, strings.TrimSuffix(r.State+": "+r.Reason, ": ")
	case r.WaitingFailed > 0:
		return 2, fmt.Sprintf("%d account(s) failed; postern replica status '*' tells which", r.WaitingFailed)
	case r.State != pairReady:
		return 1, strings.TrimSuffix(r.State+": "+r.Reason, ": ")
	case r.LagSeconds > lateSeconds:
		return 1, "the partner is late"
	case r.Paused:
		return 1, "paused"
	}
	return 0, r.State
}

func replicaSessionsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "sessions", Short: "Tell what the two servers are exchanging now", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return callServer(c, "replica/sessions", flagArgs(c, "json"))
		},
	}
	c.Flags().Bool("json", false, "one JSON object a line")
	return c
}

// pairModes tells the durability of an account.
func (s *server) pairModes() func(account string) string {
	return s.current.Load().file.Backend.Replica.DurabilityOf
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/greylist"
)

// greylist makes check_greylist.
func (b *builder) greylist(spec policy.Spec) (policy.Stage, error) {
	cfg, err := b.file.Gateway.GreylistRoom().With(spec)
	if err != nil {
		return nil, err
	}
	lists := greylist.Open(b.facts(), b.file.Gateway.Greylist.MaxEntries)
	stage, err := greylist.New(cfg, lists, b.opener("policy"), b.metrics)
	if err != nil {
		return nil, err
	}
	for _, t := range stage.Tables() {
		b.task("table "+t.Name(), t.Run)
	}
	return stage, nil
}

// greylistCommands adds what the control socket answers about the greylist.
func (s *server) greylistCommands(c admin.Commands) {
	if s.policyState == nil {
		return
	}
	c["greylist/list"] = s.replyGreylist
	c["greylist/delete"] = s.replyGreylistDelete
	c["greylist/allow"] = s.replyGreylistAllow
}

// greylistLists returns the lists as the configuration in force bounds them.
func (s *server) greylistLists() *greylist.Lists {
	return greylist.Open(s.policyState.facts, s.current.Load().file.Gateway.Greylist.MaxEntries)
}

// greylistClient returns what an address or network given by an operator is in
// the lists.
func (s *server) greylistClient(text string) string {
	cfg := s.current.Load().file.Gateway.GreylistRoom()
	if ip, err := netip.ParseAddr(text); err == nil {
		return cfg.ClientKey(ip)
	}
	if network, err := netip.ParsePrefix(text); err == nil {
		return network.Masked().String()
	}
	return strings.ToLower(text)
}

// matching returns what an operator means: everything, a client, or a part of
// an address.
func (s *server) matching(what string) func(greylist.Entry) bool {
	if what == "" || what == everybody {
		return func(greylist.Entry) bool { return true }
	}
	client, part := s.greylistClient(what), strings.ToLower(what)
	return func(e greylist.Entry) bool {
		return e.Client == client || strings.Contains(e.Sender, part) || strings.Contains(e.Recipient, part)
	}
}

func (s *server) replyGreylist(_ context.Context, args url.Values, out io.Writer) error {
	matches, state := s.matching(args.Get("of")), args.Get("state")
	asJSON := wantsJSON(args)
	table := newTable(out)
	if !asJSON {
		fmt.Fprintln(table, "STATE\tCLIENT\tSENDER\tRECIPIENT\tSINCE\tPASSES\tUNTIL")
	}
	lines := json.NewEncoder(out)
	shown, more := 0, 0
	var failed error
	s.greylistLists().Range(func(e greylist.Entry) bool {
		switch {
		case state != "" && string(e.State) != state || !matches(e):
		case asJSON:
			failed = lines.Encode(e)
		case shown == mostRows:
			more++
		default:
			shown++
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", e.State, e.Client, e.Sender, e.Recipient, e.At.Format(time.DateTime), e.Count, e.Expires.Format(time.DateTime))
		}
		return failed == nil
	})
	if more > 0 {
		fmt.Fprintf(table, "... and %d more; name a client or address, or use --json\n", more)
	}
	return errors.Join(failed, table.Flush())
}

func (s *server) replyGreylistDelete(_ context.Context, args url.Values, out io.Writer) error {
	what := args.Get("of")
	if what == "" {
		return errors.New("whom to forget is missing")
	}
	_, err := fmt.Fprintf(out, "%d entries about %s are forgotten, here and at the peers.\n", s.greylistLists().Delete(s.matching(what)), what)
	return err
}

// longestAllowance bounds for how long a client is let pass by a command; who
// is to pass for ever belongs into the configuration.
const longestAllowance = 366 * 24 * time.Hour

func (s *server) replyGreylistAllow(_ context.Context, args url.Values, out io.Writer) error {
	lasts, err := time.ParseDuration(args.Get("for"))
	if err != nil || lasts <= 0 || lasts > longestAllowance {
		return fmt.Errorf("a time of %q is not between 1s and %s; clients that never wait belong into the configuration: clients in the greylist block", args.Get("for"), longestAllowance)
	}
	client := s.greylistClient(args.Get("of"))
	if client == "" {
		return errors.New("whom to let pass is missing")
	}
	until := time.Now().Add(lasts)
	s.greylistLists().Allow(client, until)
	_, err = fmt.Fprintf(out, "%s passes until %s, here and at the peers.\n", client, until.Format(time.DateTime))
	return err
}

func greylistCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "greylist", Short: "See and change what the greylist knows",
		Long: "Where a policy has check_greylist, who was never seen is put off for some minutes. These\n" +
			"commands ask the running server, and what they change is told to the other gateways.",
	}
	list := &cobra.Command{
		Use: "list [CLIENT|ADDRESS]", Short: "List who waits, who passed, and which clients are known", Args: cobra.MaximumNArgs(1),
		Long: "CLIENT is an address, a network or the domain of a pool; ADDRESS any part of a sender or\n" +
			"recipient as the list has them.",
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "json")
			if state, err := c.Flags().GetString("state"); err == nil && state != "" {
				values.Set("state", state)
			}
			if len(args) > 0 {
				values.Set("of", args[0])
			}
			return callServer(c, "greylist/list", values)
		},
	}
	list.Flags().Bool("json", false, "one JSON object a line, all of them")
	list.Flags().String("state", "", "only those in `STATE`: waiting, passed, client or allowed")
	remove := &cobra.Command{
		Use: "delete CLIENT|ADDRESS|ALL", Short: "Forget entries", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return callServer(c, "greylist/delete", url.Values{"of": {args[0]}})
		},
	}
	allow := &cobra.Command{
		Use: "allow CLIENT", Short: "Let a client pass for some time", Args: cobra.ExactArgs(1),
		Long: "CLIENT is an address, whose network passes then, or a network as the list has it, or the\n" +
			"domain of a pool.",
		RunE: func(c *cobra.Command, args []string) error {
			lasts, err := c.Flags().GetDuration("for")
			if err != nil {
				return err
			}
			return callServer(c, "greylist/allow", url.Values{"of": {args[0]}, "for": {lasts.String()}})
		},
	}
	allow.Flags().Duration("for", 35*24*time.Hour, "how `LONG`, such as 72h")
	c.AddCommand(list, remove, allow)
	return c
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
)

func routeCommand() *cobra.Command {
	var from string
	c := &cobra.Command{
		Use: "route ADDRESS", Short: "Tell where mail to an address goes, host by host, and how it is protected", Args: cobra.ExactArgs(1),
		Long: "Asks the running server for the target and next hop of an address as it stands, without aliases,\n" +
			"and what decided them; for the hosts found in the DNS in the order they are tried in, and for the\n" +
			"TLS each must have and why. Connects to none of them.",
		RunE: func(c *cobra.Command, args []string) error {
			return callServer(c, "route", url.Values{"address": args, "from": {from}})
		},
	}
	c.Flags().StringVar(&from, "from", "", "the sender, where the route depends on it; without it the null reverse-path")
	return c
}

// replyRoute answers the route command.
func (s *server) replyRoute(ctx context.Context, args url.Values, out io.Writer) error {
	address, err := mail.ParseAddress(args.Get("address"))
	if err != nil {
		return err
	}
	var from mail.Address
	if text := strings.Trim(args.Get("from"), "<>"); text != "" {
		if from, err = mail.ParseAddress(text); err != nil {
			return err
		}
	}
	return explainRoute(ctx, s.current.Load().router, from, address, out)
}

func explainRoute(ctx context.Context, router *delivery.Router, from, address mail.Address, out io.Writer) error {
	e, endpoints, err := router.Explain(ctx, from, mail.Recipient{Address: address})
	fmt.Fprintf(out, "%s: ", address)
	if e.Says == "" {
		fmt.Fprintf(out, "target %s", e.Route.Transport)
		if e.Route.NextHop != "" {
			fmt.Fprintf(out, ", next hop %s", e.Route.NextHop)
		}
	} else {
		fmt.Fprint(out, e.Says)
	}
	fmt.Fprintf(out, " (%s)\n", e.Why)
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		fmt.Fprintf(out, "  %s", e)
		if e.Plan != nil {
			plan, err := e.Plan(ctx, tlspolicy.AsPolicy)
			if err != nil {
				fmt.Fprintf(out, "  no mail now: %v", err)
			} else {
				fmt.Fprintf(out, "  TLS %s (%s)", plan.Level, plan.Why)
			}
		}
		fmt.Fprintln(out)
	}
	return nil
}

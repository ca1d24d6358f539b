package main

import (
	"context"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
)

func routeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "route ADDRESS", Short: "Tell where mail to an address goes, host by host, and how it is protected", Args: cobra.ExactArgs(1),
		Long: "Asks the running server for the target and next hop of an address as it stands, without aliases,\n" +
			"for the hosts found in the DNS in the order they are tried in, and for the TLS each must have and\n" +
			"why. Connects to none of them.",
		RunE: func(c *cobra.Command, args []string) error {
			return callServer(c, "route", url.Values{"address": args})
		},
	}
}

// replyRoute answers the route command.
func (s *server) replyRoute(ctx context.Context, args url.Values, out io.Writer) error {
	address, err := mail.ParseAddress(args.Get("address"))
	if err != nil {
		return err
	}
	return explainRoute(ctx, s.current.Load().router, address, out)
}

func explainRoute(ctx context.Context, router *delivery.Router, address mail.Address, out io.Writer) error {
	route, endpoints, err := router.Explain(ctx, mail.Address{}, mail.Recipient{Address: address})
	fmt.Fprintf(out, "%s: target %s", address, route.Transport)
	if route.NextHop != "" {
		fmt.Fprintf(out, ", next hop %s", route.NextHop)
	}
	fmt.Fprintln(out)
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

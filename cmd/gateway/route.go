package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

func routeCommand() *cobra.Command {
	var from string
	c := &cobra.Command{
		Use: "route ADDRESS", Short: "Tell where mail to an address goes, host by host, and how it is protected", Args: cobra.ExactArgs(1),
		Long: "Asks the running server for the target and next hop of an address, or of those it stands for in our\n" +
			"domains, and what decided them; for the hosts found in the DNS in the order they are tried in, and for\n" +
			"the TLS each must have and why. Connects to none of them.",
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
	return s.current.Load().explainRoutes(ctx, from, address, out)
}

// maxExplained bounds the recipients of a group whose routes are told.
const maxExplained = 20

// explainRoutes tells the routes of all that an address stands for, as RCPT
// would find them.
func (g *generation) explainRoutes(ctx context.Context, from, address mail.Address, out io.Writer) error {
	if g.router == nil {
		return errors.New("this server has no gateway, and sends no mail")
	}
	recipients, err := g.recipientsOf(ctx, address)
	if status.Of(err) == status.NoSuchUser {
		fmt.Fprintf(out, "%s: refused, no such address (postern lookup tells what the directory was asked)\n", address)
		return nil
	}
	if err != nil {
		return err
	}
	if len(recipients) != 1 || recipients[0].Address != address {
		fmt.Fprintf(out, "%s stands for %d recipient(s)\n", address, len(recipients))
	}
	var failed error
	for n, r := range recipients {
		if n == maxExplained {
			fmt.Fprintf(out, "and %d more\n", len(recipients)-n)
			break
		}
		if err := explainRoute(ctx, g.router, from, r, out); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", r.Address, err))
		}
	}
	return failed
}

// recipientsOf returns whom mail to an address goes to, with the routes that
// the directory gives.
func (g *generation) recipientsOf(ctx context.Context, address mail.Address) ([]mail.Recipient, error) {
	if g.rewriter != nil {
		var err error
		if address, err = g.rewriter.Recipient(ctx, address); err != nil {
			return nil, err
		}
	}
	book := g.addresses()
	if book.Class(address.Domain) == policy.Other {
		return []mail.Recipient{{Address: address}}, nil
	}
	return book.Resolve(ctx, address, nil)
}

func explainRoute(ctx context.Context, router *delivery.Router, from mail.Address, rcpt mail.Recipient, out io.Writer) error {
	e, endpoints, err := router.Explain(ctx, from, rcpt)
	fmt.Fprintf(out, "%s: ", rcpt.Address)
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

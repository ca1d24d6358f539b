package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite/srs"
)

func srsCommand() *cobra.Command {
	c := &cobra.Command{Use: "srs", Short: "Make and read rewritten senders (SRS)"}
	c.AddCommand(&cobra.Command{
		Use: "key", Short: "Make a key for secret_files", Args: cobra.NoArgs,
		Long: "Prints a new random key. Put it into a file that nobody else can read, as its first line.",
		RunE: func(c *cobra.Command, _ []string) error {
			key := make([]byte, 24)
			if _, err := rand.Read(key); err != nil {
				return err
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), base64.StdEncoding.EncodeToString(key))
			return err
		},
	}, srsTool("encode", "Print what the sender of forwarded mail becomes", func(r *srs.Rewriter, a mail.Address) (mail.Address, error) {
		return r.Encode(a, time.Now())
	}), srsTool("decode", "Print who is behind a rewritten sender of ours", func(r *srs.Rewriter, a mail.Address) (mail.Address, error) {
		if a.Domain != r.Domain() {
			return a, fmt.Errorf("%s: rewritten senders of ours are in %s", a, r.Domain())
		}
		return r.Decode(a.Local, time.Now())
	}))
	return c
}

// srsTool is a command that turns one address into another by the keys of the
// configuration.
func srsTool(name, short string, turn func(*srs.Rewriter, mail.Address) (mail.Address, error)) *cobra.Command {
	return &cobra.Command{
		Use: name + " ADDRESS", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := config.Load(configPath(c))
			if err != nil {
				return err
			}
			if f.Gateway == nil || f.Gateway.SRS == nil {
				return errors.New("the configuration has no srs block")
			}
			cfg, err := f.Gateway.SRS.Room()
			if err != nil {
				return err
			}
			r, err := srs.New(cfg)
			if err != nil {
				return err
			}
			a, err := mail.ParseAddress(args[0])
			if err == nil {
				a, err = turn(r, a)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), a)
			return nil
		},
	}
}

func rewriteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rewrite ADDRESS", Short: "Tell what an address becomes, where it stands in a message", Args: cobra.ExactArgs(1),
		Long: "Applies the rewrite block of the configuration to an address, as it would be in the envelope, in\n" +
			"the header of mail of our own clients, and on the way out by SMTP. Asks the tables, no server.",
		RunE: func(c *cobra.Command, args []string) error {
			g, err := idleGeneration(configPath(c))
			if err != nil {
				return err
			}
			defer g.runHelpers(c.Context())()
			if g.rewriter == nil {
				return errors.New("the configuration has no rewrite block: addresses stay as they are")
			}
			var a mail.Address
			if err := a.UnmarshalText([]byte(args[0])); err != nil {
				return err
			}
			steps, err := g.rewriter.Explain(c.Context(), a)
			for _, s := range steps {
				fmt.Fprintf(c.OutOrStdout(), "%-18s  %s\n", s.Class, s.Address)
			}
			if err != nil {
				return err
			}
			out, err := g.outbound.Explain(c.Context(), a)
			if err == nil {
				fmt.Fprintf(c.OutOrStdout(), "%-18s  %s\n", "smtp_generic_maps", out)
			}
			return err
		},
	}
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/helper/process"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/logs"
	"github.com/postern-mail/postern/mail"
)

// discard audits nothing: for commands that only look.
type discard struct{}

func (discard) Record(mail.Event) {}

// stderrLog is the log of commands that run on their own.
func stderrLog(level string) hclog.Logger {
	return logs.New(logs.Config{Level: level}, os.Stderr)
}

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check or show the configuration"}
	c.AddCommand(&cobra.Command{
		Use: "check", Short: "Tell every mistake in the configuration", Args: cobra.NoArgs,
		Long: "Reads the configuration and every file it names, and tells every mistake with its place and\n" +
			"what to do. Touches no network and no data. Exits with 1 when anything is wrong.",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := check(configPath(c))
			if err != nil {
				return err
			}
			for _, warning := range f.Warnings() {
				fmt.Fprintln(c.ErrOrStderr(), "warning: "+warning)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: no mistakes (%d file(s) read)\n", configPath(c), len(f.Sources()))
			return nil
		},
	})
	show := &cobra.Command{
		Use: "show", Short: "Print the configuration in effect", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := config.Load(configPath(c))
			if err != nil {
				return err
			}
			nonDefault, err := c.Flags().GetBool("non-default")
			if err != nil {
				return err
			}
			return f.Show(c.OutOrStdout(), nonDefault)
		},
	}
	show.Flags().Bool("non-default", false, "only what differs from the defaults")
	document := &cobra.Command{
		Use: "document", Short: "Print every setting with its meaning, as Markdown", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return config.Document(c.OutOrStdout()) },
	}
	c.AddCommand(show, document)
	return c
}

// check loads a configuration and builds everything of it that needs no
// network, so that each room's own complaints are heard too.
func check(path string) (*config.File, error) {
	g, err := idleGeneration(path)
	if err != nil {
		return nil, err
	}
	return g.file, g.certificates()
}

// idleGeneration builds the rooms of a configuration for a command that only
// asks them: nothing of it runs.
func idleGeneration(path string) (*generation, error) {
	f, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	return newGeneration(f, discard{}, nil, hclog.NewNullLogger(), lived{})
}

func passwordCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "password", Short: "Make a hash for a password file or a directory", Args: cobra.NoArgs,
		Long: "Reads a password from standard input, one line, and prints its hash.",
		RunE: func(c *cobra.Command, _ []string) error {
			scheme, err := c.Flags().GetString("scheme")
			if err != nil {
				return err
			}
			line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 1<<12)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read password: %w", err)
			}
			password := strings.TrimRight(line, "\r\n")
			if err := authn.CheckPassword(password); err != nil {
				return err
			}
			hash, err := authn.MakeHash(scheme, password)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), hash)
			return nil
		},
	}
	c.Flags().String("scheme", "", "one of "+strings.Join(authn.MakeSchemes(), ", "))
	return c
}

func auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Look at the audit"}
	c.AddCommand(&cobra.Command{
		Use: "verify FILE...", Short: "Check that no record is missing or changed", Args: cobra.MinimumNArgs(1),
		Long: "Checks the chain through the files, oldest first. Exits with 1 where it does not hold.",
		RunE: func(c *cobra.Command, files []string) error {
			var readers []io.Reader
			for _, name := range files {
				file, err := os.Open(name)
				if err != nil {
					return err
				}
				defer func() { _ = file.Close() }() // only read
				readers = append(readers, file)
			}
			v, err := audit.Verify(io.MultiReader(readers...))
			if err != nil {
				return err
			}
			for _, b := range v.Breaks {
				fmt.Fprintf(c.OutOrStdout(), "line %d: %s\n", b.Line, b.Why)
			}
			if n := len(v.Breaks); n > 0 {
				return fmt.Errorf("the chain is broken in %d place(s)", n)
			}
			fmt.Fprintf(c.OutOrStdout(), "%d records, %d to %d: the chain holds\n", v.Lines, v.FirstSeq, v.LastSeq)
			return nil
		},
	})
	return c
}

func authHelperCommand() *cobra.Command {
	return &cobra.Command{
		Use: "auth-helper", Short: "Ask PAM, Kerberos and the system's users on behalf of the server (run by systemd or by the server)",
		Aliases:            []string{"pam-helper"}, // its name while it knew PAM only
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			return process.Main(c.Context(), args, stderrLog("info").Named("auth-helper"))
		},
	}
}

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
)

func directoryCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check [NAME]", Short: "Examine the servers of the directories and tell what to mend", Args: cobra.MaximumNArgs(1),
		Long: "Examines each server of each directory, or of the one of that name, and of tables with servers of their own:\n" +
			"name and connection, TLS and certificate, the service account's login, limits, and whether base, filters and\n" +
			"attributes are there. Needs no running server. Exits with 1 when anything failed.",
		RunE: func(c *cobra.Command, args []string) error {
			g, err := idleGeneration(configPath(c))
			if err != nil {
				return err
			}
			if len(args) > 0 && g.file.Directory(args[0]) == nil {
				return fmt.Errorf("there is no directory %q in %s", args[0], configPath(c))
			}
			failures := 0
			for _, d := range g.file.Directories {
				if len(args) == 0 || d.Name == args[0] {
					failures += g.checkDirectory(c.Context(), d, c.OutOrStdout())
				}
			}
			if failures > 0 {
				return fmt.Errorf("%d failure(s)", failures)
			}
			return nil
		},
	}
}

// checkDirectory tells what is found about a directory, and counts failures.
func (g *generation) checkDirectory(ctx context.Context, d *config.Directory, out io.Writer) (failures int) {
	source := g.sources[d.Name]
	if source.client == nil {
		fmt.Fprintf(out, "directory %s (%s) has no servers; its files were read\n", d.Name, d.Kind)
	} else {
		fmt.Fprintf(out, "directory %s\n", d.Name)
		failures += tellFindings(out, source.client.Check(ctx, source.Needs()))
	}
	for _, t := range d.Tables {
		cfg, own := t.LDAP(d)
		if !own {
			continue
		}
		fmt.Fprintf(out, "directory %s, table %s\n", d.Name, t.Name)
		client, err := g.tableClient(cfg)
		if err == nil {
			var table *directory.QueryTable
			if table, err = directory.NewQueryTable(t.Room(d.Base), client); err == nil {
				failures += tellFindings(out, client.Check(ctx, table.Needs()))
				continue
			}
		}
		failures += tellFindings(out, []ldap.Finding{{Grade: ldap.Failure, What: "table", Text: err.Error()}})
	}
	return failures
}

// tellFindings prints findings by server and counts failures.
func tellFindings(out io.Writer, findings []ldap.Finding) (failures int) {
	table := newTable(out)
	server := ""
	for _, f := range findings {
		if f.Server != server {
			server = f.Server
			_ = table.Flush() // the same failure will come at the end
			fmt.Fprintf(out, "  %s\n", server)
		}
		fmt.Fprintf(table, "    %s\t%s\t%s\n", f.Grade, f.What, f.Text)
		if f.Advice != "" && f.Grade != ldap.Fine {
			_ = table.Flush()
			fmt.Fprintf(out, "      what to do: %s\n", f.Advice)
		}
		if f.Grade == ldap.Failure {
			failures++
		}
	}
	_ = table.Flush()
	return failures
}

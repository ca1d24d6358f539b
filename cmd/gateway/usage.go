package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// explainUsage has c and the commands below it answer a mistake at the shell
// with one line that tells what is meant and where there is help. A command
// that only groups others prints its help, and refuses a word that is none of
// them.
func explainUsage(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return fmt.Errorf("%w; see %s --help", err, c.CommandPath()) })
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = isSubcommand
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	} else if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if check(c, args) != nil {
				return fmt.Errorf("%d arguments were given; usage: %s", len(args), c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		explainUsage(sub)
	}
}

// isSubcommand is asked only about words that are no subcommand of c.
func isSubcommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	help := fmt.Sprintf("see %s --help", c.CommandPath())
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		help = fmt.Sprintf("did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q for %q; %s", args[0], c.CommandPath(), help)
}

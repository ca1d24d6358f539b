package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/nearest"
)

// explainUsage has c and the commands below it answer a mistake at the shell
// with one line that tells what is meant and where there is help. A command
// that only groups others prints its help, and refuses a word that is none of
// them.
func explainUsage(c *cobra.Command) {
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
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest.Word(args[0], names); near != "" {
		help = fmt.Sprintf("did you mean %s?", near)
	}
	return fmt.Errorf("unknown command %q for %q; %s", args[0], c.CommandPath(), help)
}

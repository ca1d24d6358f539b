package main

import (
	"github.com/spf13/cobra"
)

// debugCommand is for who wants to know what the server is busy with.
func debugCommand() *cobra.Command {
	c := &cobra.Command{Use: "debug", Short: "Look into the running server"}
	profile := &cobra.Command{
		Use: "profile KIND", Short: "Take a profile of the running server", Args: cobra.ExactArgs(1),
		Long: "Writes a profile to standard output, for: go tool pprof FILE. KIND is cpu, heap, allocs, goroutine,\n" +
			"mutex, block or threadcreate. A profile names functions of the program and nothing of mail.",
		Example: "  postern debug profile cpu --seconds 30 >cpu.pprof",
		RunE: func(c *cobra.Command, kinds []string) error {
			args := flagArgs(c)
			args.Set("kind", kinds[0])
			args.Set("seconds", c.Flags().Lookup("seconds").Value.String())
			return callServer(c, "debug/profile", args)
		},
	}
	profile.Flags().Int("seconds", 10, "how long to watch, for cpu")
	c.AddCommand(profile)
	return c
}

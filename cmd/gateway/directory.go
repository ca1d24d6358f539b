package main

import "github.com/spf13/cobra"

func directoryCommand() *cobra.Command {
	c := &cobra.Command{Use: "directory", Short: "See to the directories"}
	c.AddCommand(directoryCheckCommand(), directoryTestCommand())
	c.AddCommand(replicaToolCommands()...)
	return c
}

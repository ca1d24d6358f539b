// Command postern is an enterprise mail gateway and mailbox backend in one
// binary: see README.md and docs/.
//
// main reads like the map of the house: load the configuration, build the
// rooms leaf-first, run them, wait. Only this package reads flags.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
)

// version is set by the build.
var version = ""

func main() { os.Exit(run()) }

// run is main with an exit status, for tests that call it as a command.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end; a second one ends the process.
	context.AfterFunc(ctx, stop)
	command := root()
	command.SetArgs(calledAs(os.Args))
	if err := command.ExecuteContext(ctx); err != nil {
		exit := &exitStatus{status: 1}
		errors.As(err, &exit)
		var mistakes *config.Mistakes
		if errors.As(err, &mistakes) {
			fmt.Fprintf(os.Stderr, "%v\n\npostern: %d mistake(s) in the configuration; nothing was started\n", err, mistakes.Count())
		} else {
			fmt.Fprintf(os.Stderr, "%s: %v\n", cmp.Or(exit.speaker, "postern"), err)
		}
		return exit.status
	}
	return 0
}

// exitStatus is an error that ends the program with another status than 1, or
// that is told apart from those that do.
type exitStatus struct {
	status  int
	err     error
	speaker string // who says so; "" for postern
}

func (e *exitStatus) Error() string { return e.err.Error() }
func (e *exitStatus) Unwrap() error { return e.err }

// defaultConfig is where packages put the configuration.
const defaultConfig = "/etc/postern/postern.hcl"

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "postern",
		Short: "Mail gateway and mailbox backend on your directory",
		Long: "Postern takes mail in by SMTP, knows people and groups from LDAP or LDIF, decides by policy,\n" +
			"queues durably, delivers by LMTP, and serves the mailboxes by IMAP.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       versionText(),
	}
	c.SetVersionTemplate("{{.Version}}\n")
	c.PersistentFlags().StringP("config", "c", defaultConfig, "configuration `FILE`")
	c.AddCommand(
		serveCommand(), demoCommand(), reloadCommand(), drainCommand(), statusCommand(), configCommand(),
		sessionsCommand(), kickCommand(),
		queueCommand(),
		sendmailCommand(),
		lookupCommand(),
		directoryCommand(),
		routeCommand(),
		rewriteCommand(),
		policyCommand(),
		tableCommand(),
		srsCommand(),
		tlsrptCommand(), dmarcCommand(),
		mirrorCommand(),
		indexCommand(),
		reportsCommand(),
		passwordCommand(),
		authCommand(),
		limitsCommand(),
		greylistCommand(),
		dkimCommand(),
		appPasswordCommand(),
		auditCommand(),
		fsckCommand(),
		importCommand(), exportCommand(),
		mailboxCommand(),
		backupCommand(), restoreCommand(),
		replicaCommand(),
		authHelperCommand(),
		debugCommand(),
		versionCommand(),
	)
	explainUsage(c)
	return c
}

func configPath(c *cobra.Command) string {
	path, err := c.Flags().GetString("config")
	if err != nil {
		panic(err) // the flag is persistent on root
	}
	return path
}

func versionText() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	return fmt.Sprintf("postern %s (%s, %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version and build", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), versionText()) },
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/foreign"
	"github.com/postern-mail/postern/internal/logs"
	"github.com/postern-mail/postern/store/pebble"
)

// openMirrors makes what keeps foreign servers in step, with a store of its own.
func (s *server) openMirrors(ctx context.Context, f *config.File) error {
	mirrors, err := f.ForeignMirrors()
	if err != nil {
		return err
	}
	kv, err := openMirrorStore(ctx, f, s.log)
	if err != nil {
		return err
	}
	s.stores = append(s.stores, &engine{name: "mirror", kv: kv})
	s.mirrors, err = foreign.New(mirrors, foreign.Deps{Store: kv, Audit: s.audit, Metrics: s.metrics, Log: s.log.Named("mirror")})
	return err
}

func openMirrorStore(ctx context.Context, f *config.File, log hclog.Logger) (*pebble.Store, error) {
	kv, err := pebble.Open(ctx, pebble.Config{
		Dir: filepath.Join(f.DataDir, "mirror", "index"), ReserveOctets: reserveOf(f, "mirror"), CacheOctets: 16 << 20, MemTableOctets: 16 << 20,
	}, log.Named("store").With("store", "mirror"))
	if err != nil {
		return nil, fmt.Errorf("open the mirror store: %w", err)
	}
	return kv, nil
}

// sameMirrors reports whether two configurations have the same mirrors.
func sameMirrors(before, after *config.File) bool {
	var texts [2]string
	for i, f := range []*config.File{before, after} {
		var b strings.Builder
		if err := (&config.File{Mirrors: f.Mirrors}).Show(&b, false); err != nil {
			return reflect.DeepEqual(before.MirrorNames(), after.MirrorNames())
		}
		texts[i] = b.String()
	}
	return texts[0] == texts[1]
}

// mirrorCommands adds what the control socket answers about mirrors.
func (s *server) mirrorCommands(c admin.Commands) {
	if s.mirrors == nil {
		return
	}
	c["mirror/status"] = s.replyMirrorStatus
	orders := map[string]func(ctx context.Context, mirror, account, box string) error{
		"sync":    func(ctx context.Context, m, a, _ string) error { return s.mirrors.SyncNow(ctx, m, a) },
		"pair":    s.mirrors.Pair,
		"confirm": func(ctx context.Context, m, a, _ string) error { return s.mirrors.Confirm(ctx, m, a) },
		"restore": func(ctx context.Context, m, a, _ string) error { return s.mirrors.Restore(ctx, m, a) },
	}
	for name, do := range orders {
		c["mirror/"+name] = func(ctx context.Context, args url.Values, out io.Writer) error {
			if err := do(ctx, args.Get("mirror"), args.Get("account"), args.Get("mailbox")); err != nil {
				return err
			}
			_, err := fmt.Fprintln(out, "asked for; postern mirror status tells how it goes")
			return err
		}
	}
}

func (s *server) replyMirrorStatus(_ context.Context, args url.Values, out io.Writer) error {
	all := s.mirrors.Status(args.Get("mirror"), args.Get("account"))
	if wantsJSON(args) {
		return jsonLines(out, all)
	}
	if args.Get("account") != "" && len(all) == 0 {
		return foreign.ErrUnknownAccount
	}
	return printMirrors(out, all, args.Get("account") != "")
}

// printMirrors writes a line for each account, and with mailboxes one for each
// of these.
func printMirrors(out io.Writer, all []foreign.AccountStatus, mailboxes bool) error {
	table := newTable(out, "MIRROR", "ACCOUNT", "STATE", "WATCH", "IN STEP", "BEHIND", "MESSAGES", "TO COPY", "HELD", "ERROR")
	for _, s := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", s.Mirror, s.Account, s.State, watched(s.Watch), ago(s.InStep),
			s.Behind.Round(time.Millisecond), s.Messages, s.Waiting[0]+s.Waiting[1], s.Held, oneLine(s.Error))
	}
	if mailboxes {
		fmt.Fprintln(table, "\nMAILBOX\tMESSAGES\tTO RIGHT\tTO LEFT\tPAIRED\tIN STEP\tTROUBLE")
		for _, s := range all {
			for _, m := range s.Mailboxes {
				fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", m.Name, m.Messages, m.Waiting[0], m.Waiting[1], m.Pairings, ago(m.InStep), oneLine(m.Trouble))
			}
		}
	}
	return table.Flush()
}

func watched(w [2]string) string {
	if w[0] == w[1] {
		return w[0]
	}
	return w[0] + "/" + w[1]
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func mirrorCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "mirror", Short: "Keep two IMAP servers in step, and tell how that goes",
		Long: "Keeps the mailboxes of two IMAP servers in step, of which neither need be ours: the\n" +
			"mirror blocks of the configuration. postern serve does it as one of its roles; run\n" +
			"does it without a server.",
	}
	status := &cobra.Command{
		Use: "status [ACCOUNT]", Short: "Tell how accounts do; of one account, how its mailboxes do", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return callMirror(c, "status", args) },
	}
	status.Flags().Bool("json", false, "one JSON object a line, with mailboxes")
	c.AddCommand(status,
		&cobra.Command{
			Use: "sync [ACCOUNT]", Short: "Have everything looked at now", Args: cobra.MaximumNArgs(1),
			RunE: func(c *cobra.Command, args []string) error { return callMirror(c, "sync", args) },
		},
		&cobra.Command{
			Use: "pair ACCOUNT [MAILBOX]", Short: "Compare both sides as wholes once more; nothing is removed by it", Args: cobra.RangeArgs(1, 2),
			RunE: func(c *cobra.Command, args []string) error { return callMirror(c, "pair", args) },
		},
		&cobra.Command{
			Use: "confirm ACCOUNT", Short: "Let the removals that are held back be done", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error { return callMirror(c, "confirm", args) },
		},
		&cobra.Command{
			Use: "restore ACCOUNT", Short: "Copy back what is gone on one side, instead of removing it on the other", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error { return callMirror(c, "restore", args) },
		},
		mirrorCheckCommand(), mirrorRunCommand(),
	)
	for _, sub := range c.Commands() {
		sub.Flags().String("mirror", "", "only the mirror `NAME`")
	}
	return c
}

func callMirror(c *cobra.Command, name string, args []string) error {
	return askServer(c, "mirror/"+name, args, []string{"account", "mailbox"}, "mirror", "json")
}

// chosenMirrors loads the mirrors that --mirror names.
func chosenMirrors(c *cobra.Command) (*config.File, []foreign.Config, error) {
	f, err := config.Load(configPath(c))
	if err != nil {
		return nil, nil, err
	}
	all, err := f.ForeignMirrors()
	if err != nil {
		return nil, nil, err
	}
	want, err := c.Flags().GetString("mirror")
	if err != nil {
		return nil, nil, err
	}
	var chosen []foreign.Config
	for _, m := range all {
		if want == "" || m.Name == want {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return nil, nil, fmt.Errorf("%s has no such mirror; there are: %s", configPath(c), strings.Join(f.MirrorNames(), " "))
	}
	return f, chosen, nil
}

func mirrorCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check [ACCOUNT]", Short: "Log in to both sides and tell whether they can be mirrored; changes nothing", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, mirrors, err := chosenMirrors(c)
			if err != nil {
				return err
			}
			bad, checked := 0, 0
			for _, m := range mirrors {
				accounts, err := m.Accounts(c.Context())
				if err != nil {
					return err
				}
				for _, a := range accounts {
					if len(args) == 1 && a.Name != args[0] {
						continue
					}
					checked++
					for _, f := range foreign.Check(c.Context(), m, a) {
						if f.Err != nil {
							bad++
						}
						printFinding(c.OutOrStdout(), m.Name, a.Name, f)
					}
				}
			}
			switch {
			case checked == 0:
				return foreign.ErrUnknownAccount
			case bad > 0:
				return fmt.Errorf("%d side(s) cannot be mirrored", bad)
			}
			return nil
		},
	}
}

func printFinding(out io.Writer, mirror, account string, f foreign.Finding) {
	fmt.Fprintf(out, "%s %s ", mirror, account)
	if f.Err != nil {
		fmt.Fprintf(out, "cannot be mirrored: %v\n", f.Err)
		return
	}
	fmt.Fprintf(out, "%s: %d mailbox(es), %d message(s); changes by %s\n", f.Side, f.Mailboxes, f.Messages, f.Watch)
	note := func(fine bool, text string) {
		if !fine {
			fmt.Fprintln(out, "  note:", text)
		}
	}
	note(f.Watch == "notify", "without NOTIFY only INBOX is watched, other mailboxes are looked at every poll_interval")
	note(f.MessageID, "messages have no ids: what is moved between mailboxes is sent again")
	note(f.MailboxID || f.Mailboxes == 0, "mailboxes have no ids: a rename is known by UIDVALIDITY and content")
	note(f.Keyword, "INBOX takes no new keyword: after a crash, copies are looked for by what they hold")
	for _, text := range f.LeftAlone {
		note(false, "left alone: "+text)
	}
}

func mirrorRunCommand() *cobra.Command {
	run := &cobra.Command{
		Use: "run", Short: "Mirror in the foreground without a server", Args: cobra.NoArgs,
		Long: "Keeps the mirrors in step until it is stopped; with --once until everything is, which\n" +
			"suits a first copy and scripts. Not while postern serve runs the same configuration.",
		RunE: func(c *cobra.Command, _ []string) error {
			once, err := c.Flags().GetBool("once")
			if err != nil {
				return err
			}
			return runMirrors(c, once)
		},
	}
	run.Flags().Bool("once", false, "end when both sides are in step")
	return run
}

func runMirrors(c *cobra.Command, once bool) (err error) {
	f, mirrors, err := chosenMirrors(c)
	if err != nil {
		return err
	}
	out, err := openLog(f.Log.File)
	if err != nil {
		return err
	}
	log := logs.New(f.Log.Room(), out)
	if err := os.MkdirAll(f.DataDir, 0o750); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	kv, err := openMirrorStore(c.Context(), f, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kv.Close()) }()
	record, err := audit.Open(f.Audit.Room(), log.Named("audit"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	agent, err := foreign.New(mirrors, foreign.Deps{Store: kv, Audit: record, Metrics: prometheus.NewRegistry(), Log: log.Named("mirror")})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(c.Context())
	defer stop()
	var left error
	mirroring := task{"mirrors", func(running context.Context) error {
		if !once {
			return agent.Run(running)
		}
		left = agent.Once(running)
		stop()
		<-running.Done()
		return nil
	}}
	err = runPhases(ctx, []phase{{mirroring}, {{"audit", record.Run}, {"mirror store", (&engine{name: "mirror", kv: kv}).watch}}})
	return errors.Join(left, err)
}

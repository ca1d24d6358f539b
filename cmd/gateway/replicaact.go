package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/backend/replica"
)

// pairCommands are what the control socket answers about a pair. Where there is
// none they say so.
func (s *server) pairCommands(c admin.Commands) {
	for name, command := range map[string]admin.Command{
		"replica/status": s.replyReplicaStatus, "replica/sessions": s.replyReplicaSessions, "replica/replicate": s.replyReplicate,
		"replica/verify": s.replyVerify, "replica/scrub": s.replyScrub, "replica/pause": s.replyPause, "replica/resume": s.replyResume,
		"replica/rehome": s.replyRehome, "replica/explain": s.replyExplain,
	} {
		c[name] = func(ctx context.Context, args url.Values, out io.Writer) error {
			if s.pair == nil {
				return errors.New("this server is not one of a pair: its backend has no replica block; see docs/replication.md")
			}
			return command(ctx, args, out)
		}
	}
}

// eachAccount calls do for every account that the mask names; at least one.
func (s *server) eachAccount(ctx context.Context, mask string, do func(name string) error) error {
	rows, err := s.pair.node.Accounts(ctx, mask)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("no account on this server is like %q: masks name accounts as postern replica status '*' shows them, "+
			"which is how the directory names the mailbox and may be neither the login nor the address", mask)
	}
	for _, a := range rows {
		if err := do(a.Name); err != nil {
			return err
		}
	}
	return nil
}

// failures counts what went wrong for single accounts while the others go on.
type failures struct {
	out   io.Writer
	n     int
	total int
}

func (f *failures) tell(name string, err error, done string) error {
	f.total++
	if err != nil {
		f.n++
		done = "failed: " + err.Error()
	}
	_, err = fmt.Fprintf(f.out, "%s: %s\n", name, done)
	return err
}

func (f *failures) err() error {
	if f.n > 0 {
		return fmt.Errorf("%d of %d account(s) failed", f.n, f.total)
	}
	return nil
}

// replicateTime is how long one account's turn of replica replicate may take
// when only what waits is sent.
const replicateTime = time.Minute

func (s *server) replyReplicate(ctx context.Context, args url.Values, out io.Writer) error {
	full := args.Get("full") == "true"
	if err := s.pair.node.AwaitLink(ctx); err != nil {
		return err
	}
	told := failures{out: out}
	err := s.eachAccount(ctx, args.Get("mask"), func(name string) error {
		limited, cancel := ctx, context.CancelFunc(func() {})
		if !full {
			limited, cancel = context.WithTimeout(ctx, replicateTime)
		}
		defer cancel()
		done := "the partner has everything"
		if full {
			done = "compared, and both have everything"
		}
		return told.tell(name, s.pair.node.Replicate(limited, name, full), done)
	})
	return cmp.Or(err, told.err())
}

// verified is a line of replica verify, in JSON.
type verified struct {
	Account string   `json:"username"`
	Same    bool     `json:"same"`
	Changed []string `json:"changed,omitempty"`
	Error   string   `json:"error,omitempty"`
}

func (s *server) replyVerify(ctx context.Context, args url.Values, out io.Writer) error {
	if err := s.pair.node.AwaitLink(ctx); err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	same, differ, unknown := 0, 0, 0
	var wrote error
	report := func(v replica.Verified) {
		line := verified{Account: v.Name, Same: v.Same && v.Err == nil}
		for _, c := range v.Changed {
			line.Changed = append(line.Changed, fmt.Sprintf("%s in %q: %s", c.Kind, c.Mailbox, c.Detail))
		}
		word := "same"
		switch {
		case v.Err != nil:
			unknown++
			line.Error, word = v.Err.Error(), "not known: "+v.Err.Error()
		case v.Same:
			same++
		default:
			differ++
			word = "DIFFERS"
		}
		if wantsJSON(args) {
			wrote = cmp.Or(wrote, lines.Encode(line))
			return
		}
		if args.Get("quiet") != "true" || word != "same" {
			_, err := fmt.Fprintf(out, "%s: %s\n", v.Name, word)
			wrote = cmp.Or(wrote, err)
		}
		for _, c := range line.Changed {
			_, err := fmt.Fprintf(out, "  put right: %s\n", c)
			wrote = cmp.Or(wrote, err)
		}
	}
	err := s.eachAccount(ctx, cmp.Or(args.Get("mask"), "*"), func(name string) error {
		if err := s.pair.node.Verify(ctx, name, args.Get("full") == "true", report); err != nil {
			return err
		}
		return wrote
	})
	if err != nil {
		return err
	}
	if args.Get("json") != "true" {
		fmt.Fprintf(out, "%d account(s) are the same on both servers, %d differ, %d not known\n", same, differ, unknown)
	}
	if differ+unknown > 0 {
		return fmt.Errorf("not all accounts are known to be the same: %d differ, %d not known", differ, unknown)
	}
	return nil
}

func (s *server) replyScrub(ctx context.Context, _ url.Values, out io.Writer) error {
	lost := 0
	err := s.pair.node.Scrub(ctx, func(d replica.Damage) {
		became := "came back from the partner"
		if d.Mended != nil {
			lost++
			became = "is not to be had from the partner: " + d.Mended.Error()
		}
		fmt.Fprintf(out, "body %x, %d octets: %v; it %s\n", d.Body.Hash, d.Body.Octets, d.Err, became)
	})
	if err != nil {
		return err
	}
	st, err := s.pair.node.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d bodies, %d octets read: %d damaged or missing, %d came back\n", st.Scrub.Bodies, st.Scrub.Octets, st.Scrub.Damaged, st.Scrub.Mended)
	if lost > 0 {
		return fmt.Errorf("%d bodies are damaged on both servers or cannot be had now; postern fsck names their messages", lost)
	}
	return nil
}

// onAll does something to all accounts at once, or to those that a mask names.
func (s *server) onAll(ctx context.Context, mask, done string, out io.Writer, do func(context.Context, string) error) error {
	if mask == "" {
		if err := do(ctx, ""); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "all accounts: %s\n", done)
		return err
	}
	told := failures{out: out}
	err := s.eachAccount(ctx, mask, func(name string) error { return told.tell(name, do(ctx, name), done) })
	return cmp.Or(err, told.err())
}

func (s *server) replyPause(ctx context.Context, args url.Values, out io.Writer) error {
	return s.onAll(ctx, args.Get("mask"), "paused, also after a restart", out, s.pair.node.Pause)
}

func (s *server) replyResume(ctx context.Context, args url.Values, out io.Writer) error {
	return s.onAll(ctx, args.Get("mask"), "resumed", out, s.pair.node.Resume)
}

func (s *server) replyRehome(ctx context.Context, args url.Values, out io.Writer) error {
	class, err := strconv.ParseUint(args.Get("node"), 10, 1)
	if err != nil {
		return fmt.Errorf("the home is node 0 or 1, not %q", args.Get("node"))
	}
	told := failures{out: out}
	err = s.eachAccount(ctx, args.Get("mask"), func(name string) error {
		return told.tell(name, s.pair.node.Rehome(ctx, name, uint8(class)), fmt.Sprintf("at home on node %d", class))
	})
	return cmp.Or(err, told.err())
}

// explained is a line of replica explain, in JSON.
type explained struct {
	At        time.Time `json:"at"`
	Node      uint16    `json:"node"`
	Operation string    `json:"operation"`
	What      string    `json:"what"`
}

func (s *server) replyExplain(ctx context.Context, args url.Values, out io.Writer) error {
	uid, err := strconv.ParseUint(args.Get("uid"), 10, 32)
	if err != nil || uid == 0 {
		return fmt.Errorf("%q is no UID", args.Get("uid"))
	}
	events, err := s.pair.node.Explain(ctx, args.Get("account"), args.Get("mailbox"), uint32(uid))
	if err != nil {
		return err
	}
	if len(events) == 0 {
		return fmt.Errorf("the journals that are kept here know of no message that had UID %d in %q; they go back as far as journal_retention", uid, args.Get("mailbox"))
	}
	if wantsJSON(args) {
		lines := json.NewEncoder(out)
		for _, e := range events {
			if err := lines.Encode(explained{e.At, e.Node, operation(e), e.What}); err != nil {
				return err
			}
		}
		return nil
	}
	table := newTable(out)
	for _, e := range events {
		fmt.Fprintf(table, "%s\tnode %d\t%s\t%s\n", e.At.Format("2006-01-02T15:04:05.000Z07:00"), e.Node, operation(e), e.What)
	}
	return table.Flush()
}

// operation names an operation: an incarnation of a node, and the number of
// what it did in the account.
func operation(e replica.Event) string {
	return fmt.Sprintf("%016x/%d", uint64(e.Dot.Origin), e.Dot.Seq)
}

func replicaCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "replica", Short: "See to the pair that this server is one of",
		Long: "A pair is two servers with the same mailboxes, both of which take mail and changes: docs/replication.md.",
	}
	c.AddCommand(
		replicaStatusCommand(), replicaSessionsCommand(), replicateCommand(), verifyCommand(),
		&cobra.Command{
			Use: "scrub", Short: "Read all bodies, and bring back from the partner what is damaged", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return callServer(c, "replica/scrub", nil) },
		},
		maskCommand("pause", "Leave all accounts, or those that MASK names, out of replication until resume"),
		maskCommand("resume", "End a pause, and try again at once what waits or was put into quarantine"),
		&cobra.Command{
			Use: "rehome MASK NODE", Short: "Have node 0 or 1 give out the accounts' UIDs; asked on their present home", Args: cobra.ExactArgs(2),
			RunE: func(c *cobra.Command, args []string) error {
				return callServer(c, "replica/rehome", url.Values{"mask": {args[0]}, "node": {args[1]}})
			},
		},
		explainCommand(), replicaRejoinCommand(), replicaForgetCommand(), replicaKeygenCommand(), replicaPinCommand(),
	)
	return c
}

func maskCommand(name, short string) *cobra.Command {
	return &cobra.Command{
		Use: name + " [MASK]", Short: short, Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return callServer(c, "replica/"+name, url.Values{"mask": args})
		},
	}
}

func replicateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "replicate MASK", Short: "Send what the partner lacks now, and wait for it", Args: cobra.ExactArgs(1),
		Long: "Sends what the partner lacks of the accounts that MASK names, without waiting for anything, and ends when the\n" +
			"partner has it. With --full everything is compared and brought over both ways, whatever the journals say.",
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "full")
			values.Set("mask", args[0])
			return callServer(c, "replica/replicate", values)
		},
	}
	c.Flags().BoolP("full", "f", false, "compare everything")
	c.Flags().StringP("priority", "p", "", "taken for the sake of scripts written for doveadm; everything is sent at once")
	return c
}

func verifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "verify [MASK]", Short: "Tell whether both servers hold the same", Args: cobra.MaximumNArgs(1),
		Long: "Has both servers count and sum anew what they hold of all accounts, or of those that MASK names, compares that,\n" +
			"and ends with status 1 unless all are the same. With --full every message is compared, and what one server lacks\n" +
			"is brought over.",
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "full", "json", "quiet")
			values["mask"] = args
			return callServer(c, "replica/verify", values)
		},
	}
	c.Flags().BoolP("full", "f", false, "compare every message")
	c.Flags().Bool("json", false, "one JSON object a line")
	c.Flags().BoolP("quiet", "q", false, "only accounts that differ")
	return c
}

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "explain ACCOUNT MAILBOX UID", Short: "Tell what happened to a message, on which server and when", Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "json")
			for i, name := range []string{"account", "mailbox", "uid"} {
				values.Set(name, args[i])
			}
			return callServer(c, "replica/explain", values)
		},
	}
	c.Flags().Bool("json", false, "one JSON object a line")
	return c
}

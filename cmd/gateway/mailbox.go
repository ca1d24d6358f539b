package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/operator"
	"github.com/postern-mail/postern/mail"
)

// streamMailbox answers `postern mailbox`.
func (s *server) streamMailbox(searches *imapd.Searches) admin.Stream {
	return func(context.Context, url.Values) (func(context.Context, net.Conn) error, error) {
		return func(ctx context.Context, conn net.Conn) error {
			return operator.Serve(ctx, conn, operator.Deps{
				Store: s.mailstore, Searches: searches, Owner: s.current.Load().mailboxOwner,
				Record: recordFor(s.audit.Record, "control", admin.Operator(ctx)),
			})
		}, nil
	}
}

// recordFor audits what somebody does.
func recordFor(record func(mail.Event), service, who string) func(mail.Event) {
	return func(e mail.Event) {
		e.Service, e.Login = service, who
		record(e)
	}
}

// onMailboxes does a request in the running server, or in the store of one that
// does not run.
func onMailboxes(c *cobra.Command, q *operator.Request, content io.Reader) error {
	access, err := openMail(c, "mailbox "+q.Do)
	if err != nil {
		return err
	}
	show := newProgressLine(c.ErrOrStderr())
	out := operator.Output{
		Answer: show.over(c.OutOrStdout()), Progress: show.tell,
		Warn: func(line string) { show.end(); fmt.Fprintln(c.ErrOrStderr(), line) },
	}
	if access.idle == nil {
		err = callMailboxes(c.Context(), access.socket, q, content, out)
	} else {
		i := access.idle
		err = operator.Run(c.Context(), operator.Deps{
			Store: i.store, Searches: imapd.NewSearches(i.store), Owner: i.owner,
			Record: recordFor(i.record.Record, "command", fmt.Sprintf("uid %d", os.Getuid())),
		}, q, content, out)
	}
	show.end()
	return errors.Join(err, access.Close())
}

func callMailboxes(ctx context.Context, socket string, q *operator.Request, content io.Reader, out operator.Output) error {
	conn, err := admin.Open(ctx, socket, "mailbox", url.Values{})
	if err != nil {
		return err
	}
	defer conn.Close()
	return operator.Call(ctx, conn, q, content, out)
}

func mailboxCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "mailbox", Short: "Look into people's mailboxes and change them",
		Long: "Works on the running server, whose clients see changes at once, or on the mailboxes of a stopped one. Access\n" +
			"control lists do not count; quotas do. Every change, and whose mail was read, is in the audit.\n\n" +
			"Whose: -u USER is a login, an address or an account, or a pattern of accounts with * and ?; -A is everybody. What\n" +
			"goes wrong with one account is told, and does not keep the others.\n\n" +
			"Which messages: QUERY is the program of an IMAP SEARCH, with mailbox NAME (or a pattern with * and %), dates such\n" +
			"as 2026-02-01, yesterday or 2weeks, and sizes such as 10M. ALL is every message. See docs/mailbox-commands.md.",
	}
	c.AddCommand(
		mailboxNames("list [PATTERN...]", "List mailboxes and subscriptions", "list", 0, true),
		mailboxNames("status [PATTERN...]", "Tell how many messages mailboxes hold, how large they are, and their UIDs", "status", 0, true),
		mailboxNames("path [PATTERN...]", "Tell under which identities the store keeps mailboxes", "path", 0, true),
		mailboxCreate(),
		dangerous(mailboxNames("delete MAILBOX...", "Remove mailboxes with their messages", "delete", 1, false)),
		mailboxRename(),
		mailboxNames("subscribe MAILBOX...", "Subscribe to mailboxes", "subscribe", 1, false),
		mailboxNames("unsubscribe MAILBOX...", "End subscriptions", "unsubscribe", 1, false),
		mailboxSearch(), mailboxFetch(), mailboxExpunge(), mailboxCopy("copy", "Copy"), mailboxCopy("move", "Move"),
		mailboxFlags(), mailboxSave(), mailboxDeduplicate())
	return c
}

// mailboxAction is a command that makes a request of its arguments.
func mailboxAction(use, short, long string, least int, ask func(c *cobra.Command, args []string) (*operator.Request, error)) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.MinimumNArgs(least),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := ask(c, args)
			if err != nil {
				return err
			}
			if err := whoseMailboxes(c, q); err != nil {
				return err
			}
			for _, word := range slices.Concat(q.Users, q.Program, q.Mailboxes, []string{q.To, q.ToUser}) {
				if !utf8.ValidString(word) { // JSON would make other text of it
					return fmt.Errorf("%q is not UTF-8; is the terminal set to it?", word)
				}
			}
			return confirmedMailboxes(c, q)
		},
	}
	c.Flags().StringArrayP("user", "u", nil, "whose mailboxes: `USER` is a login, an address, an account, or a pattern of accounts; may be repeated")
	c.Flags().BoolP("all", "A", false, "everybody's")
	c.Flags().StringP("users", "F", "", "those of all in `FILE`, one a line; - is standard input")
	return c
}

// withFormat gives a command the ways to write rows.
func withFormat(c *cobra.Command, more string) *cobra.Command {
	c.Flags().String("format", "", "write `FORMAT`: table, tab, json or flow"+more)
	return c
}

// dangerous is a command that destroys mail.
func dangerous(c *cobra.Command) *cobra.Command {
	c.Flags().Bool("yes", false, "do it; without this it is only told what would be done")
	return dryRunning(c)
}

func dryRunning(c *cobra.Command) *cobra.Command {
	c.Flags().Bool("dry-run", false, "only tell what would be done")
	return c
}

// whoseMailboxes reads who is meant.
func whoseMailboxes(c *cobra.Command, q *operator.Request) (err error) {
	q.Users, _ = c.Flags().GetStringArray("user")
	q.All, _ = c.Flags().GetBool("all")
	path, _ := c.Flags().GetString("users")
	if path == "" {
		return nil
	}
	in := io.NopCloser(c.InOrStdin())
	if path != "-" {
		if in, err = os.Open(path); err != nil {
			return err
		}
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if user := strings.TrimSpace(lines.Text()); user != "" && !strings.HasPrefix(user, "#") {
			q.Users = append(q.Users, user)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(q.Users) == 0 {
		return fmt.Errorf("%s names nobody", path)
	}
	return nil
}

// confirmedMailboxes does a request, or where it destroys mail and nobody said
// --yes, tells what it would do.
func confirmedMailboxes(c *cobra.Command, q *operator.Request) error {
	q.DryRun, _ = c.Flags().GetBool("dry-run")
	q.Format, _ = c.Flags().GetString("format")
	yes, _ := c.Flags().GetBool("yes")
	if c.Flags().Lookup("yes") == nil || yes || q.DryRun {
		content, closeContent, err := mailboxContent(c, q)
		if err != nil {
			return err
		}
		return errors.Join(onMailboxes(c, q, content), closeContent())
	}
	q.DryRun = true
	if err := onMailboxes(c, q, nil); err != nil {
		return err
	}
	return errors.New("nothing was done; say --yes to do it")
}

// mailboxContent opens the message that is to be saved.
func mailboxContent(c *cobra.Command, q *operator.Request) (io.Reader, func() error, error) {
	nothing := func() error { return nil }
	if q.Do != "save" {
		return nil, nothing, nil
	}
	path := c.Flags().Arg(0)
	if path == "" || path == "-" {
		return c.InOrStdin(), nothing, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nothing, err
	}
	return file, file.Close, nil
}

// mailboxNames is a command about mailboxes that are named.
func mailboxNames(use, short, do string, least int, rows bool) *cobra.Command {
	c := mailboxAction(use, short, "", least, func(_ *cobra.Command, names []string) (*operator.Request, error) {
		return &operator.Request{Do: do, Mailboxes: names}, nil
	})
	if rows {
		return withFormat(c, "")
	}
	return c
}

func mailboxCreate() *cobra.Command {
	c := mailboxAction("create MAILBOX...", "Make mailboxes", "", 1, func(c *cobra.Command, names []string) (*operator.Request, error) {
		q := &operator.Request{Do: "create", Mailboxes: names}
		q.SpecialUse, _ = c.Flags().GetString("special-use")
		q.Subscribe, _ = c.Flags().GetBool("subscribe")
		return q, nil
	})
	c.Flags().String("special-use", "", `a `+"`USE`"+` such as \Sent or \Archive`)
	c.Flags().Bool("subscribe", false, "subscribe to them")
	return c
}

func mailboxRename() *cobra.Command {
	c := mailboxAction("rename MAILBOX NEW", "Give a mailbox, and those below it, another name", "", 2, func(_ *cobra.Command, args []string) (*operator.Request, error) {
		return &operator.Request{Do: "rename", Mailboxes: args[:1], To: args[1]}, nil
	})
	c.Args = cobra.ExactArgs(2)
	return c
}

func mailboxSearch() *cobra.Command {
	c := mailboxAction("search QUERY...", "Print which messages there are, by the ids of their mailboxes and their UIDs",
		"Prints a line with the id of the mailbox and the UID for each message, which fetch takes as mailboxid ID uid UID.",
		1, func(_ *cobra.Command, words []string) (*operator.Request, error) {
			return &operator.Request{Do: "search", Program: words}, nil
		})
	c.Example = "  postern mailbox search -u kim from boss since 2weeks\n" +
		"  postern mailbox search -A 'mailbox Trash larger 10M'"
	return withFormat(c, ", or pairs")
}

func mailboxFetch() *cobra.Command {
	c := mailboxAction("fetch FIELDS QUERY...", "Print messages, or what is known of them",
		"FIELDS are one argument, with commas or blanks between them: "+strings.Join(operator.FieldNames(), ", ")+".\n"+
			"hdr.NAME is in UTF-8, as people read it; hdr, body and text are the octets of the message. The audit notes whose\n"+
			"mail was read.",
		2, func(_ *cobra.Command, args []string) (*operator.Request, error) {
			return &operator.Request{Do: "fetch", Fields: fieldWords(args[0]), Program: args[1:]}, nil
		})
	c.Example = "  postern mailbox fetch -u kim uid,flags,hdr.subject mailbox INBOX unseen --format table\n" +
		"  postern mailbox fetch -u kim text mailbox INBOX uid 7 --format raw > 7.eml"
	return withFormat(c, ", or raw, which is one field alone")
}

// fieldWords parts words at blanks and commas.
func fieldWords(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

func mailboxExpunge() *cobra.Command {
	c := mailboxAction("expunge QUERY...", "Remove messages, whatever their flags", "", 1, func(_ *cobra.Command, words []string) (*operator.Request, error) {
		return &operator.Request{Do: "expunge", Program: words}, nil
	})
	c.Example = "  postern mailbox expunge -A mailbox Trash savedbefore 30days --yes"
	return dangerous(c)
}

func mailboxCopy(do, verb string) *cobra.Command {
	c := mailboxAction(do+" MAILBOX QUERY...", verb+" messages to a mailbox",
		"To the same person's MAILBOX, or with --to-user another's. What is in MAILBOX already is passed over.",
		2, func(c *cobra.Command, args []string) (*operator.Request, error) {
			q := &operator.Request{Do: do, To: args[0], Program: args[1:]}
			q.ToUser, _ = c.Flags().GetString("to-user")
			q.Create, _ = c.Flags().GetBool("create")
			return q, nil
		})
	c.Flags().String("to-user", "", "to the mailbox of `USER`")
	c.Flags().Bool("create", false, "make the mailbox where it is not there")
	return dryRunning(c)
}

func mailboxFlags() *cobra.Command {
	c := &cobra.Command{Use: "flags", Short: "Change the flags of messages"}
	for _, change := range []struct{ name, short string }{
		{"add", "Give messages flags"}, {"remove", "Take flags from messages"}, {"set", "Give messages flags, and take all others from them"},
	} {
		c.AddCommand(dryRunning(mailboxAction(change.name+" FLAGS QUERY...", change.short,
			`FLAGS are one argument, with commas or blanks between them: \Seen, \Answered, \Flagged, \Deleted, \Draft, keywords.`,
			2, func(_ *cobra.Command, args []string) (*operator.Request, error) {
				return &operator.Request{Do: "flags", Change: change.name, Flags: fieldWords(args[0]), Program: args[1:]}, nil
			})))
	}
	return c
}

func mailboxSave() *cobra.Command {
	c := mailboxAction("save [FILE]", "Put a message into a mailbox", "The message is in FILE, or on standard input.", 0,
		func(c *cobra.Command, _ []string) (*operator.Request, error) {
			mailbox, _ := c.Flags().GetString("mailbox")
			flags, _ := c.Flags().GetString("flags")
			q := &operator.Request{Do: "save", Mailboxes: []string{mailbox}, Flags: fieldWords(flags)}
			q.Create, _ = c.Flags().GetBool("create")
			if date, _ := c.Flags().GetString("date"); date != "" {
				var err error
				if q.Date, err = time.Parse(time.RFC3339, date); err != nil {
					return nil, fmt.Errorf("--date is such as 2026-02-01T12:00:00+01:00, not %s", date)
				}
			}
			return q, nil
		})
	c.Args = cobra.MaximumNArgs(1)
	c.Flags().String("mailbox", "INBOX", "into `MAILBOX`")
	c.Flags().String("flags", "", `with `+"`FLAGS`"+` such as '\Seen,$Important'`)
	c.Flags().String("date", "", "with `DATE` as the date of its arrival, now by default")
	c.Flags().Bool("create", false, "make the mailbox where it is not there")
	return c
}

func mailboxDeduplicate() *cobra.Command {
	c := mailboxAction("deduplicate QUERY...", "Remove messages that a mailbox holds more than once",
		"Of messages with the same text, but for what delivery put before it, the one with the lowest UID stays; with\n"+
			"--message-id of those with the same Message-ID.",
		1, func(c *cobra.Command, words []string) (*operator.Request, error) {
			q := &operator.Request{Do: "deduplicate", Program: words}
			q.ByMessageID, _ = c.Flags().GetBool("message-id")
			return q, nil
		})
	c.Flags().Bool("message-id", false, "messages with one Message-ID are the same")
	return dangerous(c)
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
)

// queueCommand is what operators do with the queue. The running server does
// it; this end sends the words and prints the answer.
func queueCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "queue", Short: "List, show and change what is queued",
		Long: "Looks at the queue of the running server, and changes it. Commands that change messages take queue\n" +
			"ids, - for ids on standard input, filters such as --sender and --destination, or ALL; --dry-run tells\n" +
			"which messages these are and does nothing. Exits with 0 when everything was done, 1 when something was\n" +
			"not, 69 when no server runs, 77 when its control socket may not be opened.",
	}
	c.AddCommand(listCommand(), summaryCommand(), shapeCommand(), catCommand(), showCommand(), retryCommand(),
		onMessages("hold", "Keep messages from delivery until they are released"),
		onMessages("release", "End a hold and try the messages now"),
		redirectCommand(),
		onMessages("requeue", "Resolve and route messages anew, as if they had come just now"),
		priorityCommand(),
		confirmed(onMessages("expire", "Give messages up; their senders are told")),
		confirmed(onMessages("delete", "Throw messages away; their senders are not told")))
	return c
}

func listCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List queued messages with their recipients", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return callQueue(c, "list", flagArgs(c, selectionFlags("json")...))
		},
	}
	c.Flags().Bool("json", false, "one JSON object a line")
	addSelection(c)
	return c
}

func summaryCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "summary", Short: "Tell how much waits, for what, since when and why", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return callQueue(c, "summary", flagArgs(c, selectionFlags("json")...))
		},
	}
	c.Flags().Bool("json", false, "as one JSON object")
	addSelection(c)
	return c
}

func shapeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "shape", Short: "Count what waits by domain and age in minutes, as qshape does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return callQueue(c, "shape", flagArgs(c, selectionFlags("json", "by")...))
		},
	}
	c.Flags().Bool("json", false, "one JSON object a line, the total first")
	c.Flags().String("by", "recipient", "count recipients by their domain, or by destination, or messages by the domain of the sender")
	addSelection(c)
	return c
}

func catCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "cat ID", Short: "Print parts of a queued message, as postcat does; all without options", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			args := flagArgs(c, "envelope", "header", "body")
			args["id"] = ids
			return callQueue(c, "cat", args)
		},
	}
	c.Flags().BoolP("envelope", "e", false, "the envelope and what came of it")
	c.Flags().BoolP("header", "h", false, "the header section")
	c.Flags().BoolP("body", "b", false, "the body")
	c.Flags().Bool("help", false, "help for cat") // -h is taken
	return c
}

func showCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show ID", Short: "Show a queued message: envelope, attempts, content", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			args := flagArgs(c, "envelope")
			args["id"] = ids
			return callQueue(c, "show", args)
		},
	}
	c.Flags().Bool("envelope", false, "without the content")
	return c
}

func retryCommand() *cobra.Command {
	c := onMessages("retry", "Try messages again now")
	c.Flags().Bool("all", false, "every deferred message, as ALL")
	return c
}

func redirectCommand() *cobra.Command {
	c := onMessages("redirect", "Send recipients of queued messages elsewhere", "via", "to")
	c.Long = "Sends those who still wait, and whom the filters mean, by another target or next hop, or gives the\n" +
		"message to another address instead. Nobody who has got the message gets it again."
	c.Flags().String("via", "", "a target, or TARGET/NEXTHOP")
	c.Flags().String("to", "", "the address that gets the messages instead of the recipients")
	return c
}

func priorityCommand() *cobra.Command {
	c := onMessages("priority", "Change the priority of messages, from -9 to 9; 0 is usual", "set")
	c.Flags().Int("set", 0, "the priority they get")
	if err := c.MarkFlagRequired("set"); err != nil {
		panic(err) // the flag is defined on the line above
	}
	return c
}

// addSelection adds the flags that restrict a command to some messages.
func addSelection(c *cobra.Command) {
	c.Flags().String("state", "", "only messages that are active, deferred, kept, hold or damaged")
	c.Flags().String("sender", "", "only messages with this reverse-path; <> for reports")
	c.Flags().String("recipient", "", "only messages that wait for this address")
	c.Flags().String("destination", "", "only messages that wait for a domain, target or next hop")
	c.Flags().String("reason", "", "only messages that wait for a reason with this text in it")
	c.Flags().String("older", "", "only messages that arrived longer ago than this, such as 90m, 24h or 2d")
	c.Flags().String("younger", "", "only messages that arrived after that")
	c.Flags().String("larger", "", "only messages of at least so many octets, such as 64k or 10M")
	c.Flags().String("smaller", "", "only messages of at most so many octets")
	c.Flags().String("priority", "", "only messages with this priority")
}

// selectionFlags names the flags of addSelection and more.
func selectionFlags(more ...string) []string {
	return append(more, "state", "sender", "recipient", "destination", "reason", "older", "younger", "larger", "smaller", "priority")
}

// everyMessage is what operators write for every message.
const everyMessage = "ALL"

// onMessages is a command that does one thing to each message named or
// selected.
func onMessages(name, short string, flags ...string) *cobra.Command {
	c := &cobra.Command{
		Use: name + " [ID...|-|ALL]", Short: short,
		RunE: func(c *cobra.Command, ids []string) error {
			args := flagArgs(c, selectionFlags(append(flags, "dry-run", "all")...)...)
			if len(ids) == 1 && ids[0] == everyMessage {
				args.Set("all", "true")
				ids = nil
			}
			if err := confirm(c, name, ids, args); err != nil {
				return err
			}
			if isTerminal(c.ErrOrStderr()) {
				args.Set("progress", "true")
			}
			if len(ids) == 1 && ids[0] == "-" {
				return onInput(c, name, args)
			}
			args["id"] = ids
			return callQueue(c, name, args)
		},
	}
	addSelection(c)
	c.Flags().Bool("dry-run", false, "only tell which messages these are")
	return c
}

// confirmed is a command that asks for a second word before it does to the
// whole queue what cannot be undone.
func confirmed(c *cobra.Command) *cobra.Command {
	c.Flags().Bool("yes", false, "needed with ALL")
	return c
}

func confirm(c *cobra.Command, name string, ids []string, args url.Values) error {
	yes := c.Flags().Lookup("yes")
	whole := args.Get("all") == "true" && len(ids) == 0
	if yes == nil || !whole || yes.Changed || args.Get("dry-run") == "true" {
		return nil
	}
	return fmt.Errorf("this would %s every message in the queue that the filters leave; say --yes if that is meant, or --dry-run to see them", name)
}

// idsAtOnce is how many ids are sent together.
const idsAtOnce = 10_000

// idLine begins a line that speaks of a message, as mailq and queue list write
// it.
var idLine = regexp.MustCompile(`^[0-9A-Za-z]{5,32}\b`)

// onInput does it to the messages whose ids are on standard input, one at the
// beginning of each line; other lines are passed over.
func onInput(c *cobra.Command, name string, args url.Values) error {
	var failed error
	flush := func(ids []string) []string {
		if args["id"] = ids; len(ids) > 0 {
			failed = errors.Join(failed, callQueue(c, name, args))
		}
		return nil
	}
	lines := bufio.NewScanner(c.InOrStdin())
	var ids []string
	for lines.Scan() {
		if id := idLine.FindString(lines.Text()); id != "" {
			ids = append(ids, id)
		}
		if len(ids) == idsAtOnce {
			ids = flush(ids)
		}
	}
	flush(ids)
	return errors.Join(failed, lines.Err())
}

// callQueue asks the server, shows how far it is, and ends with a status that
// scripts can tell apart.
func callQueue(c *cobra.Command, name string, args url.Values) error {
	var err error
	if args.Get("progress") == "true" {
		line := newProgressLine(c.ErrOrStderr())
		err = callServerTo(c, "queue/"+name, args, &progressing{out: line.over(c.OutOrStdout()), show: line.show})
		line.end()
	} else {
		err = callServer(c, "queue/"+name, args)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return &exitStatus{status: exNoPerm, err: err}
	case errors.Is(err, admin.ErrNotRunning):
		return &exitStatus{status: exUnavailable, err: err}
	default:
		return err
	}
}

// progressMark begins a line of an answer that tells how far the work is, and
// is for a person at a terminal only.
const progressMark = "\x1e"

// progressing passes an answer on but for the progress in it, which it shows.
type progressing struct {
	out    io.Writer
	show   func(line string)
	line   []byte // of progress, not whole yet
	within bool
}

// Write implements io.Writer.
func (p *progressing) Write(text []byte) (int, error) {
	n := len(text)
	for len(text) > 0 {
		if p.within {
			piece, rest, whole := bytes.Cut(text, []byte("\n"))
			p.line, text = append(p.line, piece...), rest
			if whole {
				p.show(string(p.line))
				p.line, p.within = p.line[:0], false
			}
			continue
		}
		piece, rest, found := bytes.Cut(text, []byte(progressMark))
		if len(piece) > 0 {
			if _, err := p.out.Write(piece); err != nil {
				return 0, err
			}
		}
		p.within, text = found, rest
	}
	return n, nil
}

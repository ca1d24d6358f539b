package main

import (
	"net/url"

	"github.com/spf13/cobra"
)

// queueCommand is what operators do with the queue. The running server does
// it; this end sends the words and prints the answer.
func queueCommand() *cobra.Command {
	c := &cobra.Command{Use: "queue", Short: "List, show and change what is queued"}

	list := &cobra.Command{
		Use: "list", Short: "List queued messages with their recipients", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return callServer(c, "queue/list", flagArgs(c, selectionFlags("json")...))
		},
	}
	list.Flags().Bool("json", false, "one JSON object a line")
	addSelection(list)

	shape := &cobra.Command{
		Use: "shape", Short: "Count what waits by domain and age in minutes, as qshape does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return callServer(c, "queue/shape", flagArgs(c, selectionFlags("json", "by")...))
		},
	}
	shape.Flags().Bool("json", false, "one JSON object a line, the total first")
	shape.Flags().String("by", "recipient", "count recipients by their domain, or by destination, or messages by the domain of the sender")
	addSelection(shape)

	cat := &cobra.Command{
		Use: "cat ID", Short: "Print parts of a queued message, as postcat does; all without options", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			args := flagArgs(c, "envelope", "header", "body")
			args["id"] = ids
			return callServer(c, "queue/cat", args)
		},
	}
	cat.Flags().BoolP("envelope", "e", false, "the envelope and what came of it")
	cat.Flags().BoolP("header", "h", false, "the header section")
	cat.Flags().BoolP("body", "b", false, "the body")
	cat.Flags().Bool("help", false, "help for cat") // -h is taken

	show := &cobra.Command{
		Use: "show ID", Short: "Show a queued message: envelope, attempts, content", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			args := flagArgs(c, "envelope")
			args["id"] = ids
			return callServer(c, "queue/show", args)
		},
	}
	show.Flags().Bool("envelope", false, "without the content")

	retry := &cobra.Command{
		Use: "retry [ID...]", Short: "Try messages again now",
		RunE: func(c *cobra.Command, ids []string) error {
			args := flagArgs(c, "all", "destination")
			args["id"] = ids
			return callServer(c, "queue/retry", args)
		},
	}
	retry.Flags().Bool("all", false, "every deferred message")
	retry.Flags().String("destination", "", "every deferred message for a domain or next hop")

	c.AddCommand(list, shape, show, cat, retry,
		onMessages("hold", "Keep messages from delivery until they are released"),
		onMessages("release", "End a hold and try the messages now"),
		onMessages("expire", "Give messages up; their senders are told"),
		onMessages("delete", "Throw messages away; their senders are not told"))
	return c
}

// addSelection adds the flags that restrict a command to some messages.
func addSelection(c *cobra.Command) {
	c.Flags().String("state", "", "only messages that are active, deferred, hold or damaged")
	c.Flags().String("sender", "", "only messages with this reverse-path; <> for reports")
	c.Flags().String("recipient", "", "only messages that wait for this address")
	c.Flags().String("destination", "", "only messages that wait for a domain or next hop")
	c.Flags().String("older", "", "only messages that arrived longer ago than this, such as 90m or 24h")
}

// selectionFlags names the flags of addSelection and more.
func selectionFlags(more ...string) []string {
	return append(more, "state", "sender", "recipient", "destination", "older")
}

// onMessages is a command that does one thing to each message named.
func onMessages(name, short string) *cobra.Command {
	return &cobra.Command{
		Use: name + " ID...", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			return callServer(c, "queue/"+name, url.Values{"id": ids})
		},
	}
}

// flagArgs hands the flags that were given to the server.
func flagArgs(c *cobra.Command, names ...string) url.Values {
	args := url.Values{}
	for _, name := range names {
		if f := c.Flags().Lookup(name); f.Changed {
			args.Set(name, f.Value.String())
		}
	}
	return args
}

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
			return callServer(c, "queue/list", flagArgs(c, "json", "state"))
		},
	}
	list.Flags().Bool("json", false, "one JSON object a line")
	list.Flags().String("state", "", "only messages that are active, deferred, hold or damaged")

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

	c.AddCommand(list, show, retry,
		onMessages("hold", "Keep messages from delivery until they are released"),
		onMessages("release", "End a hold and try the messages now"),
		onMessages("delete", "Throw messages away; their senders are not told"))
	return c
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

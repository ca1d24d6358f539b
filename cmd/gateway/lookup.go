package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/mail"
)

func lookupCommand() *cobra.Command {
	var from, login string
	var running, servers bool
	c := &cobra.Command{
		Use: "lookup ADDRESS|LOGIN", Short: "Ask the directories about an address or a login, and explain", Args: cobra.ExactArgs(1),
		Long: "Has the running server ask every directory as it does for mail, and prints each query, where its answer is\n" +
			"from (a replica and its age, or a server), what it found and what was made of it. While no server runs, or\n" +
			"with --servers, this command asks the directories' servers itself, by the configuration as it stands in its file.\n" +
			"Where not everybody may send to a group, --from and --login say who sends.",
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := posterOf(from, login); err != nil {
				return err
			}
			if servers {
				return lookupItself(c, args[0], from, login)
			}
			err := callServer(c, "lookup", url.Values{"input": args, "from": {from}, "login": {login}})
			if why := cannotAsk(err); why != "" && !running {
				fmt.Fprintf(c.ErrOrStderr(), "%s: this command asks the directories itself, past replicas and what the server remembers\n", why)
				return lookupItself(c, args[0], from, login)
			}
			return err
		},
	}
	c.Flags().StringVar(&from, "from", "", "reverse-path of the message, for groups that not everybody may send to; <> for a report")
	c.Flags().StringVar(&login, "login", "", "who is logged in and sends, by any of his logins")
	c.Flags().BoolVar(&running, "running", false, "ask the running server or fail")
	c.Flags().BoolVar(&servers, "servers", false, "ask the directories' servers from here, by the configuration in the file, whether a server runs or not")
	c.MarkFlagsMutuallyExclusive("running", "servers")
	return c
}

// cannotAsk tells why there was no running server to ask; "" when there was
// one, whatever it said.
func cannotAsk(err error) string {
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return "no server runs here"
	case errors.Is(err, fs.ErrPermission):
		return "the running server may be asked by root and its own user only"
	}
	return ""
}

// lookupItself asks by the configuration in the file.
func lookupItself(c *cobra.Command, input, from, login string) error {
	g, err := idleGeneration(configPath(c))
	if err != nil {
		return err
	}
	defer g.runHelpers(c.Context())()
	return g.explainPeople(c.Context(), input, from, login, c.OutOrStdout())
}

// replyLookup answers the lookup command.
func (s *server) replyLookup(ctx context.Context, args url.Values, out io.Writer) error {
	return s.current.Load().explainPeople(ctx, args.Get("input"), args.Get("from"), args.Get("login"), out)
}

// explainPeople tells what each directory knows of an address or login. The
// error says that at least one of them is not certain.
func (g *generation) explainPeople(ctx context.Context, input, from, login string, out io.Writer) error {
	poster, err := posterOf(from, login)
	if err != nil {
		return err
	}
	if len(g.file.Directories) == 0 {
		return errors.New("the configuration has no directory to ask")
	}
	var failed error
	for _, d := range g.file.Directories {
		explanation, err := g.sources[d.Name].ExplainFor(ctx, input, poster)
		fmt.Fprintln(out, explanation)
		failed = errors.Join(failed, err)
	}
	return failed
}

// posterOf is who sends, or nil when neither flag says.
func posterOf(from, login string) (*mail.Poster, error) {
	if from == "" && login == "" {
		return nil, nil
	}
	var p mail.Poster
	if text := strings.Trim(from, "<>"); text != "" {
		var err error
		if p.Address, err = mail.ParseAddress(text); err != nil {
			return nil, err
		}
	}
	if login != "" {
		p.Identity = &mail.Identity{Authentication: login, Authorization: login}
	}
	return &p, nil
}

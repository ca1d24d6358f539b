package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/config"
)

// What the commands that ask the running server have in common: here on the
// side of whoever asks, below on that of the server.

// flagArgs hands the flags that were given to the server.
func flagArgs(c *cobra.Command, names ...string) url.Values {
	args := url.Values{}
	for _, name := range names {
		if f := c.Flags().Lookup(name); f != nil && f.Changed {
			args.Set(name, f.Value.String())
		}
	}
	return args
}

// askServer runs a command on the server with the arguments, each under its
// key, and the flags that were given.
func askServer(c *cobra.Command, name string, args, keys []string, flags ...string) error {
	values := flagArgs(c, flags...)
	for i, arg := range args {
		values.Set(keys[i], arg)
	}
	return callServer(c, name, values)
}

// callServer runs a command on the server that the configuration describes.
func callServer(c *cobra.Command, name string, args url.Values) error {
	return callServerTo(c, name, args, c.OutOrStdout())
}

// callServerTo is callServer with another place for the answer.
func callServerTo(c *cobra.Command, name string, args url.Values, out io.Writer) error {
	socket, err := config.ControlSocket(configPath(c))
	if err != nil {
		return err
	}
	err = admin.Call(c.Context(), socket, name, args, out)
	if errors.Is(err, admin.ErrNotRunning) {
		return fmt.Errorf("%w; start it with: postern serve -c %s", err, configPath(c))
	}
	return err
}

// wantsJSON reports whether an answer is for a program.
func wantsJSON(args url.Values) bool { return args.Get("json") == "true" }

// jsonLines writes an object a line.
func jsonLines[T any](out io.Writer, rows []T) error {
	lines := json.NewEncoder(out)
	for _, row := range rows {
		if err := lines.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

// newTable begins a table for a person: the caller writes rows, with tabs
// between the cells, and flushes it.
func newTable(out io.Writer, heads ...string) *tabwriter.Writer {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(heads) > 0 {
		fmt.Fprintln(table, strings.Join(heads, "\t"))
	}
	return table
}

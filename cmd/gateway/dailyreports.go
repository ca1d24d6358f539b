package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
)

// dailyReportsCommand is the command by which operators see to daily reports.
func dailyReportsCommand(name, short string) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short}
	list := &cobra.Command{
		Use: "list", Short: "List the reports that are being counted or wait to be sent", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return callServer(c, name+"/list", flagArgs(c, "json")) },
	}
	list.Flags().Bool("json", false, "one JSON object a line")
	show := &cobra.Command{
		Use: "show DOMAIN", Short: "Print the reports on a domain as they are so far", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, domain []string) error {
			return callServer(c, name+"/show", url.Values{"domain": domain})
		},
	}
	send := &cobra.Command{
		Use: "send DOMAIN", Short: "Send the reports on a domain for days that have ended now", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, domain []string) error {
			return callServer(c, name+"/send", url.Values{"domain": domain})
		},
	}
	c.AddCommand(list, show, send)
	return c
}

// dailyReporter is who reports; E tells of one report.
type dailyReporter[E any] interface {
	List(ctx context.Context, each func(E) error) error
	Show(ctx context.Context, domain string) ([]string, error)
	Send(ctx context.Context, domain string) (int, error)
}

// dailyReports answers the command about reports of one kind.
type dailyReports[E any] struct {
	// find returns who reports, or why nobody does.
	find    func() (dailyReporter[E], error)
	columns []string
	row     func(E) []any
}

// addTo adds the answers to the commands of the server.
func (d dailyReports[E]) addTo(c admin.Commands, name string) {
	c[name+"/list"], c[name+"/show"], c[name+"/send"] = d.list, d.show, d.send
}

func (d dailyReports[E]) list(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := d.find()
	if err != nil {
		return err
	}
	if wantsJSON(args) {
		lines := json.NewEncoder(out)
		return r.List(ctx, func(e E) error { return lines.Encode(e) })
	}
	table := newTable(out)
	fmt.Fprintln(table, strings.Join(d.columns, "\t"))
	form := strings.TrimSuffix(strings.Repeat("%v\t", len(d.columns)), "\t") + "\n"
	found := false
	err = r.List(ctx, func(e E) error {
		found = true
		_, err := fmt.Fprintf(table, form, d.row(e)...)
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		fmt.Fprintln(out, "Nothing was counted yet for a domain that asks for reports.")
		return nil
	}
	return table.Flush()
}

func (d dailyReports[E]) show(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := d.find()
	if err != nil {
		return err
	}
	reports, err := r.Show(ctx, args.Get("domain"))
	if err == nil && len(reports) == 0 {
		err = fmt.Errorf("nothing was counted about %s", args.Get("domain"))
	}
	for _, text := range reports {
		fmt.Fprint(out, text)
	}
	return err
}

func (d dailyReports[E]) send(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := d.find()
	if err != nil {
		return err
	}
	n, err := r.Send(ctx, args.Get("domain"))
	if err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintf(out, "no report on %s waits to be sent; the one of today is complete when the UTC day ends\n", args.Get("domain"))
		return nil
	}
	fmt.Fprintf(out, "%d report(s) sent\n", n)
	return nil
}

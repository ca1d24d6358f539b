package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/table"
)

// tableUse is what a table is for: how it is checked, and in which order it is
// asked.
type tableUse struct {
	name, what string
	kind       string // of a name without one
	use        table.Use
	forms      func(o table.Order, key string) (iter.Seq[table.Form], error)
}

var tableUses = []tableUse{
	{"plain", "the key as it stands, as postmap -q", "", table.Use{}, func(_ table.Order, key string) (iter.Seq[table.Form], error) { return oneForm(key), nil }},
	{"aliases", "alias_files: virtual(5) and aliases(5)", table.KindAliases, directory.TargetUse, ofAddress(table.Order.Virtual)},
	{"map", "canonical_maps, smtp_generic_maps, sender_bcc_maps and their like", "", rewrite.TableUse, ofAddress(table.Order.Virtual)},
	{"logins", "sender_login_maps", "", table.Use{}, ofAddress(table.Order.Virtual)},
	{"transport", "transport_files", "", delivery.RuleUse(false, false, anyTransport), ofAddress(table.Order.Transport)},
	{"sender", "sender_transport_files", "", delivery.RuleUse(true, false, anyTransport), ofAddress(table.Order.Sender)},
	{"relay", "sender_relay_files", "", delivery.RuleUse(true, true, anyTransport), ofAddress(table.Order.Sender)},
	{"access", "check_*_access: an address, a name of a host, or an IP address", "", table.Use{}, accessForms},
}

func anyTransport(string) bool { return true }

func oneForm(key string) iter.Seq[table.Form] {
	return func(yield func(table.Form) bool) { yield(table.Form{Key: key, First: true}) }
}

func ofAddress(order func(table.Order, mail.Address) iter.Seq[table.Form]) func(table.Order, string) (iter.Seq[table.Form], error) {
	return func(o table.Order, key string) (iter.Seq[table.Form], error) {
		if key == "<>" {
			return order(o, mail.Address{}), nil
		}
		a, err := mail.ParseAddress(key)
		if err != nil && strings.ContainsAny(key, "@") {
			return nil, err
		}
		if err != nil { // a local-part or domain alone
			return oneForm(key), nil
		}
		return order(o, a), nil
	}
}

func accessForms(o table.Order, key string) (iter.Seq[table.Form], error) {
	if ip, err := netip.ParseAddr(key); err == nil {
		return table.Network(ip.Unmap()), nil
	}
	if strings.Contains(key, "@") || key == "<>" {
		return ofAddress(func(o table.Order, a mail.Address) iter.Seq[table.Form] { return o.Access(a, false) })(o, key)
	}
	return table.Host(strings.ToLower(key), false), nil
}

func tableCommand() *cobra.Command {
	c := &cobra.Command{Use: "table", Short: "Check lookup tables, and ask them"}
	var uses []string
	for _, u := range tableUses {
		uses = append(uses, u.name)
	}
	as := func(c *cobra.Command) *cobra.Command {
		c.Flags().String("as", "plain", "what the table is for: "+strings.Join(uses, ", "))
		c.Flags().String("delimiter", "+", "characters that begin the detail of a local-part")
		return c
	}
	c.AddCommand(as(&cobra.Command{
		Use: "check TABLE...", Short: "Tell every mistake in tables", Args: cobra.MinimumNArgs(1),
		Long: "Reads tables and tells every mistake with its line. A table is KIND:FILE, or a file alone; docs/tables.md.\n" +
			"With --as the entries are checked for what they are used for, too.",
		RunE: func(c *cobra.Command, args []string) error {
			u, err := useOf(c)
			if err != nil {
				return err
			}
			return checkTables(c, u, args)
		},
	}), as(&cobra.Command{
		Use: "query TABLE KEY", Short: "Look a key up in a table, and tell how", Args: cobra.ExactArgs(2),
		Long: "Prints each form of the key that is asked for, in order, and what the table says. Without --as the\n" +
			"key is asked for as it stands. The exit status is 0 where there is an answer.\n\n" + usesText(),
		RunE: func(c *cobra.Command, args []string) error {
			u, err := useOf(c)
			if err != nil {
				return err
			}
			return queryTable(c, u, args[0], args[1])
		},
	}))
	return c
}

func usesText() string {
	var b strings.Builder
	for _, u := range tableUses {
		fmt.Fprintf(&b, "  --as %-10s %s\n", u.name, u.what)
	}
	return strings.TrimRight(b.String(), "\n")
}

func useOf(c *cobra.Command) (tableUse, error) {
	name, err := c.Flags().GetString("as")
	if err != nil {
		return tableUse{}, err
	}
	at := slices.IndexFunc(tableUses, func(u tableUse) bool { return u.name == name })
	if at < 0 {
		return tableUse{}, fmt.Errorf("--as %s: there are\n%s", name, usesText())
	}
	return tableUses[at], nil
}

// commandOpener opens tables as the configuration does. Files need none: what is
// wrong with the configuration matters to the others only.
func commandOpener(c *cobra.Command, u tableUse) *table.Opener {
	o := &table.Opener{Default: u.kind, ForeignKinds: config.ForeignKinds(), Log: hclog.New(&hclog.LoggerOptions{Output: c.ErrOrStderr(), DisableTime: true})}
	if f, err := config.Load(configPath(c)); err == nil {
		o.IncludeDir = includeDir(f)
	}
	var g *generation
	o.Foreign = func(kind, rest string) (table.Table, error) {
		var err error
		if g == nil {
			g, err = idleGeneration(configPath(c))
		}
		if err != nil {
			return nil, fmt.Errorf("the configuration is needed for it: %w", err)
		}
		b := &builder{generation: g, log: hclog.NewNullLogger(), searchers: g.searching()}
		b.openDatabases()
		if b.err != nil {
			return nil, b.err
		}
		if kind == "query" {
			if _, t := g.file.DatabaseTable(rest); t == nil {
				return b.rewriteTable(kind + ":" + rest)
			}
		}
		return g.file.ForeignTable(kind, rest, b.database)
	}
	return o
}

// includeDir is where files of aliases may include from: what the first
// directory says that says so.
func includeDir(f *config.File) string {
	for _, d := range f.Directories {
		if d.AliasIncludeDir != "" {
			return d.AliasIncludeDir
		}
	}
	return ""
}

// searching returns what the directories search.
func (g *generation) searching() map[string]directory.Searcher {
	all := make(map[string]directory.Searcher)
	for name, s := range g.sources {
		switch {
		case s.file != nil:
			all[name] = s.file
		case s.client != nil:
			all[name] = s.client
		}
	}
	return all
}

var errTables = errors.New("there are mistakes")

func checkTables(c *cobra.Command, u tableUse, names []string) error {
	wrong := false
	for _, name := range names {
		if _, err := commandOpener(c, u).Open(name, u.use); err != nil {
			wrong = true
			fmt.Fprintln(c.ErrOrStderr(), err)
			continue
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: no mistakes\n", name)
	}
	if wrong {
		return errTables
	}
	return nil
}

func queryTable(c *cobra.Command, u tableUse, name, key string) error {
	t, err := commandOpener(c, u).Open(name, u.use)
	if err != nil {
		return err
	}
	delimiters, err := c.Flags().GetString("delimiter")
	if err != nil {
		return err
	}
	forms, err := u.forms(table.Order{Delimiters: delimiters}, key)
	if err != nil {
		return err
	}
	found, err := askForms(c.Context(), c.OutOrStdout(), t, key, forms)
	if err == nil && !found {
		err = fmt.Errorf("%s has nothing for %s", t.Name(), key)
	}
	return err
}

// askForms asks for one form after the other, and tells so.
func askForms(ctx context.Context, out io.Writer, t table.Opened, key string, forms iter.Seq[table.Form]) (found bool, err error) {
	for form := range forms {
		text := form.Key
		if t.Whole() {
			if !form.First {
				continue
			}
			text = key
		}
		values, err := t.Lookup(ctx, text)
		switch {
		case err != nil:
			return false, fmt.Errorf("%s: %w", text, err)
		case len(values) == 0:
			fmt.Fprintf(out, "%s\t-\n", text)
		default:
			fmt.Fprintf(out, "%s\t%s\n", text, table.Join(values))
			return true, nil
		}
	}
	return false, nil
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/apppass"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/status"
)

// appPasswords answers questions about app passwords in one generation.
type appPasswords struct {
	*generation
	apps *apppass.Passwords
}

var appPasswordReplies = map[string]func(appPasswords, context.Context, url.Values, io.Writer) error{
	"add": appPasswords.add, "list": appPasswords.list, "revoke": appPasswords.revoke,
}

var errNoAppPasswords = errors.New(`app passwords are not switched on: the configuration needs authn "app-passwords" { directory = directory.NAME }`)

// owner finds whose app passwords a login has.
func (a appPasswords) owner(ctx context.Context, login string) (source, name string, disabled bool, err error) {
	login, err = authn.CanonicalLogin(login)
	if err != nil {
		return "", "", false, err
	}
	err = errNoAppPasswords
	for _, cfg := range a.file.Authn {
		if cfg.Kind != config.AuthnAppPasswords {
			continue
		}
		s, named := a.sources[cfg.Directory]
		if !named {
			return "", login, false, nil
		}
		account, lookup := s.Account(ctx, login)
		if lookup == nil {
			return cfg.Directory, account.Name, account.Disabled, nil
		}
		if err = lookup; status.Of(lookup) != status.NoSuchUser {
			return "", "", false, err
		}
		err = fmt.Errorf("directory %s has no account with the login %q; postern lookup tells what it was asked", cfg.Directory, login)
	}
	return "", "", false, err
}

func (a appPasswords) add(ctx context.Context, args url.Values, out io.Writer) error {
	source, name, disabled, err := a.owner(ctx, args.Get("user"))
	if err != nil {
		return err
	}
	if disabled {
		return fmt.Errorf("%s is disabled in directory %s", name, source)
	}
	pw := apppass.Password{Source: source, Account: name, Label: args.Get("label"), Protocols: args["protocol"]}
	for _, text := range args["network"] {
		network, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); err != nil && e == nil {
			network, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%q is no network such as 192.0.2.0/24", text)
		}
		pw.Networks = append(pw.Networks, network.Masked())
	}
	if pw.Expires, err = expiry(args.Get("expires"), time.Now()); err != nil {
		return err
	}
	secret, made, err := a.apps.Add(ctx, pw)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\nThis is app password %s of %s. It is shown this once.\n", secret, made.ID, name)
	return err
}

// expiry reads a day, on which the password is good still, or a number of days.
func expiry(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var days int
	if _, err := fmt.Sscanf(text, "%dd", &days); err == nil && fmt.Sprintf("%dd", days) == text && days > 0 && days <= 36500 {
		return now.AddDate(0, 0, days).UTC().Truncate(time.Second), nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, time.Local)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither a day, such as 2027-12-31, nor a number of days, such as 90d", text)
	}
	if day = day.AddDate(0, 0, 1); !day.After(now) {
		return time.Time{}, fmt.Errorf("%s is past", text)
	}
	return day.UTC(), nil
}

func (a appPasswords) list(ctx context.Context, args url.Values, out io.Writer) error {
	source, name, _, err := a.owner(ctx, args.Get("user"))
	if err != nil {
		return err
	}
	all := a.apps.List(source, name)
	if wantsJSON(args) {
		return jsonLines(out, all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintf(out, "%s has no app passwords.\n", name)
		return err
	}
	table := newTable(out, "ID", "LABEL", "PROTOCOLS", "NETWORKS", "EXPIRES", "LAST USED", "FROM")
	for _, pw := range all {
		var networks []string
		for _, n := range pw.Networks {
			networks = append(networks, n.String())
		}
		from := "-"
		if pw.LastFrom.IsValid() {
			from = pw.LastFrom.String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", pw.ID, cmp.Or(pw.Label, "-"), cmp.Or(strings.Join(pw.Protocols, " "), "all"),
			cmp.Or(strings.Join(networks, " "), "all"), moment(pw.Expires), moment(pw.LastUsed), from)
	}
	return table.Flush()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func (a appPasswords) revoke(ctx context.Context, args url.Values, out io.Writer) error {
	id := args.Get("id")
	if (id == "") == (args.Get("all") != "true") {
		return errors.New("name the app password to revoke, as postern app-password list shows it, or say --all")
	}
	source, name, _, err := a.owner(ctx, args.Get("user"))
	if err != nil {
		return err
	}
	n, err := a.apps.Revoke(ctx, source, name, id)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d app password(s) of %s are revoked.\n", n, name)
	return err
}

func appPasswordCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "app-password", Short: "Make, list and revoke passwords for applications",
		Long: "An app password is good for one account, for some protocols and networks, until a day. It is\n" +
			"checked before any other, and never goes to a directory. The running server is asked; without\n" +
			"one its data are opened.",
	}
	add := &cobra.Command{
		Use: "add USER", Short: "Make an app password and print it, once", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "label", "expires")
			for _, name := range []string{"protocol", "network"} {
				all, err := c.Flags().GetStringSlice(name)
				if err != nil {
					return err
				}
				if len(all) > 0 {
					values[name] = all
				}
			}
			return callAppPassword(c, "add", args, values)
		},
	}
	add.Flags().String("label", "", "what it is for, such as `NAME` of a device")
	add.Flags().StringSlice("protocol", nil, "only for `PROTOCOL`: "+strings.Join(apppass.Protocols(), ", "))
	add.Flags().StringSlice("network", nil, "only from `NETWORK`, such as 192.0.2.0/24")
	add.Flags().String("expires", "", "last `DAY`, such as 2027-12-31, or a number of days, such as 90d")
	list := &cobra.Command{
		Use: "list USER", Short: "List a person's app passwords, without the passwords", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return callAppPassword(c, "list", args, flagArgs(c, "json"))
		},
	}
	list.Flags().Bool("json", false, "one JSON object a line")
	revoke := &cobra.Command{
		Use: "revoke USER [ID]", Short: "End an app password", Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return callAppPassword(c, "revoke", args, flagArgs(c, "all"))
		},
	}
	revoke.Flags().Bool("all", false, "all that the person has")
	c.AddCommand(add, list, revoke)
	return c
}

// callAppPassword asks the running server, or does what is asked itself where
// none runs.
func callAppPassword(c *cobra.Command, name string, args []string, values url.Values) error {
	values.Set("user", args[0])
	if len(args) > 1 {
		values.Set("id", args[1])
	}
	f, err := config.Load(configPath(c))
	if err != nil {
		return err
	}
	if conn, err := net.Dial("unix", f.Control.Socket); err == nil {
		_ = conn.Close()
		return callServer(c, "app-password/"+name, values)
	}
	log := stderrLog("error")
	l, err := openLogins(c.Context(), f, discard{}, log)
	if err != nil {
		return err
	}
	g, err := newGeneration(f, discard{}, nil, log, lived{logins: l})
	if err == nil {
		err = appPasswordReplies[name](appPasswords{g, l.apps}, c.Context(), values, c.OutOrStdout())
	}
	return errors.Join(err, l.kv.Close())
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/backup"
)

func backupCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "backup DIR", Short: "Back mailboxes up into a folder, and look after such backups", Args: cobra.ExactArgs(1),
		Long: "Writes what has changed since the run before into DIR, which is made on the first run: mailboxes with their\n" +
			"identities and UIDs, messages with their flags, subscriptions, metadata, access rights. Works beside the running\n" +
			"server, whose users notice nothing, or on the mailboxes of a stopped one; each account is taken as it is at one\n" +
			"instant. A run that was interrupted leaves the runs before as they were, and the next one makes use of it.\n\n" +
			"Exits with 0 when everything is in it, 3 when accounts or messages could not be read, which is told, and 1 on an\n" +
			"error. See docs/backup.md for what is in DIR, and for restoring step by step.",
		Example: "  postern backup /backup/mail --all\n  postern backup verify /backup/mail --deep\n  postern backup prune /backup/mail --keep-daily 7 --keep-weekly 4",
		RunE:    func(c *cobra.Command, args []string) error { return runBackup(c, args[0]) },
	}
	c.Flags().StringArrayP("user", "u", nil, "back up this `LOGIN` only; may be repeated")
	c.Flags().BoolP("all", "A", false, "back up all accounts")
	c.Flags().Bool("full", false, "look at each body whether it is in the folder, as after backup verify found some missing")
	c.Flags().String("rate", "", "read at most `OCTETS` a second, such as 20MB")
	c.Flags().Bool("json", false, "the summary as JSON")
	c.AddCommand(backupVerifyCommand(), backupListCommand(), backupPruneCommand())
	return c
}

// rateFlag reads --rate.
func rateFlag(c *cobra.Command) (int64, error) {
	text, _ := c.Flags().GetString("rate")
	if text == "" {
		return 0, nil
	}
	n, err := config.ParseOctets(text)
	if err != nil {
		return 0, fmt.Errorf("--rate: %w", err)
	}
	return n, nil
}

// usersOrAll reads --user and --all, of which there must be one.
func usersOrAll(c *cobra.Command) ([]string, error) {
	users, _ := c.Flags().GetStringArray("user")
	all, _ := c.Flags().GetBool("all")
	if all == (len(users) > 0) {
		return nil, errors.New("whose mailboxes is missing: --user LOGIN, or --all, and not both")
	}
	return users, nil
}

func runBackup(c *cobra.Command, dir string) (err error) {
	users, err := usersOrAll(c)
	if err != nil {
		return err
	}
	o := backup.Options{}
	o.Full, _ = c.Flags().GetBool("full")
	if o.Rate, err = rateFlag(c); err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	access, err := openMail(c, fmt.Sprintf("backup of %s into %s begun", accountsText(users), dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, access.Close()) }()
	if isBelow(access.file.DataDir, dir) {
		return fmt.Errorf("%s is in data_dir, %s, and would be lost with it; use a folder elsewhere, best on another disk", dir, access.file.DataDir)
	}
	folder, err := backup.Prepare(dir)
	if err != nil {
		return err
	}
	unlock, err := folder.Lock(false)
	if err != nil {
		return err
	}
	defer unlock()
	client, end, err := access.backups(c.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if o.Accounts, err = accountsOf(c.Context(), client, users); err != nil {
		return err
	}
	line := newProgressLine(c.ErrOrStderr())
	tell := progressOf(line)
	o.Progress = func(p backup.Progress) { tell(func(took time.Duration) string { return backupLine(p, took) }) }
	result, err := folder.Take(c.Context(), client, o)
	line.end()
	if err != nil {
		return err
	}
	if err := client.Finished(c.Context(), doneOf(dir, result, len(users) == 0)); err != nil {
		return err
	}
	return tellBackup(c, dir, result)
}

// isBelow reports whether a folder, which need not be there, is another one or in
// it, wherever symbolic links lead.
func isBelow(above, dir string) bool {
	above, dir = whereLinksLead(above), whereLinksLead(dir)
	relative, err := filepath.Rel(above, dir)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}

// whereLinksLead is the absolute path of a name of which only the first part may
// be there.
func whereLinksLead(name string) string {
	if absolute, err := filepath.Abs(name); err == nil {
		name = absolute
	}
	rest := ""
	for at := name; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return name
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

func accountsText(users []string) string {
	if len(users) == 0 {
		return "all accounts"
	}
	return "accounts " + strings.Join(users, ", ")
}

// accountsOf finds the identities of users, nil for no users, which is everybody.
func accountsOf(ctx context.Context, client *transfer.BackupClient, users []string) (ids []string, err error) {
	if len(users) == 0 {
		return nil, nil
	}
	known, err := client.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	for _, user := range users {
		at := slices.IndexFunc(known, func(k transfer.KnownAccount) bool { return k.Name == user })
		if at < 0 {
			owner, err := client.Owner(ctx, user)
			if err != nil {
				return nil, err
			}
			if at = slices.IndexFunc(known, func(k transfer.KnownAccount) bool { return k.ID == owner.ID }); at < 0 {
				return nil, fmt.Errorf("%s has no mailboxes here yet", user)
			}
		}
		ids = append(ids, known[at].ID)
	}
	return ids, nil
}

func doneOf(dir string, r *backup.Result, whole bool) transfer.BackupDone {
	return transfer.BackupDone{
		Run: r.Run, Place: dir, Begun: r.Begun, Finished: time.Now(), Whole: whole, Accounts: r.Done - len(r.Failed), Messages: r.Messages,
		Octets: r.Octets, Written: r.Written, Failed: len(r.Failed),
	}
}

func tellBackup(c *cobra.Command, dir string, r *backup.Result) error {
	took := time.Since(r.Begun)
	if asJSON, _ := c.Flags().GetBool("json"); asJSON {
		if err := json.NewEncoder(c.OutOrStdout()).Encode(struct {
			Run       string   `json:"run"`
			Dir       string   `json:"dir"`
			Accounts  int      `json:"accounts"`
			Unchanged int      `json:"unchanged"`
			Messages  int64    `json:"messages"`
			Octets    int64    `json:"octets"`
			Bodies    int64    `json:"new_bodies"`
			Written   int64    `json:"written"`
			Lost      []string `json:"lost,omitempty"`
			Failed    []string `json:"failed,omitempty"`
			Seconds   float64  `json:"seconds"`
		}{r.Run, dir, r.Done, r.Unchanged, r.Messages, r.Octets, r.Bodies, r.Written, r.LostText, r.Failed, took.Seconds()}); err != nil {
			return err
		}
	} else {
		out := c.OutOrStdout()
		for _, text := range r.LostText {
			fmt.Fprintf(out, "not in it: %s\n", text)
		}
		for _, text := range r.Failed {
			fmt.Fprintf(out, "not in it: account %s\n", text)
		}
		fmt.Fprintf(out, "run %s: %d account(s), %d of them unchanged, %d message(s), %s; %d new bodies, %s written, in %s\n", r.Run, r.Done, r.Unchanged,
			r.Messages, octets(uint64(r.Octets)), r.Bodies, octets(uint64(r.Written)), took.Round(10*time.Millisecond))
	}
	if r.Lost > 0 || len(r.Failed) > 0 {
		return &exitStatus{status: notWhole, err: fmt.Errorf("%d message(s) and %d account(s) are not in the backup", r.Lost, len(r.Failed))}
	}
	return nil
}

func backupLine(p backup.Progress, took time.Duration) string {
	seconds := max(took.Seconds(), 0.001)
	line := fmt.Sprintf("%d of %d accounts, %s of %s, %d new bodies, %s written (%s/s)", p.Done, p.Accounts, octets(uint64(p.Octets)),
		octets(uint64(max(p.Expected, p.Octets))), p.Bodies, octets(uint64(p.Written)), octets(uint64(float64(p.Octets)/seconds)))
	return line + timeLeft(p.Octets, p.Expected, took)
}

// timeLeft tells how long the rest takes at the rate so far.
func timeLeft(done, expected int64, took time.Duration) string {
	if done <= 0 || expected <= done {
		return ""
	}
	return ", " + roughly(time.Duration(float64(took)*float64(expected-done)/float64(done))) + " left"
}

// progressOf returns what tells progress lines with the time that was taken.
func progressOf(line *progressLine) func(func(took time.Duration) string) {
	begun := time.Now()
	return func(text func(took time.Duration) string) {
		if line.due() {
			line.tell(text(time.Since(begun)))
		}
	}
}

func backupListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list DIR", Short: "Tell which backups there are", Args: cobra.ExactArgs(1),
		Long: "Lists the runs in DIR, the oldest first; with --user those that have the account, and what they have of it.",
		RunE: func(c *cobra.Command, args []string) error {
			folder, err := backup.Open(args[0])
			if err != nil {
				return err
			}
			return listBackups(c, folder)
		},
	}
	c.Flags().StringP("user", "u", "", "only runs with this `ACCOUNT`")
	c.Flags().Bool("json", false, "a line of JSON for each run")
	return c
}

func listBackups(c *cobra.Command, folder *backup.Repository) error {
	names, err := folder.Runs()
	if err != nil {
		return err
	}
	user, _ := c.Flags().GetString("user")
	asJSON, _ := c.Flags().GetBool("json")
	var broken error
	for _, name := range names {
		run, err := folder.Run(name)
		if err != nil {
			fmt.Fprintf(c.ErrOrStderr(), "%v\n", err)
			broken = &exitStatus{status: notWhole, err: errors.New("some runs cannot be read")}
			continue
		}
		account, has := run.Account(user)
		if user != "" && !has {
			continue
		}
		if err := listRun(c.OutOrStdout(), run, account, user != "", asJSON); err != nil {
			return err
		}
	}
	return broken
}

func listRun(out io.Writer, run *backup.Run, account backup.RunAccount, one, asJSON bool) error {
	kind := "all accounts"
	if !run.Whole {
		kind = "some accounts"
	}
	if asJSON {
		line := struct {
			Run      string             `json:"run"`
			Begun    time.Time          `json:"begun"`
			Finished time.Time          `json:"finished"`
			All      bool               `json:"all"`
			Accounts int                `json:"accounts"`
			Messages int64              `json:"messages"`
			Octets   int64              `json:"octets"`
			Written  int64              `json:"written"`
			Account  *backup.RunAccount `json:"account,omitempty"`
		}{run.Name, run.Begun, run.Finished, run.Whole, len(run.Accounts), run.Messages, run.Octets, run.Written, nil}
		if one {
			line.Account = &account
		}
		return json.NewEncoder(out).Encode(line)
	}
	var err error
	switch {
	case one && account.Failed != "":
		_, err = fmt.Fprintf(out, "%s  could not be read: %s\n", run.Name, account.Failed)
	case one:
		_, err = fmt.Fprintf(out, "%s  %d mailboxes, %d messages, %s, as of %s\n", run.Name, account.Mailboxes, account.Messages,
			octets(uint64(account.Octets)), account.Taken.Local().Format(time.DateTime))
	default:
		_, err = fmt.Fprintf(out, "%s  %s: %d, %d messages, %s, %s new, in %s\n", run.Name, kind, len(run.Accounts), run.Messages,
			octets(uint64(run.Octets)), octets(uint64(run.Written)), run.Finished.Sub(run.Begun).Round(time.Second))
	}
	return err
}

func backupPruneCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "prune DIR", Short: "Remove old backups", Args: cobra.ExactArgs(1),
		Long: "Keeps the latest run of each of the last so many days, weeks, months and years that have one, and the last runs;\n" +
			"removes the others, and what only they name. Runs of all accounts and runs of some are counted by themselves.\n" +
			"Nothing is removed while a run or manifest cannot be read, nor while a backup or restore is under way.",
		RunE: func(c *cobra.Command, args []string) error { return pruneBackups(c, args[0]) },
	}
	for _, name := range []string{"last", "daily", "weekly", "monthly", "yearly"} {
		c.Flags().Int("keep-"+name, 0, "`N`: see above")
	}
	c.Flags().Bool("dry-run", false, "only tell what would go")
	return c
}

func pruneBackups(c *cobra.Command, dir string) error {
	var keep backup.Keep
	for name, to := range map[string]*int{"last": &keep.Last, "daily": &keep.Daily, "weekly": &keep.Weekly, "monthly": &keep.Monthly, "yearly": &keep.Yearly} {
		if *to, _ = c.Flags().GetInt("keep-" + name); *to < 0 {
			return fmt.Errorf("--keep-%s cannot be negative", name)
		}
	}
	if keep.IsZero() {
		return errors.New("what is to be kept is missing, such as --keep-daily 7 --keep-weekly 4")
	}
	dry, _ := c.Flags().GetBool("dry-run")
	folder, err := backup.Open(dir)
	if err != nil {
		return err
	}
	unlock, err := folder.Lock(true)
	if err != nil {
		return err
	}
	defer unlock()
	line := newProgressLine(c.ErrOrStderr())
	tell := progressOf(line)
	p, err := folder.Prune(c.Context(), keep, dry, func(p backup.Pruning) {
		tell(func(time.Duration) string {
			if p.Of > 0 {
				return fmt.Sprintf("%d of %d manifests read", p.Manifests, p.Of)
			}
			return fmt.Sprintf("%d%% of the bodies looked at, %d to go, %s", p.Share, p.Bodies, octets(uint64(p.Octets)))
		})
	})
	line.end()
	if err != nil {
		return err
	}
	verb := "removed"
	if dry {
		verb = "to be removed"
	}
	for _, name := range p.Removed {
		fmt.Fprintf(c.OutOrStdout(), "%s: run %s\n", verb, name)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%d run(s) kept, %d %s; with them %d manifest(s) and %d bodies, %s\n", len(p.Kept), len(p.Removed), verb,
		p.Manifests, p.Bodies, octets(uint64(p.Octets)))
	return err
}

func backupVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "verify DIR", Short: "Find out whether backups are whole", Args: cobra.ExactArgs(1),
		Long: "Reads every run and manifest and looks whether the bodies are there; --deep reads these too. Tells what is not\n" +
			"whole and where, and exits with 3 then. --against-store also compares the latest run of all accounts with the\n" +
			"mailboxes: what came since is counted, and what must not differ is told.",
		RunE: func(c *cobra.Command, args []string) error { return verifyBackups(c, args[0]) },
	}
	c.Flags().Bool("deep", false, "read the bodies")
	c.Flags().String("run", "", "only `RUN`, as postern backup list tells it")
	c.Flags().Bool("against-store", false, "compare with the mailboxes")
	return c
}

func verifyBackups(c *cobra.Command, dir string) (err error) {
	folder, err := backup.Open(dir)
	if err != nil {
		return err
	}
	unlock, err := folder.LockShared()
	if err != nil {
		return err
	}
	defer unlock()
	var runs []string
	if run, _ := c.Flags().GetString("run"); run != "" {
		runs = []string{run}
	}
	deep, _ := c.Flags().GetBool("deep")
	broken := 0
	line := newProgressLine(c.ErrOrStderr())
	tell := progressOf(line)
	v, err := folder.Verify(c.Context(), runs, deep, func(f backup.Finding) {
		broken++
		line.end()
		fmt.Fprintln(c.OutOrStdout(), f.Error())
	}, func(v backup.Verified) {
		tell(func(took time.Duration) string {
			return fmt.Sprintf("%d manifests, %d bodies looked at, %s read (%s/s)", v.Manifests, v.Bodies, octets(uint64(v.Octets)), octets(uint64(float64(v.Octets)/took.Seconds())))
		})
	})
	line.end()
	if err != nil {
		return err
	}
	if against, _ := c.Flags().GetBool("against-store"); against {
		n, err := verifyAgainstStore(c, folder, runs)
		if err != nil {
			return err
		}
		broken += n
	}
	fmt.Fprintf(c.OutOrStdout(), "%d run(s), %d manifest(s), %d bodies", v.Runs, v.Manifests, v.Bodies)
	if deep {
		fmt.Fprintf(c.OutOrStdout(), " with %s read", octets(uint64(v.Octets)))
	}
	if v.Interrupted > 0 || v.Unnamed > 0 {
		fmt.Fprintf(c.OutOrStdout(), "; %d interrupted run(s) and %d bodies that no run names", v.Interrupted, v.Unnamed)
	}
	if v.Runs == 0 && broken == 0 {
		fmt.Fprintln(c.OutOrStdout())
		return &exitStatus{status: notWhole, err: errors.New("no run is complete: nothing can be restored; postern backup makes one")}
	}
	if broken > 0 {
		fmt.Fprintln(c.OutOrStdout())
		return &exitStatus{status: notWhole, err: fmt.Errorf("%d thing(s) are not whole. Remove the files of damaged bodies and run postern backup --all --full: what the mailboxes still have "+
			"comes back. Where a run or a manifest is damaged, remove the file of the run: the others are whole without it", broken)}
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), ": all whole")
	return err
}

// verifyAgainstStore compares a run with the mailboxes, and returns how much is
// not as it must be.
func verifyAgainstStore(c *cobra.Command, folder *backup.Repository, runs []string) (broken int, err error) {
	var run *backup.Run
	if len(runs) > 0 {
		run, err = folder.Run(runs[0])
	} else {
		run, err = folder.At(time.Time{}, "")
	}
	if err != nil {
		return 0, err
	}
	access, err := openMail(c, "backup verify: run "+run.Name+" compared with the mailboxes")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, access.Close()) }()
	client, end, err := access.backups(c.Context())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	out := c.OutOrStdout()
	for _, a := range run.Accounts {
		if a.Failed != "" {
			continue
		}
		d, err := folder.Compare(c.Context(), client, a)
		var refused *transfer.Refused
		switch {
		case errors.As(err, &refused):
			fmt.Fprintf(out, "account %q cannot be read in the store: %s\n", a.Name, refused.Text)
			broken++
			continue
		case err != nil:
			return broken, err
		}
		for _, text := range d.Wrong {
			broken++
			fmt.Fprintf(out, "account %q: %s: not the message that is in the store\n", a.Name, text)
		}
		if !d.Same {
			fmt.Fprintf(out, "account %q: since the backup %d message(s) came, %d went, flags of %d changed\n", a.Name, d.Newer, d.Missing, d.Changed)
		}
	}
	return broken, nil
}

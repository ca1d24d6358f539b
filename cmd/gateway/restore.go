package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/backup"
)

func restoreCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "restore DIR", Short: "Bring mailboxes back from a backup", Args: cobra.ExactArgs(1),
		Long: "Without --into or --mailbox makes whole accounts again as they were: mailboxes, UIDs, flags, subscriptions. That is\n" +
			"possible where the account is empty or not there, and not on a server of a pair; the account is closed to mail and\n" +
			"people until it is whole, and a restore that was interrupted is gone on with by the same command.\n\n" +
			"With --into, or for one --mailbox, messages are put back below that mailbox, or \"Restored/RUN\", beside what is\n" +
			"there, which stays as it is; messages that are there already are passed over.\n\n" +
			"Exits with 0 when everything is back, 3 when something was passed over as damaged, and 1 on an error. See\n" +
			"docs/backup.md for what to do when a server, or both of a pair, are lost.",
		Example: "  postern restore /backup/mail --user kim --mailbox Work --at 2026-11-20\n  postern restore /backup/mail --all",
		RunE:    func(c *cobra.Command, args []string) error { return runRestore(c, args[0]) },
	}
	c.Flags().StringArrayP("user", "u", nil, "restore this `ACCOUNT`; may be repeated")
	c.Flags().BoolP("all", "A", false, "restore all accounts of the run")
	c.Flags().String("at", "", "from the latest run until `TIME` (2026-11-20, or with 15:04), or that run; otherwise the latest")
	c.Flags().String("mailbox", "", "only mailbox `NAME` and those below it")
	c.Flags().String("uid", "", "only messages with these UIDs of --mailbox, such as 17,20-25")
	c.Flags().String("into", "", "put messages back below mailbox `NAME`")
	c.Flags().String("to", "", "put them into the account of this `LOGIN`")
	c.Flags().Bool("damaged", false, "go on without what is damaged")
	c.Flags().Bool("dry-run", false, "only tell what there is to restore")
	c.Flags().String("rate", "", "restore at most `OCTETS` a second, such as 20MB")
	c.Flags().Bool("give-up", false, "open an account whose restore was interrupted, as far as it is back")
	return c
}

// parseRunTime finds the run that --at means.
func parseRunTime(folder *backup.Repository, at, account string) (*backup.Run, error) {
	if at == "" {
		return folder.At(time.Time{}, account)
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04", time.DateTime, time.RFC3339} {
		when, err := time.ParseInLocation(layout, at, time.Local)
		if err != nil {
			continue
		}
		if layout == time.DateOnly {
			when = when.AddDate(0, 0, 1).Add(-time.Nanosecond) // the end of the day
		}
		return folder.At(when, account)
	}
	run, err := folder.Run(at)
	if errors.Is(err, backup.ErrNoRun) {
		err = fmt.Errorf("--at %q is neither a time such as 2026-11-20 or 2026-11-20T15:04 nor a run that postern backup list tells", at)
	}
	return run, err
}

// parseUIDs reads --uid: nil for "".
func parseUIDs(text string) (func(uint32) bool, error) {
	if text == "" {
		return nil, nil
	}
	type span struct{ from, to uint32 }
	var spans []span
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(strings.ReplaceAll(part, ":", "-"), "-")
		from, err := strconv.ParseUint(first, 10, 32)
		to := from
		if err == nil && ranged {
			to, err = strconv.ParseUint(last, 10, 32)
		}
		if err != nil || from == 0 || to < from {
			return nil, fmt.Errorf("--uid %q is no list of UIDs such as 17,20-25", text)
		}
		spans = append(spans, span{uint32(from), uint32(to)})
	}
	return func(uid uint32) bool {
		for _, s := range spans {
			if s.from <= uid && uid <= s.to {
				return true
			}
		}
		return false
	}, nil
}

func restoreOptions(c *cobra.Command) (o backup.RestoreOptions, err error) {
	o.Mailbox, _ = c.Flags().GetString("mailbox")
	o.Into, _ = c.Flags().GetString("into")
	o.User, _ = c.Flags().GetString("to")
	o.Damaged, _ = c.Flags().GetBool("damaged")
	o.Dry, _ = c.Flags().GetBool("dry-run")
	o.Mailbox, o.Into = strings.TrimSuffix(o.Mailbox, "/"), strings.TrimSuffix(o.Into, "/")
	if strings.EqualFold(o.Mailbox, "INBOX") {
		o.Mailbox = "INBOX"
	}
	if o.Rate, err = rateFlag(c); err != nil {
		return o, err
	}
	uids, _ := c.Flags().GetString("uid")
	if o.UIDs, err = parseUIDs(uids); err != nil {
		return o, err
	}
	if o.UIDs != nil && o.Mailbox == "" {
		return o, errors.New("--uid needs --mailbox: UIDs are those of a mailbox")
	}
	return o, nil
}

func runRestore(c *cobra.Command, dir string) (err error) {
	users, err := usersOrAll(c)
	if err != nil {
		return err
	}
	o, err := restoreOptions(c)
	if err != nil {
		return err
	}
	giveUp, _ := c.Flags().GetBool("give-up")
	if o.User != "" && len(users) != 1 {
		return errors.New("--to needs one --user, whose messages they are")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	folder, err := backup.Open(dir)
	if err != nil {
		return err
	}
	unlock, err := folder.LockShared()
	if err != nil {
		return err
	}
	defer unlock()
	access, err := openMail(c, fmt.Sprintf("restore of %s from %s", accountsText(users), dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, access.Close()) }()
	r := &restore{c: c, folder: folder, access: access, o: o}
	if giveUp {
		return r.giveUp(c.Context(), users)
	}
	return r.all(c.Context(), users)
}

// restore is one run of the command.
type restore struct {
	c       *cobra.Command
	folder  *backup.Repository
	access  *mailAccess
	o       backup.RestoreOptions
	damaged int64
	failed  []string
}

// giveUp opens accounts whose restore was interrupted; of all without users.
func (r *restore) giveUp(ctx context.Context, users []string) (err error) {
	client, end, err := r.access.backups(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	known, err := client.Accounts(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, user := range users {
		if !slices.ContainsFunc(known, func(k transfer.KnownAccount) bool { return k.Name == user }) {
			owner, err := client.Owner(ctx, user)
			if err != nil {
				return err
			}
			user = owner.Name
		}
		names = append(names, user)
	}
	opened := 0
	for _, k := range known {
		if k.Restoring == "" || len(users) > 0 && !slices.Contains(names, k.Name) {
			continue
		}
		if err := client.GiveUp(ctx, k.Name); err != nil {
			return fmt.Errorf("account %q: %w", k.Name, err)
		}
		opened++
		fmt.Fprintf(r.c.OutOrStdout(), "%s: open, with what had come back from run %s; its mailboxes have a new UIDVALIDITY\n", k.Name, k.Restoring)
	}
	if opened == 0 {
		return fmt.Errorf("no restore of %s was interrupted: there is nothing to give up", accountsText(users))
	}
	return nil
}

func (r *restore) all(ctx context.Context, users []string) error {
	at, _ := r.c.Flags().GetString("at")
	if len(users) == 0 {
		run, err := parseRunTime(r.folder, at, "")
		if err != nil {
			return err
		}
		for _, a := range run.Accounts {
			if a.Failed != "" {
				r.failed = append(r.failed, fmt.Sprintf("%s: it is not in the backup: %s", a.Name, a.Failed))
				continue
			}
			if err := r.each(ctx, run, a); err != nil {
				return err
			}
		}
		return r.end()
	}
	for _, user := range users {
		name, err := r.nameOf(ctx, at, user)
		if err != nil {
			return err
		}
		run, err := parseRunTime(r.folder, at, name)
		if err != nil {
			return err
		}
		a, ok := run.Account(name)
		if !ok || a.Failed != "" {
			return fmt.Errorf("run %s does not have account %q", run.Name, name)
		}
		if err := r.each(ctx, run, a); err != nil {
			return err
		}
	}
	return r.end()
}

// nameOf finds the account of a user: the backup knows accounts by name, the
// directory by login and address.
func (r *restore) nameOf(ctx context.Context, at, user string) (string, error) {
	_, err := parseRunTime(r.folder, at, user)
	if err == nil || !errors.Is(err, backup.ErrNoRun) {
		if run, _ := parseRunTime(r.folder, at, user); run != nil {
			if _, ok := run.Account(user); ok {
				return user, nil
			}
		} else {
			return user, err
		}
	}
	client, end, openErr := r.access.backups(ctx)
	if openErr != nil {
		return "", openErr
	}
	found, ownerErr := client.Owner(ctx, user)
	if endErr := end(); ownerErr == nil && endErr == nil {
		return found.Name, nil
	}
	return "", cmp.Or(err, ownerErr)
}

// each restores one account. What is wrong with one account alone does not keep
// the others from being restored.
func (r *restore) each(ctx context.Context, run *backup.Run, a backup.RunAccount) error {
	o := r.o
	if o.Into == "" && (o.Mailbox != "" || o.User != "") {
		o.Into = "Restored/" + run.Name
		if o.Mailbox != "" {
			o.Into += "/" + o.Mailbox
		}
	}
	client, end, err := r.access.backups(ctx)
	if err != nil {
		return err
	}
	line := newProgressLine(r.c.ErrOrStderr())
	tell := progressOf(line)
	o.Progress = func(p backup.Restored) {
		tell(func(took time.Duration) string {
			return fmt.Sprintf("%s: %d of %d messages, %s (%s/s)", p.Account, p.Messages+p.There, p.Expected, octets(uint64(p.Octets)),
				octets(uint64(float64(p.Octets)/took.Seconds()))) + timeLeft(p.Messages+p.There, p.Expected, took)
		})
	}
	result, err := r.folder.Restore(ctx, client, run, a, o)
	line.end()
	_ = end() // what matters was answered
	var refused *transfer.Refused
	if errors.As(err, &refused) || errors.Is(err, backup.ErrDamaged) {
		r.failed = append(r.failed, fmt.Sprintf("%s: %v", a.Name, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("account %q: %w", a.Name, err)
	}
	r.damaged += result.Damaged
	out := r.c.OutOrStdout()
	for _, text := range result.DamagedText {
		fmt.Fprintf(out, "%s: passed over: %s\n", a.Name, text)
	}
	if o.Dry {
		_, err = fmt.Fprintf(out, "%s: run %s has %d mailbox(es), %d message(s), %s to restore\n", a.Name, run.Name, result.Mailboxes, result.Expected, octets(uint64(result.Octets)))
		return err
	}
	where := ""
	if o.Into != "" {
		where = fmt.Sprintf(" in %q", o.Into)
	}
	_, err = fmt.Fprintf(out, "%s: %d mailbox(es), %d message(s), %s restored from run %s%s; %d were there\n", a.Name, result.Mailboxes, result.Messages,
		octets(uint64(result.Octets)), run.Name, where, result.There)
	return err
}

func (r *restore) end() error {
	for _, text := range r.failed {
		fmt.Fprintf(r.c.ErrOrStderr(), "not restored: %s\n", text)
	}
	switch {
	case len(r.failed) > 0:
		return fmt.Errorf("%d account(s) were not restored", len(r.failed))
	case r.damaged > 0:
		return &exitStatus{status: notWhole, err: fmt.Errorf("%d message(s) are damaged in the backup and were passed over", r.damaged)}
	}
	return nil
}

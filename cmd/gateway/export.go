package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/maildir"
	"github.com/postern-mail/postern/transfer/mbox"
)

func exportCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "export", Short: "Write mailboxes as Maildir or mbox",
		Long: "Works beside the running server or on the mailboxes of a stopped one, and changes nothing there. DIR must not\n" +
			"exist; it appears when everything is in it.",
	}
	c.AddCommand(
		exportAs("maildir", "Write mailboxes as a Maildir",
			"Texts octet by octet, flags, keywords, dates, names, subscriptions, UIDs: a Maildir++ that Dovecot reads, and that\n"+
				"postern import maildir --uids brings back as it was. A folder's 27th keyword has no letter and is lost, which is told.",
			func(dir string) (transfer.Sink, error) { return maildir.Create(dir) }),
		exportAs("mbox", "Write mailboxes as a folder of mbox files",
			"One mboxrd file for each mailbox, with flags in Status, X-Status and X-Keywords. Line ends become LF, and mbox has\n"+
				"no subscriptions.",
			func(dir string) (transfer.Sink, error) { return mbox.CreateDir(dir) }),
	)
	return c
}

func exportAs(name, short, long string, create func(string) (transfer.Sink, error)) *cobra.Command {
	c := &cobra.Command{
		Use: name + " DIR", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runExport(c, name, args[0], create) },
	}
	c.Flags().String("user", "", "whose mailboxes, by login or address")
	c.Flags().StringArray("mailbox", nil, "only mailboxes like `PATTERN`, and those below them; may be repeated")
	c.Flags().Bool("json", false, "the summary as JSON")
	return c
}

func runExport(c *cobra.Command, format, dir string, create func(string) (transfer.Sink, error)) (err error) {
	user, _ := c.Flags().GetString("user")
	if user == "" {
		return errors.New("whose mailboxes is missing: --user LOGIN")
	}
	patterns, _ := c.Flags().GetStringArray("mailbox")
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("%q is no pattern: %w", p, err)
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already; an export goes into a folder of its own", dir)
	}
	mail, err := openMail(c, "export "+format+" to "+dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mail.Close()) }()
	client, end, err := mail.account(c.Context(), user)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil { // of an export that was interrupted
		return err
	}
	sink, err := create(part)
	if err != nil {
		return err
	}
	wanted := func(name string) bool { return len(patterns) == 0 || transfer.Matches(patterns, name) }
	sum, err := transfer.Export(c.Context(), client, sink, wanted, nil)
	if err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	if parent, err := os.Open(filepath.Dir(dir)); err == nil {
		_ = parent.Sync() // the export is whole; only its name may be lost
		_ = parent.Close()
	}
	return tellExport(c, user, dir, sum)
}

func tellExport(c *cobra.Command, user, dir string, s *transfer.Exported) error {
	if asJSON, _ := c.Flags().GetBool("json"); asJSON {
		return json.NewEncoder(c.OutOrStdout()).Encode(struct {
			User string    `json:"user"`
			Dir  string    `json:"dir"`
			At   time.Time `json:"at"`
			*transfer.Exported
		}{user, dir, time.Now().UTC().Truncate(time.Second), s})
	}
	text := fmt.Sprintf("%s: %d mailbox(es), %d message(s), %s in %s", user, s.Folders, s.Messages, octets(uint64(s.Octets)), dir)
	if s.Gone > 0 {
		text += fmt.Sprintf("; %d were expunged meanwhile", s.Gone)
	}
	if s.LostFlags > 0 {
		text += fmt.Sprintf("; %d keyword(s) could not be written", s.LostFlags)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), text)
	return err
}

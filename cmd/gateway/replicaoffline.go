package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/replica"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/store"
)

// offline runs do on the mailboxes of a configuration whose server is stopped.
func offline(c *cobra.Command, check func(*config.File) error, do func(context.Context, *config.File, *fsck) error) error {
	f, err := config.Load(configPath(c))
	if err != nil {
		return err
	}
	if f.Backend == nil {
		return errors.New("this configuration has no backend block, so there are no mailboxes")
	}
	if err := check(f); err != nil {
		return err
	}
	if yes, _ := c.Flags().GetBool("yes"); !yes {
		return errors.New("this cannot be taken back; read the help, then say --yes")
	}
	if conn, err := net.Dial("unix", f.Control.Socket); err == nil {
		_ = conn.Close()
		return fmt.Errorf("the server is running: it answers at %s; stop it first", f.Control.Socket)
	}
	return do(c.Context(), f, &fsck{file: f, out: c.OutOrStdout(), log: stderrLog("error").Named("replica")})
}

// withMailstore opens the mailboxes, lets do change them and closes them.
func (k *fsck) withMailstore(ctx context.Context, cfg mailstore.Config, do func(*mailstore.Store, store.Store) error) (err error) {
	e, err := k.open(ctx, "mail")
	if err != nil {
		return err
	}
	if e == nil {
		return fmt.Errorf("there are no mailboxes in %s", k.file.DataDir)
	}
	defer func() { err = errors.Join(err, e.pack.Close(), e.kv.Close()) }()
	mailboxes, err := mailstore.Open(ctx, cfg, e.kv, e.pack, k.log)
	if err != nil {
		return err
	}
	return do(mailboxes, e.kv)
}

func replicaForgetCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "forget", Short: "Make a server of its own of one whose partner is gone for good", Args: cobra.NoArgs,
		Long: "Has a stopped server, whose configuration has no replica block any more, give out UIDs one after the other again,\n" +
			"as a server without a partner does. The partner that is forgotten is refused should it come back with what it has:\n" +
			"a new one, or that one after postern replica rejoin, is filled from this server.",
		RunE: func(c *cobra.Command, _ []string) error {
			return offline(c, func(f *config.File) error {
				if f.Backend.Replica != nil {
					return errors.New("the configuration still has a replica block: remove it first, but leave node as it is; the block comes back with a new partner")
				}
				return nil
			}, func(ctx context.Context, f *config.File, k *fsck) error {
				if err := k.withMailstore(ctx, f.Backend.Room(), func(s *mailstore.Store, kv store.Store) error {
					return cmp.Or(replica.Forget(ctx, kv, s.Origin()), s.Forget(ctx))
				}); err != nil {
					return err
				}
				_, err := fmt.Fprintln(k.out, "the partner is forgotten; this server is one of its own")
				return err
			})
		},
	}
	c.Flags().Bool("yes", false, "do it")
	return c
}

func replicaRejoinCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rejoin", Short: "Have a stopped server's mailboxes filled anew from its partner", Args: cobra.NoArgs,
		Long: "For a server whose mailboxes are older than its partner knows, as after a restore from a backup, or damaged.\n" +
			"Sets the mailboxes of the stopped server aside and has it begin without any, as a new incarnation: started again\n" +
			"it takes them from its partner, the most recent first, and serves each account once it is there. What the partner\n" +
			"never got is in the folder that was set aside, and in no mailbox.",
		RunE: func(c *cobra.Command, _ []string) error {
			return offline(c, func(f *config.File) error {
				if f.Backend.Replica == nil {
					return errors.New("the configuration has no replica block: there is no partner to take mailboxes from")
				}
				return nil
			}, rejoin)
		},
	}
	c.Flags().Bool("yes", false, "do it")
	return c
}

func rejoin(ctx context.Context, f *config.File, k *fsck) error {
	// Opened once, so that nobody else has it and it is the right user's.
	e, err := k.open(ctx, "mail")
	if err != nil {
		return err
	}
	dir := filepath.Join(f.DataDir, "mail")
	if e != nil {
		if err := errors.Join(e.pack.Close(), e.kv.Close()); err != nil {
			return err
		}
		aside := dir + ".before-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(dir, aside); err != nil {
			return err
		}
		fmt.Fprintf(k.out, "the mailboxes were set aside as %s\n", aside)
	}
	fresh := server{log: k.log}
	if e, err = fresh.openEngine(ctx, f, "mail"); err != nil {
		return err
	}
	mailboxes, err := mailstore.Open(ctx, f.Backend.Room(), e.kv, e.pack, k.log)
	if err == nil {
		err = mailboxes.Rejoin(ctx)
	}
	if err := errors.Join(err, e.pack.Close(), e.kv.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(k.out, "start the server: it takes its mailboxes from the partner")
	return err
}

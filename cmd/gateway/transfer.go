package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/transfer"
)

// streams is what operators' processes have conversations about.
func (s *server) streams() admin.Streams {
	if s.mailstore == nil {
		return nil
	}
	return admin.Streams{
		"transfer": s.streamTransfer, "backup": s.streamBackup, "mailbox": s.streamMailbox(imapd.NewSearches(s.mailstore)),
	}
}

// mailboxOwner finds whose mailboxes are meant: by the account's name, a login,
// or an address.
func (g *generation) mailboxOwner(ctx context.Context, user string) (mail.Account, error) {
	name := g.file.Backend.Directory
	source, ok := g.sources[name]
	if !ok {
		return mail.Account{}, errors.New("the backend has no directory")
	}
	account, err := source.AccountNamed(ctx, user)
	if status.Of(err) == status.NoSuchUser {
		account, err = source.Account(ctx, user)
	}
	if address, parsed := mail.ParseAddress(user); parsed == nil && status.Of(err) == status.NoSuchUser {
		account, err = source.AccountOf(ctx, address)
	}
	if status.Of(err) == status.NoSuchUser {
		return account, fmt.Errorf("directory %s knows no account %q; postern lookup tells what it was asked", name, user)
	}
	return account, err
}

// streamTransfer begins to take mail of one account in or out.
func (s *server) streamTransfer(ctx context.Context, args url.Values) (func(context.Context, net.Conn) error, error) {
	who, err := s.current.Load().mailboxOwner(ctx, args.Get("user"))
	if err != nil {
		return nil, err
	}
	account, err := s.mailstore.Account(ctx, who)
	if err != nil {
		return nil, err
	}
	e := mail.Event{
		Kind: mail.EventOperator, Result: "ok", Service: "control", Login: admin.Operator(ctx),
		Detail: fmt.Sprintf("transfer of account %q: %s", who.Name, args.Get("doing")),
	}
	s.audit.Record(e)
	return func(ctx context.Context, conn net.Conn) error {
		defer account.Close()
		return transfer.Serve(ctx, conn, s.mailstore, account)
	}, nil
}

// mailAccess reaches mailboxes: through the server that runs, or in the store
// of one that does not.
type mailAccess struct {
	socket string
	doing  string // for the audit
	file   *config.File
	idle   *idleMail // nil while a server runs
}

// idleMail is the mail store of a server that does not run, opened here.
type idleMail struct {
	engine  *engine
	store   *mailstore.Store
	people  *generation // nil when it cannot be asked
	why     error       // it cannot
	record  *audit.Log
	helpers func()
}

// openMail finds out whether a server runs, and opens its store if not.
func openMail(c *cobra.Command, doing string) (*mailAccess, error) {
	f, err := config.Load(configPath(c))
	if err != nil {
		return nil, err
	}
	if f.Backend == nil {
		return nil, errors.New("this configuration has no backend block, so there are no mailboxes")
	}
	m := &mailAccess{socket: f.Control.Socket, doing: doing, file: f}
	conn, err := net.Dial("unix", m.socket)
	if err == nil {
		return m, conn.Close()
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("control socket %s: %w; run this as root or as the user the server runs as", m.socket, err)
	}
	m.idle, err = openIdleMail(c, f)
	return m, err
}

func openIdleMail(c *cobra.Command, f *config.File) (_ *idleMail, err error) {
	log := stderrLog("error").Named("mail")
	k := &fsck{file: f, out: c.OutOrStdout(), log: log}
	i := &idleMail{helpers: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	if i.engine, err = k.open(c.Context(), "mail"); err != nil {
		return nil, err
	}
	if i.engine == nil {
		fresh := server{log: log}
		if err := prepareDataDir(os.Geteuid(), f.DataDir); err != nil {
			return nil, err
		}
		if i.engine, err = fresh.openEngine(c.Context(), f, "mail"); err != nil {
			return nil, err
		}
	}
	if i.store, err = mailstore.Open(c.Context(), f.Backend.Room(), i.engine.kv, i.engine.pack, log); err != nil {
		return nil, err
	}
	if i.record, err = audit.Open(f.Audit.Room(), log); err != nil {
		return nil, err
	}
	if i.people, i.why = idleGeneration(configPath(c)); i.why == nil {
		i.helpers = i.people.runHelpers(c.Context())
	}
	return i, nil
}

// prepareDataDir makes a data_dir that is not there; one that is, empty as an
// installation makes it, must be the user's.
func prepareDataDir(user int, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	return ownedBy(user, dir, info)
}

func (i *idleMail) close() (err error) {
	i.helpers()
	if i.record != nil {
		err = i.record.Close()
	}
	if i.engine != nil {
		err = errors.Join(err, i.engine.pack.Close(), i.engine.kv.Close())
	}
	return err
}

// owner is mailboxOwner, or, while the directory cannot be asked, an account
// that has mailboxes here already.
func (i *idleMail) owner(ctx context.Context, user string) (mail.Account, error) {
	err := i.why
	if err == nil {
		var who mail.Account
		if who, err = i.people.mailboxOwner(ctx, user); err == nil || status.Of(err) == status.NoSuchUser {
			return who, err
		}
	}
	if names, listErr := i.store.Accounts(ctx); listErr == nil && slices.Contains(names, user) {
		return mail.Account{Name: user}, nil
	}
	return mail.Account{}, err
}

// Close closes what was opened here.
func (m *mailAccess) Close() error {
	if m.idle == nil {
		return nil
	}
	return m.idle.close()
}

// account begins a conversation about one account; end ends it.
func (m *mailAccess) account(ctx context.Context, user string) (client *transfer.Client, end func() error, err error) {
	if m.idle == nil {
		conn, err := admin.Open(ctx, m.socket, "transfer", url.Values{"user": {user}, "doing": {m.doing}})
		if err != nil {
			return nil, nil, err
		}
		return transfer.NewClient(conn), conn.Close, nil
	}
	who, err := m.idle.owner(ctx, user)
	if err != nil {
		return nil, nil, err
	}
	account, err := m.idle.store.Account(ctx, who)
	if err != nil {
		return nil, nil, err
	}
	m.idle.record.Record(mail.Event{
		Kind: mail.EventOperator, Result: "ok", Service: "command", Login: fmt.Sprintf("uid %d", os.Getuid()),
		Detail: fmt.Sprintf("transfer of account %q: %s", who.Name, m.doing),
	})
	here, there := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- transfer.Serve(ctx, there, m.idle.store, account) }()
	return transfer.NewClient(here), func() error {
		err := here.Close()
		served := <-ended
		account.Close()
		if ctx.Err() != nil || errors.Is(served, io.ErrClosedPipe) {
			served = nil
		}
		return errors.Join(err, served)
	}, nil
}

// stateDir is where imports remember what they brought.
func stateDir(c *cobra.Command, f *config.File) string {
	dir, _ := c.Flags().GetString("state")
	return cmp.Or(dir, filepath.Join(f.DataDir, "import"))
}

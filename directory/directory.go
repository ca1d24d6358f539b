package directory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Directory answers questions about addresses and logins from one Searcher by
// one Mapping. It may be used concurrently.
type Directory struct {
	cfg      Config
	mapping  *mapping
	searcher Searcher
	tables   []Table
	log      hclog.Logger
	down     atomic.Bool // the last search that ended did not answer

	recipients *answers[mail.Address, []mail.Recipient]
	accounts   *answers[string, login]
	names      *answers[string, mail.Account]
	holders    *answers[mail.Address, mail.Account]
	owners     *answers[mail.Address, []string]
}

// login is an account and the entry a bind proves it by.
type login struct {
	dn      DN
	account mail.Account
}

// New returns a directory that reads from searcher, and for addresses from
// tables before it. An address in a table is an alias: nobody's login, and
// nobody's to send as unless the entries say so too. New does no input or
// output.
func New(cfg Config, searcher Searcher, log hclog.Logger, tables ...Table) (*Directory, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	m, err := cfg.compile()
	if err != nil {
		return nil, fmt.Errorf("directory %q: %w", cfg.Name, err)
	}
	d := &Directory{cfg: cfg, mapping: m, searcher: searcher, tables: tables, log: log.Named(cfg.Name)}
	generation := d.generation()
	d.recipients = newAnswers[mail.Address, []mail.Recipient](cfg.Cache, generation)
	d.accounts = newAnswers[string, login](cfg.Cache, generation)
	d.names = newAnswers[string, mail.Account](cfg.Cache, generation)
	d.holders = newAnswers[mail.Address, mail.Account](cfg.Cache, generation)
	d.owners = newAnswers[mail.Address, []string](cfg.Cache, generation)
	return d, nil
}

// generation returns a number that grows whenever a source changes as a whole.
func (d *Directory) generation() func() uint64 {
	var sources []Generational
	if g, ok := d.searcher.(Generational); ok {
		sources = append(sources, g)
	}
	for _, table := range d.tables {
		if g, ok := table.(Generational); ok {
			sources = append(sources, g)
		}
	}
	return func() uint64 {
		sum := uint64(0)
		for _, g := range sources {
			sum += g.Generation()
		}
		return sum
	}
}

// Name returns the directory's name in accounts and logs.
func (d *Directory) Name() string { return d.cfg.Name }

// Down reports whether the last search that ended got no answer.
func (d *Directory) Down() bool { return d.down.Load() }

// Resolve returns who gets mail for an address: primary addresses of accounts
// and external addresses, each once, after aliases, forwards and groups.
// Accepted is a; Original, Notify are left to the caller, who owns the slice.
//
// Reasons: NoSuchUser, AccountDisabled (when the configuration refuses mail
// to disabled accounts), PolicyDefer (when it defers it), AddressLoop,
// AddressAmbiguous, ConfigurationError for values nobody can deliver to,
// DirectoryDown. While the directory is down an answer of up to StaleTTL
// serves.
func (d *Directory) Resolve(ctx context.Context, a mail.Address) ([]mail.Recipient, error) {
	found, err := d.recipients.get(ctx, a, func(ctx context.Context) ([]mail.Recipient, error) {
		return timed(ctx, d, func(ctx context.Context) ([]mail.Recipient, error) {
			return d.resolve(ctx, a, nil)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", a, err)
	}
	return slices.Clone(found), nil
}

// Account returns the account behind a login, which is one of the mapping's
// login attributes ("alice") or an address of the account. Disabled accounts
// are returned as such. Reasons: NoSuchUser, AddressAmbiguous, DirectoryDown.
func (d *Directory) Account(ctx context.Context, loginName string) (mail.Account, error) {
	_, account, err := d.FindLogin(ctx, loginName)
	return account, err
}

// FindLogin is Account with the DN of the entry, by which a password can be
// verified with Bind.
func (d *Directory) FindLogin(ctx context.Context, loginName string) (dn string, account mail.Account, err error) {
	found, err := d.accounts.get(ctx, loginName, func(ctx context.Context) (login, error) {
		return timed(ctx, d, func(ctx context.Context) (login, error) {
			return d.findLogin(ctx, loginName, nil)
		})
	})
	if err != nil {
		return "", mail.Account{}, fmt.Errorf("find login: %w", err)
	}
	found.account.Addresses = slices.Clone(found.account.Addresses)
	return string(found.dn), found.account, nil
}

// AccountNamed returns the account of a name, as the account itself has it: what
// a person may type as login need not be it. Reasons as Account's.
func (d *Directory) AccountNamed(ctx context.Context, name string) (mail.Account, error) {
	account, err := d.names.get(ctx, name, func(ctx context.Context) (mail.Account, error) {
		return timed(ctx, d, func(ctx context.Context) (mail.Account, error) {
			return d.findNamed(ctx, name, nil)
		})
	})
	if err != nil {
		return mail.Account{}, fmt.Errorf("account named %q: %w", name, err)
	}
	account.Addresses = slices.Clone(account.Addresses)
	return account, nil
}

// AccountOf returns the account whose own address a is, extensions and
// catch-all included; an address of a group is no account's, and a name that
// two accounts have is AddressAmbiguous. Reasons as Account's.
func (d *Directory) AccountOf(ctx context.Context, a mail.Address) (mail.Account, error) {
	account, err := d.holders.get(ctx, a, func(ctx context.Context) (mail.Account, error) {
		return timed(ctx, d, func(ctx context.Context) (mail.Account, error) {
			return d.holder(ctx, a, nil)
		})
	})
	if err != nil {
		return mail.Account{}, fmt.Errorf("account of %s: %w", a, err)
	}
	account.Addresses = slices.Clone(account.Addresses)
	return account, nil
}

// Owners returns the names of the accounts that may send as a, sorted: the
// account whose address it is and whoever the mapping lets share it. None and
// a nil error mean that nobody may. Reasons: AddressAmbiguous, AddressLoop,
// DirectoryDown.
func (d *Directory) Owners(ctx context.Context, a mail.Address) ([]string, error) {
	names, err := d.owners.get(ctx, a, func(ctx context.Context) ([]string, error) {
		return timed(ctx, d, func(ctx context.Context) ([]string, error) {
			return d.ownersOf(ctx, a, nil)
		})
	})
	if status.Of(err) == status.NoSuchUser {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("owners of %s: %w", a, err)
	}
	return slices.Clone(names), nil
}

// MaySendAs reports whether id may use a as its reverse-path or header
// address. The null reverse-path belongs to everybody.
func (d *Directory) MaySendAs(ctx context.Context, id mail.Identity, a mail.Address) (bool, error) {
	if a.IsNull() {
		return true, nil
	}
	who := id.Authorization
	if who == "" {
		who = id.Authentication
	}
	if who == "" {
		return false, nil
	}
	owners, err := d.Owners(ctx, a)
	if err != nil {
		return false, err
	}
	if containsFold(owners, who) {
		return true, nil
	}
	if len(owners) == 0 || id.Source == d.cfg.Name {
		return false, nil
	}
	// A verifier that asked no directory may know the person under another
	// login than we do.
	account, err := d.Account(ctx, who)
	if status.Of(err) == status.NoSuchUser {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return containsFold(owners, account.Name), nil
}

// Bind verifies a password by binding as dn, which FindLogin returned. It is
// Binder's Bind; a directory whose source cannot bind gives
// ConfigurationError.
func (d *Directory) Bind(ctx context.Context, dn, password string) error {
	binder, ok := d.searcher.(Binder)
	if !ok {
		return status.Errorf(status.ConfigurationError, "directory %q verifies no passwords", d.cfg.Name)
	}
	return binder.Bind(ctx, dn, password)
}

func containsFold(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// timed bounds a whole lookup and notes whether the directory answered.
func timed[T any](ctx context.Context, d *Directory, lookup func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LookupTimeout)
	defer cancel()
	answer, err := lookup(ctx)
	d.noteHealth(err)
	return answer, err
}

// noteHealth logs the moments at which the directory stops and resumes
// answering, not every lookup in between.
func (d *Directory) noteHealth(err error) {
	down := status.Of(err) == status.DirectoryDown
	if d.down.Swap(down) == down {
		return
	}
	if down {
		d.log.Warn("directory does not answer; known answers are served from the cache", "error", err)
	} else {
		d.log.Info("directory answers again")
	}
}

// search asks the searcher and keeps errors three-valued: whatever it says,
// it is at most unknown.
func (d *Directory) search(ctx context.Context, req Request, t *trace) ([]Entry, error) {
	started := time.Now()
	entries, err := d.searcher.Search(ctx, req)
	t.query(req, entries, err, time.Since(started))
	if err != nil && status.Of(err) != status.DirectoryDown {
		err = status.New(status.DirectoryDown, err)
	}
	return entries, err
}

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
	changes  changes

	recipients *answers[mail.Address, expansion]
	accounts   *answers[string, login]
	names      *answers[string, mail.Account]
	holders    *answers[mail.Address, mail.Account]
	owners     *answers[mail.Address, []string]
	circles    *answers[string, circle] // of groups that not everybody may send to

	renewals *renewals
	latency  latency
	logins   gate // lookups of logins
	lookups  gate // all others
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
	d := &Directory{cfg: cfg, mapping: m, searcher: searcher, tables: tables, log: log.Named(cfg.Name),
		renewals: newRenewals(), logins: newGate(), lookups: newGate()}
	generation := d.generation()
	d.recipients = newAnswers[mail.Address, expansion](cfg.Cache, generation)
	d.accounts = newAnswers[string, login](cfg.Cache, generation)
	d.names = newAnswers[string, mail.Account](cfg.Cache, generation)
	d.holders = newAnswers[mail.Address, mail.Account](cfg.Cache, generation)
	d.owners = newAnswers[mail.Address, []string](cfg.Cache, generation)
	d.recipients.renewals, d.accounts.renewals, d.names.renewals = d.renewals, d.renewals, d.renewals
	d.holders.renewals, d.owners.renewals = d.renewals, d.renewals
	few := cfg.Cache
	few.MaxEntries = min(few.MaxEntries, maxCircles)
	d.circles = newAnswers[string, circle](few, generation)
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
	found, err := d.expansion(ctx, a)
	return slices.Clone(found.recipients), err
}

func (d *Directory) expansion(ctx context.Context, a mail.Address) (expansion, error) {
	found, err := d.recipients.get(ctx, a, func(ctx context.Context) (expansion, error) {
		return timed(ctx, d, d.lookups, func(ctx context.Context) (expansion, error) {
			return d.resolve(ctx, a, nil, nil)
		})
	})
	if err != nil {
		return expansion{}, fmt.Errorf("resolve %s: %w", a, err)
	}
	return found, nil
}

// ResolveFor is Resolve for mail of one sender. Groups that not everybody may
// send to are GroupRestricted for those who may not, also where the address
// leads to one beside others; a moderated one stands for its moderators unless
// one of them sends. A group that lets the sender in speaks for those nested in
// it. While the directory is down mail to such groups waits when it is not
// remembered who may send there.
func (d *Directory) ResolveFor(ctx context.Context, a mail.Address, from mail.Poster) ([]mail.Recipient, error) {
	found, err := d.expansion(ctx, a)
	if err != nil {
		return nil, err
	}
	if found.guarded {
		// Asked before the lookup has its place: whoever holds one must not wait
		// for answers that others need one for.
		s, err := d.sender(ctx, from, nil)
		if err != nil {
			return nil, fmt.Errorf("resolve %s: sender: %w", a, err)
		}
		found, err = timed(ctx, d, d.lookups, func(ctx context.Context) (expansion, error) {
			return d.resolve(ctx, a, func(context.Context) (sender, error) { return s, nil }, nil)
		})
		if err != nil {
			return nil, fmt.Errorf("resolve %s: %w", a, err)
		}
	}
	return slices.Clone(found.recipients), nil
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
		return timed(ctx, d, d.logins, func(ctx context.Context) (login, error) {
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
		return timed(ctx, d, d.lookups, func(ctx context.Context) (mail.Account, error) {
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
		return timed(ctx, d, d.lookups, func(ctx context.Context) (mail.Account, error) {
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
// DirectoryDown, which it also is when only content too old to believe says that
// nobody may.
func (d *Directory) Owners(ctx context.Context, a mail.Address) ([]string, error) {
	names, err := d.owners.get(ctx, a, func(ctx context.Context) ([]string, error) {
		return timed(ctx, d, d.lookups, func(ctx context.Context) ([]string, error) {
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
// address. The null reverse-path belongs to everybody. A no of content that is
// too old to believe is DirectoryDown.
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
	may, err := d.isAmong(owners, id, who, func() (mail.Account, error) { return d.Account(ctx, who) })
	if err != nil || may || !d.isDoubtful() {
		return may, err
	}
	return timed(ctx, d, d.lookups, func(ctx context.Context) (bool, error) {
		return doubted(ctx, d, false, nil, func(ctx context.Context) (bool, error) {
			owners, err := d.ownersOf(ctx, a, nil)
			if status.Of(err) == status.NoSuchUser {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			return d.isAmong(owners, id, who, func() (mail.Account, error) {
				found, err := d.findLogin(ctx, who, nil)
				return found.account, err
			})
		})
	})
}

// isAmong reports whether the person who is logged in as who is one of owners.
func (d *Directory) isAmong(owners []string, id mail.Identity, who string, find func() (mail.Account, error)) (bool, error) {
	if containsFold(owners, who) {
		return true, nil
	}
	if len(owners) == 0 || id.Source == d.cfg.Name {
		return false, nil
	}
	// A verifier that asked no directory may know the person under another
	// login than we do.
	account, err := find()
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

// timed bounds a whole lookup and notes whether the directory answered. It waits
// in turn where too many go on.
func timed[T any](ctx context.Context, d *Directory, g gate, lookup func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LookupTimeout)
	defer cancel()
	if err := g.enter(ctx); err != nil {
		var none T
		return none, err
	}
	defer g.leave()
	started := time.Now()
	answer, err := judged(ctx, d, lookup)
	d.latency.observe(time.Since(started))
	d.noteHealth(err)
	return answer, err
}

// judged answers by lookup, and does not believe a no of content that is too
// old for it.
func judged[T any](ctx context.Context, d *Directory, lookup func(context.Context) (T, error)) (T, error) {
	answer, err := lookup(ctx)
	switch status.Of(err) {
	case status.NoSuchUser, status.GroupRestricted, status.AccountDisabled:
		return doubted(ctx, d, answer, err, lookup)
	}
	return answer, err
}

// liveKey is where a lookup's context says what to search in place of what is
// held here.
type liveKey struct{}

// chosen returns the searcher to ask in a lookup: s, or in place of one whose
// answer was doubted what knows better.
func chosen(ctx context.Context, s Searcher) Searcher {
	if live, ok := ctx.Value(liveKey{}).(Searcher); ok {
		if _, aging := s.(Aging); aging {
			return live
		}
	}
	return s
}

// doubted returns what to make of a no: the answer, that of the servers when
// what is held here is too old to believe, or that nobody knows.
func doubted[T any](ctx context.Context, d *Directory, answer T, no error, lookup func(context.Context) (T, error)) (T, error) {
	aging, ok := d.searcher.(Aging)
	if !ok {
		return answer, no
	}
	live, unknown := aging.Doubt()
	if live != nil {
		fresh, err := lookup(context.WithValue(ctx, liveKey{}, live))
		if isCertain(err) {
			return fresh, err
		}
	}
	if unknown != nil {
		return answer, status.New(status.DirectoryDown, &agedError{unknown})
	}
	return answer, no
}

// agedError is why a no counts as unknown: what is held here is too old.
type agedError struct{ err error }

func (e *agedError) Error() string { return e.err.Error() }
func (e *agedError) Unwrap() error { return e.err }

// isDoubtful reports whether a no of what is held here is not believed at once.
func (d *Directory) isDoubtful() bool {
	aging, ok := d.searcher.(Aging)
	if !ok {
		return false
	}
	live, unknown := aging.Doubt()
	return live != nil || unknown != nil
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
	searcher := chosen(ctx, d.searcher)
	entries, err := searcher.Search(ctx, req)
	if t != nil {
		t.query(req, entries, err, time.Since(started), whereOf(searcher))
	}
	if err != nil && status.Of(err) != status.DirectoryDown {
		err = status.New(status.DirectoryDown, err)
	}
	return entries, err
}

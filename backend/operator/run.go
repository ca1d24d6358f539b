package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Deps are what a command needs. They may be shared by commands that run at a
// time.
type Deps struct {
	Store    *mailstore.Store
	Searches *imapd.Searches
	// Owner finds whose mailboxes a login, an address or an account's name means.
	Owner func(ctx context.Context, user string) (mail.Account, error)
	// Record audits, and says who asked.
	Record func(mail.Event)
}

// Output is where an answer goes.
type Output struct {
	Answer io.Writer
	// Warn takes what went wrong with one account, Progress how far the work is;
	// each a line without its end.
	Warn, Progress func(line string)
}

// Run does a command. content is the message to be saved, nil without. It ends
// soon after ctx does, and its error then tells where it was. What went wrong
// with one of several accounts is a warning, and at the end an error that names
// them.
func Run(ctx context.Context, d Deps, q *Request, content io.Reader, out Output) error {
	a, err := q.check()
	if err != nil {
		return err
	}
	r := &run{Deps: d, q: q, action: a, out: out, began: time.Now(), content: content}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	defer r.close()
	d.Record(mail.Event{Kind: mail.EventOperator, Result: "ok", Detail: q.summary()})
	return errors.Join(r.over(ctx), r.rows.end())
}

// run is a command under way.
type run struct {
	Deps
	q       *Request
	action  action
	out     Output
	rows    rows
	fields  []field
	program *imapd.Program
	content io.Reader
	staged  *stagedMessage

	began    time.Time
	told     time.Time
	accounts int // all, and those that are done
	ended    int
	done     int64 // messages
	at       string
}

// prepare finds what is wrong with the request before anything is done.
func (r *run) prepare(ctx context.Context) (err error) {
	if r.action.program {
		if r.program, err = imapd.ParseProgram(r.q.Program, r.began); err != nil {
			return err
		}
	}
	names := r.action.fields
	if names == nil && r.q.Do == "fetch" {
		if r.fields, names, err = fieldsNamed(r.q.Fields); err != nil {
			return err
		}
	}
	if r.many() && !slices.Contains(names, "user") {
		names = append([]string{"user"}, names...)
	}
	if r.rows, err = newRows(r.q.Format, r.out.Answer, names); err != nil {
		return err
	}
	if r.q.Do == "save" {
		r.staged, err = stage(ctx, r.Store, r.content)
	}
	return err
}

func (r *run) close() {
	if r.staged != nil {
		r.staged.content.Discard()
	}
}

// many reports whether more than one account may be meant.
func (r *run) many() bool { return r.q.All || len(r.q.Users) > 1 || isPattern(r.q.Users[0]) }

func isPattern(user string) bool { return strings.ContainsAny(user, "*?") }

// users resolves who is meant; those that were patterns are names of accounts.
func (r *run) users(ctx context.Context) ([]string, error) {
	var names []string
	if r.q.All || slices.ContainsFunc(r.q.Users, isPattern) {
		var err error
		if names, err = r.Store.Accounts(ctx); err != nil {
			return nil, err
		}
		slices.Sort(names)
	}
	if r.q.All {
		return names, nil
	}
	var users []string
	seen := make(map[string]bool)
	for _, user := range r.q.Users {
		found := []string{user}
		if isPattern(user) {
			// Names hold no "/" that means anything to path.Match here.
			plain := strings.NewReplacer("/", "\x00", "[", `\[`, `\`, `\\`).Replace(user)
			found = found[:0]
			for _, name := range names {
				if ok, err := path.Match(plain, strings.ReplaceAll(name, "/", "\x00")); err == nil && ok {
					found = append(found, name)
				}
			}
			if len(found) == 0 {
				return nil, fmt.Errorf("no account is called like %s", user)
			}
		}
		for _, name := range found {
			if !seen[name] {
				seen[name] = true
				users = append(users, name)
			}
		}
	}
	return users, nil
}

// stopped is an error that tells where the work was.
type stopped struct{ where string }

func (s *stopped) Error() string { return "stopped " + s.where }

// over goes through the accounts.
func (r *run) over(ctx context.Context) error {
	users, err := r.users(ctx)
	if err != nil {
		return err
	}
	r.accounts, r.told = len(users), time.Now()
	var failed []string
	for _, user := range users {
		if ctx.Err() != nil {
			return r.stop(user, len(users))
		}
		err := r.one(ctx, user)
		if ctx.Err() != nil && (err != nil || r.ended+1 < len(users)) {
			return r.stop(user, len(users))
		}
		if err != nil {
			if !r.many() {
				return err
			}
			var lost *lostOutput
			if errors.As(err, &lost) {
				return lost.err
			}
			failed = append(failed, user)
			r.out.Warn(user + ": " + err.Error())
		}
		r.ended++
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d accounts failed: %s", len(failed), len(users), few(failed))
	}
	return nil
}

func (r *run) stop(user string, all int) error {
	where := "at account " + cmp.Or(r.at, user)
	if all > 1 {
		where += fmt.Sprintf(", %d of %d accounts done", r.ended, all)
	}
	return &stopped{fmt.Sprintf("%s, %d message(s) done; what was done stays so, and the same command does the rest", where, r.done)}
}

// one does the command in one account.
func (r *run) one(ctx context.Context, user string) error {
	account, err := r.open(ctx, user, r.action.adds)
	if err != nil {
		return err
	}
	defer account.Close()
	r.at = account.Name()
	w := &work{run: r, ctx: ctx, account: account}
	err = r.action.do(w)
	if flushed := r.rows.flush(); err == nil {
		err = flushed
	}
	return err
}

// open opens the mailboxes of a user. Where the directory does not know or
// cannot tell, the name of an account that is here is enough: people leave, and
// directories fail. Only with create an account is made for somebody who has none.
func (r *run) open(ctx context.Context, user string, create bool) (*mailstore.Account, error) {
	who, err := r.Owner(ctx, user)
	if err != nil {
		account, visitErr := r.Store.Visit(ctx, user)
		if errors.Is(visitErr, mailstore.ErrNoAccount) {
			return nil, err
		}
		return account, visitErr
	}
	account, err := r.Store.Visit(ctx, who.Name)
	switch {
	case errors.Is(err, mailstore.ErrNoAccount) && create:
		return r.Store.Account(ctx, who)
	case errors.Is(err, mailstore.ErrNoAccount):
		return nil, fmt.Errorf("%s has no mailboxes yet", who.Name)
	case err == nil:
		account.SetLimits(who)
	}
	return account, err
}

// work is a command in one account.
type work struct {
	*run
	ctx     context.Context
	account *mailstore.Account
	except  mailstore.GUID // a mailbox that is passed over
}

// progressEvery is how often it is told how far the work is.
const progressEvery = 2 * time.Second

// tell tells how far the work is: so many messages of so many in the account.
func (w *work) tell(messages, of int64) {
	now := time.Now()
	if now.Sub(w.told) < progressEvery || w.out.Progress == nil {
		return
	}
	w.told = now
	took := now.Sub(w.began)
	share := float64(w.ended)
	if of > 0 {
		share += float64(messages) / float64(of)
	}
	line := w.at
	if w.accounts > 1 {
		line = fmt.Sprintf("account %d of %d, %s", w.ended+1, w.accounts, w.at)
	}
	line += fmt.Sprintf(": %d message(s) done, %.0f/s", w.done, float64(w.done)/took.Seconds())
	if share > 0 {
		left := time.Duration(float64(took) / share * (float64(w.accounts) - share))
		line += ", " + left.Round(time.Second).String() + " left"
	}
	w.out.Progress(line)
}

// record audits a change of the account.
func (w *work) record(e mail.Event, err error) {
	e.Owner, e.Result = w.account.Name(), "ok"
	if err != nil {
		e.Result, e.Reason = "refused", status.Of(err).String()
	}
	w.Record(e)
}

// commitContext is for a piece of work that is not to be torn.
func (w *work) commitContext() context.Context { return context.WithoutCancel(w.ctx) }

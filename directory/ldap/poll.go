package ldap

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/directory/replica"
)

// identities are what an entry keeps when it is renamed, as servers call it.
var identities = []string{"entryUUID", "nsUniqueId", "objectGUID"}

// poll reads everything, again and again.
func (w *watched) poll(ctx context.Context) error {
	for {
		if err := w.readAll(ctx); err != nil {
			return refused(err)
		}
		w.session.Alive()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.feed.cfg.RefreshInterval):
		}
	}
}

// readAll reads everything page by page. Each page is bounded in time; a result
// that a limit cut short is an error and so changes nothing.
func (w *watched) readAll(ctx context.Context) error {
	needs := w.feed.cfg.Needs
	w.session.Begin(true)
	paging := goldap.NewControlPaging(pageSize)
	request := goldap.NewSearchRequest(string(needs.Base()), goldap.ScopeWholeSubtree, goldap.NeverDerefAliases,
		0, 0, false, needs.Filter.String(), w.attributes(identities...), []goldap.Control{paging})
	for {
		var cookie []byte
		err := w.feed.ask(ctx, w.conn, func(l *goldap.Conn) error {
			result, err := l.Search(request)
			if err != nil {
				return err
			}
			if err := w.elsewhere(result.Referrals); err != nil {
				return err
			}
			for _, found := range result.Entries {
				e, err := convert(l, found)
				if err != nil {
					return err
				}
				if err := w.take(e); err != nil {
					return err
				}
			}
			if next, ok := goldap.FindControl(result.Controls, goldap.ControlTypePaging).(*goldap.ControlPaging); ok {
				cookie = next.Cookie
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(cookie) == 0 {
			return w.session.End(replica.Position{})
		}
		paging.SetCookie(cookie)
	}
}

// take puts an entry under its identity, or its name where the server shows
// none.
func (w *watched) take(e directory.Entry) error {
	identity := "dn " + e.DN.Key()
	for _, name := range identities {
		if v := e.First(name); v != "" {
			identity = name + " " + v
		}
		e = e.Without(name)
	}
	for _, name := range typesOf(e) {
		if directory.IsSecret(name) {
			e = e.Without(name)
		}
	}
	digest := sha256.Sum256([]byte(identity))
	if err := w.session.Put(index.ID(digest[:16]), withCategory(w.classes.Complete(e))); err != nil {
		return fmt.Errorf("%q: %w", e.DN, err)
	}
	return nil
}

func typesOf(e directory.Entry) []string {
	var names []string
	e.Each(func(name string, _ []string) { names = append(names, name) })
	return names
}

package ldap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
	"github.com/postern-mail/postern/directory/replica"
)

// DirSync's flags: show what the account may read anyway, without the right to
// replicate; and of attributes with many values only those that changed.
const (
	dirSyncObjectSecurity    = 0x1
	dirSyncIncrementalValues = 0x80000000
	dirSyncFlags             = dirSyncObjectSecurity | dirSyncIncrementalValues
)

// dirSyncOctets is how much one answer may hold, as far as the server heeds it.
const dirSyncOctets = 1 << 20

const (
	// dirSyncWhole is after how long everything is read anew: of what this
	// account must not see any more nobody tells.
	dirSyncWhole = 24 * time.Hour
	// dirSyncSweep is how many rounds pass between two looks at which entries
	// there are.
	dirSyncSweep = 60
	// dirSyncManyGone is how many deletions in one answer are brought into use
	// as a whole, under the guard against mistakes.
	dirSyncManyGone = 20
)

// dirSync follows an Active Directory domain by asking what changed, again and
// again. Cookies are the domain controller's own: another one gets none.
func (w *watched) dirSync(ctx context.Context, dse rootDSE) error {
	domain := directory.DN(dse.contexts[0])
	for _, base := range w.feed.cfg.Needs.Bases {
		if !base.Under(domain) {
			return fmt.Errorf("the base %q does not lie in %q, the domain of this server", base, domain)
		}
	}
	d := &dirSync{watched: w, domain: domain, position: w.session.Position(), wholeAt: time.Now()}
	if d.position.Server != w.server {
		d.position = replica.Position{}
	}
	for n := 1; ; n++ {
		if time.Since(d.wholeAt) > dirSyncWhole {
			d.position = replica.Position{}
		}
		err := d.round(ctx)
		if errors.Is(err, errMovedTree) || err != nil && isResult(err) && len(d.position.Cookie) > 0 {
			w.feed.log.Info("everything is read anew", "server", w.endpoint.uri, "cause", err)
			w.session.StartOver()
			d.position = replica.Position{}
			err = d.round(ctx)
		}
		if err == nil && n%dirSyncSweep == 0 {
			err = d.sweep(ctx)
		}
		if err != nil {
			return refused(err)
		}
		w.session.Alive()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.feed.cfg.PollInterval):
		}
	}
}

// dirSync is the state of one conversation.
type dirSync struct {
	*watched
	domain   directory.DN
	position replica.Position
	wholeAt  time.Time // of the last round from nothing, or the beginning
	full     bool      // the present round is from nothing
}

// errMovedTree means that an entry with others below it has another name: the
// server tells of it and not of those.
var errMovedTree = errors.New("a part of the tree was moved")

// round asks for all changes since the last round.
func (d *dirSync) round(ctx context.Context) error {
	d.full = len(d.position.Cookie) == 0
	if d.full {
		d.session.Begin(true)
		d.wholeAt = time.Now()
	}
	asOne := d.full // brought into use as a whole
	cookie := d.position.Cookie
	for more := true; more; {
		var result *goldap.SearchResult
		err := d.feed.ask(ctx, d.conn, func(l *goldap.Conn) (err error) {
			result, err = l.DirSync(d.request(), dirSyncFlags, dirSyncOctets, cookie)
			return err
		})
		if err != nil {
			return err
		}
		answer, ok := goldap.FindControl(result.Controls, controlDirSync).(*goldap.ControlDirSync)
		if !ok {
			return errors.New("the server answered without a DirSync control")
		}
		if err := d.elsewhere(result.Referrals); err != nil {
			return err
		}
		if !asOne && deletions(result.Entries) >= dirSyncManyGone {
			d.session.Begin(false)
			asOne = true
		}
		for _, found := range result.Entries {
			if err := d.merge(found); err != nil {
				return err
			}
		}
		more, cookie = answer.Flags != 0, bytes.Clone(answer.Cookie)
	}
	same := bytes.Equal(cookie, d.position.Cookie)
	d.position = replica.Position{Server: d.server, Cookie: cookie}
	if asOne {
		return d.session.End(d.position)
	}
	if !same {
		d.session.Commit(d.position)
	}
	return nil
}

// sweep removes what is not there any more. Deleted entries lie where an
// account without special rights cannot see them, so that nobody tells it of
// deletions.
func (d *dirSync) sweep(ctx context.Context) error {
	there := make(map[index.ID]bool)
	paging := goldap.NewControlPaging(pageSize)
	request := goldap.NewSearchRequest(string(d.domain), goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 0, 0, false,
		dirSyncFilter, []string{"objectGUID"}, []goldap.Control{paging})
	for more := true; more; {
		var result *goldap.SearchResult
		err := d.feed.ask(ctx, d.conn, func(l *goldap.Conn) (err error) {
			result, err = l.Search(request)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range result.Entries {
			if guid := e.GetEqualFoldRawAttributeValue("objectGUID"); len(guid) == len(index.ID{}) {
				there[index.ID(guid)] = true
			}
		}
		next, ok := goldap.FindControl(result.Controls, goldap.ControlTypePaging).(*goldap.ControlPaging)
		if more = ok && len(next.Cookie) > 0; more {
			paging.SetCookie(next.Cookie)
		}
	}
	gone := slices.DeleteFunc(d.session.IDs(), func(id index.ID) bool { return there[id] })
	asOne := len(gone) >= dirSyncManyGone
	if asOne {
		d.session.Begin(false)
	}
	for _, id := range gone {
		d.session.Delete(id)
	}
	if asOne {
		return d.session.End(d.position)
	}
	return nil
}

// dirSyncFilter names only what no change of an entry changes: of one that
// ceased to match the server would say nothing. What does not count is left out
// when it is looked for.
const dirSyncFilter = "(&(|(objectClass=user)(objectClass=group)(objectClass=contact)(objectClass=organizationalUnit)(objectClass=container)(objectClass=publicFolder))(!(objectClass=computer)))"

// request asks for the whole domain, as DirSync has it.
func (d *dirSync) request() *goldap.SearchRequest {
	return goldap.NewSearchRequest(string(d.domain), goldap.ScopeWholeSubtree, goldap.NeverDerefAliases, 0, 0, false,
		dirSyncFilter,
		d.attributes("objectGUID", "objectClass", "isDeleted", "name"), nil)
}

// deletions counts entries that are gone.
func deletions(entries []*goldap.Entry) int {
	n := 0
	for _, e := range entries {
		if isDeleted(e) {
			n++
		}
	}
	return n
}

func isDeleted(e *goldap.Entry) bool {
	return isSameAttribute(e.GetEqualFoldAttributeValue("isDeleted"), "TRUE")
}

// merge applies what is told of one entry: all of it at first, later only the
// attributes that changed.
func (d *dirSync) merge(found *goldap.Entry) error {
	guid := found.GetEqualFoldRawAttributeValue("objectGUID")
	if len(guid) != len(index.ID{}) {
		return fmt.Errorf("the server sent %q without its objectGUID", found.DN)
	}
	id := index.ID(guid)
	if isDeleted(found) {
		d.session.Delete(id)
		return nil
	}
	old, known := d.session.Get(id)
	dn := directory.DN(found.DN)
	if known && !d.full && !old.DN.Equal(dn) && d.session.HasBelow(old.DN) {
		return errMovedTree
	}
	if !known && !d.full {
		// New, or shown to us from now on: what is told may be but changes, so
		// the rest is read.
		return d.readWhole(id, dn)
	}
	e := merged(old, found)
	return d.session.Put(id, withCategory(e))
}

// readWhole reads an entry of which only changes were told.
func (d *dirSync) readWhole(id index.ID, dn directory.DN) error {
	ctx, cancel := context.WithTimeout(context.Background(), d.feed.ldap.Timeout)
	defer cancel()
	var e directory.Entry
	_, err := d.conn.run(ctx, func(l *goldap.Conn) error {
		result, err := l.Search(goldap.NewSearchRequest(string(dn), goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false,
			"(objectClass=*)", d.attributes("objectGUID"), nil))
		if err != nil {
			return err
		}
		if len(result.Entries) == 1 {
			e, err = convert(l, result.Entries[0])
		}
		return err
	})
	if goldap.IsErrorWithCode(err, goldap.LDAPResultNoSuchObject) || err == nil && e.DN == "" {
		return nil // gone again, which the next round tells
	}
	if err != nil {
		return err
	}
	return d.session.Put(id, withCategory(e.Without("objectGUID")))
}

// internal are the attributes that are asked for to merge.
var internal = []string{"objectGUID", "isDeleted", "name", "instanceType", "parentGUID"}

// merged lays what is told of an entry over what was known. An attribute
// without values is gone; "member;range=1-1" adds values and
// "member;range=0-0" takes values away.
func merged(old directory.Entry, found *goldap.Entry) directory.Entry {
	e := old
	e.DN = directory.DN(found.DN)
	for _, a := range found.Attributes {
		name, option, _ := strings.Cut(a.Name, ";")
		if slices.ContainsFunc(internal, func(n string) bool { return isSameAttribute(n, name) }) || directory.IsSecret(name) {
			continue
		}
		switch strings.ToLower(option) {
		case "range=1-1":
			e = e.With(name, withValues(name, e.Values(name), a.Values))
		case "range=0-0":
			e = e.With(name, withoutValues(name, e.Values(name), a.Values))
		default:
			e = e.With(name, slices.Clone(a.Values))
		}
	}
	return e
}

// withValues returns values and those of more that are not among them.
func withValues(attribute string, values, more []string) []string {
	out := slices.Clone(values)
	have := keysOf(attribute, values)
	for _, v := range more {
		if key := directory.IndexKey(attribute, v); !have[key] {
			have[key] = true
			out = append(out, v)
		}
	}
	return out
}

// withoutValues returns values but for those of gone.
func withoutValues(attribute string, values, gone []string) []string {
	drop := keysOf(attribute, gone)
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return drop[directory.IndexKey(attribute, v)] })
}

func keysOf(attribute string, values []string) map[string]bool {
	keys := make(map[string]bool, len(values))
	for _, v := range values {
		keys[directory.IndexKey(attribute, v)] = true
	}
	return keys
}

// withCategory adds to Active Directory's objectCategory the short name by which
// filters ask for it: "person" for "CN=Person,CN=Schema,...".
func withCategory(e directory.Entry) directory.Entry {
	category := e.First("objectCategory")
	rdn, _, found := strings.Cut(category, ",")
	if !found {
		return e
	}
	_, name, found := strings.Cut(rdn, "=")
	if !found {
		return e
	}
	return e.With("objectCategory", []string{category, strings.ToLower(strings.ReplaceAll(name, "-", ""))})
}

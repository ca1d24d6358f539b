package directory

import (
	"context"
	"errors"
	"maps"
	"strings"
)

// Entry is a directory entry. The zero Entry has no name and no attributes.
// An Entry is immutable and may be shared between goroutines.
type Entry struct {
	DN         DN
	attributes map[string][]string // by lower-case attribute type
}

// NewEntry returns an entry that owns attributes' value slices. Attribute
// types are case-insensitive; options ("mail;lang-de") are dropped and the
// values joined with those of the bare type.
func NewEntry(dn DN, attributes map[string][]string) Entry {
	e := Entry{DN: dn, attributes: make(map[string][]string, len(attributes))}
	for name, values := range attributes {
		key := attributeKey(name)
		if have := e.attributes[key]; have != nil {
			values = append(have[:len(have):len(have)], values...)
		}
		e.attributes[key] = values
	}
	return e
}

// Values returns the values of an attribute, which the caller must not change.
// Values are octets: text, DNs or binary, as the server gave them.
func (e Entry) Values(attribute string) []string {
	if values, ok := e.attributes[attribute]; ok {
		return values
	}
	return e.attributes[attributeKey(attribute)]
}

// First returns an attribute's first value, or "" when it has none.
func (e Entry) First(attribute string) string {
	if values := e.Values(attribute); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Select returns the entry with only the named attributes; all of them when
// names is empty or holds "*".
func (e Entry) Select(names []string) Entry {
	if len(names) == 0 {
		return e
	}
	selected := Entry{DN: e.DN, attributes: make(map[string][]string, len(names))}
	for _, name := range names {
		if name == "*" {
			return e
		}
		key := attributeKey(name)
		if values, ok := e.attributes[key]; ok {
			selected.attributes[key] = values
		}
	}
	return selected
}

// Without returns the entry without an attribute.
func (e Entry) Without(attribute string) Entry {
	key := attributeKey(attribute)
	if _, ok := e.attributes[key]; !ok {
		return e
	}
	rest := maps.Clone(e.attributes)
	delete(rest, key)
	return Entry{DN: e.DN, attributes: rest}
}

// Each calls f for every attribute, by lower-case type, in no order.
func (e Entry) Each(f func(attribute string, values []string)) {
	for name, values := range e.attributes {
		f(name, values)
	}
}

func attributeKey(name string) string {
	name, _, _ = strings.Cut(name, ";")
	return strings.ToLower(name)
}

// Scope says which entries around a request's base are searched.
type Scope int

// The scopes of RFC 4511 section 4.5.1.2.
const (
	ScopeSub  Scope = iota // the base and everything below it
	ScopeOne               // the entries directly below the base
	ScopeBase              // the base itself
)

var scopeNames = [...]string{"sub", "one", "base"}

// String returns the scope's name as it stands in LDAP URLs.
func (s Scope) String() string { return scopeNames[s] }

// Request is one search.
type Request struct {
	Base       DN
	Scope      Scope
	Filter     Filter
	Attributes []string // wanted; none means all user attributes
	// SizeLimit is how many entries the caller is ready to take; 0 means all.
	SizeLimit int
}

// Searcher searches a directory. Search may block until ctx ends and may be
// called concurrently. It returns every matching entry or an error, never a
// part: a result cut short by any limit is ErrSizeLimit.
//
// Every error has reason status.DirectoryDown, so that a caller that does not
// look closer takes it as unknown. Of those, a base that does not exist is
// ErrNoSuchBase, which a caller that follows a reference may read as absence.
// A search may be repeated safely.
type Searcher interface {
	Search(ctx context.Context, req Request) ([]Entry, error)
}

// Binder verifies a password by binding as dn (RFC 4513 section 5.1.3). A nil
// error means the password is right and the server lets the account in;
// status.AuthFailed that the password is wrong; status.AccountDisabled that the
// account is not let in, whatever the password; any other reason that nobody
// knows.
type Binder interface {
	Bind(ctx context.Context, dn, password string) error
}

// Generational is implemented by a Searcher whose content changes as a whole:
// answers computed under another generation are not served from the cache.
type Generational interface {
	Generation() uint64
}

// Errors of a Searcher that callers may tell apart.
var (
	ErrNoSuchBase = errors.New("search base does not exist")
	ErrSizeLimit  = errors.New("more entries match than the size limit allows")
)

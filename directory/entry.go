package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Entry is a directory entry. The zero Entry has no name and no attributes.
// An Entry is immutable and may be shared between goroutines.
type Entry struct {
	DN         DN
	attributes []Attribute
}

// Attribute is an attribute of an entry with its values.
type Attribute struct {
	Type   string // lower case, without options
	Values []string
}

// NewEntry returns an entry that owns attributes' value slices. Attribute
// types are case-insensitive; options ("mail;lang-de") are dropped and the
// values joined with those of the bare type.
func NewEntry(dn DN, attributes map[string][]string) Entry {
	e := Entry{DN: dn, attributes: make([]Attribute, 0, len(attributes))}
	for name, values := range attributes {
		key := attributeKey(name)
		if i := e.find(key); i >= 0 {
			have := e.attributes[i].Values
			e.attributes[i].Values = append(have[:len(have):len(have)], values...)
			continue
		}
		e.attributes = append(e.attributes, Attribute{key, values})
	}
	return e
}

// EntryOf returns an entry of attributes whose types are in lower case, without
// options and each there once. It owns the slices.
func EntryOf(dn DN, attributes []Attribute) Entry { return Entry{DN: dn, attributes: attributes} }

// find returns the place of an attribute by its key, or -1. Entries have few
// attributes: looking at each is faster than a map, and smaller.
func (e Entry) find(key string) int {
	for i := range e.attributes {
		if e.attributes[i].Type == key {
			return i
		}
	}
	return -1
}

// Values returns the values of an attribute, which the caller must not change.
// Values are octets: text, DNs or binary, as the server gave them.
func (e Entry) Values(attribute string) []string {
	i := e.find(attribute)
	if i < 0 {
		i = e.find(attributeKey(attribute))
	}
	if i < 0 {
		return nil
	}
	return e.attributes[i].Values
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
	if len(names) == 0 || slices.Contains(names, "*") {
		return e
	}
	selected := Entry{DN: e.DN, attributes: make([]Attribute, 0, min(len(names), len(e.attributes)))}
	for _, name := range names {
		key := attributeKey(name)
		if i := e.find(key); i >= 0 && selected.find(key) < 0 {
			selected.attributes = append(selected.attributes, e.attributes[i])
		}
	}
	return selected
}

// Without returns the entry without an attribute.
func (e Entry) Without(attribute string) Entry {
	i := e.find(attributeKey(attribute))
	if i < 0 {
		return e
	}
	return Entry{DN: e.DN, attributes: slices.Delete(slices.Clone(e.attributes), i, i+1)}
}

// With returns the entry with other values of an attribute; without it when
// there are none. It owns values.
func (e Entry) With(attribute string, values []string) Entry {
	rest := e.Without(attribute)
	if len(values) == 0 {
		return rest
	}
	return Entry{DN: e.DN, attributes: append(slices.Clone(rest.attributes), Attribute{attributeKey(attribute), values})}
}

// Each calls f for every attribute, by lower-case type, in no order.
func (e Entry) Each(f func(attribute string, values []string)) {
	for _, a := range e.attributes {
		f(a.Type, a.Values)
	}
}

// AttributeKey returns the form in which two spellings of an attribute type are
// the same, without options.
func AttributeKey(name string) string { return attributeKey(name) }

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

// Distant is implemented by a Searcher whose searches may each be a round trip to
// a server, so that two which do not depend on each other are worth being under
// way at once. It may be used concurrently.
type Distant interface {
	// Distant reports whether they are now.
	Distant() bool
}

// Generational is implemented by a Searcher whose content changes as a whole:
// answers computed under another generation are not served from the cache.
type Generational interface {
	Generation() uint64
}

// Notifier is implemented by what tells of changes. Changed returns a channel
// that is closed at the next change of content after the call; whoever wants to
// know of the one after calls again, before looking at the content. It may be
// called concurrently.
type Notifier interface {
	Changed() <-chan struct{}
}

// Explainer is implemented by a Searcher that can tell where its answers come
// from at this moment: "replica generation 17, 3s old", "ldaps://ldap.example.com".
type Explainer interface {
	Where() string
}

// Aging is implemented by a Searcher that answers from what it holds, which may
// be old. What it finds is served whatever its age.
type Aging interface {
	// Doubt returns nothing while it may be believed that what is not found does
	// not exist. Else live, when it is not nil, knows better; where it does
	// not answer, or is nil, err is why nobody knows, and with a nil err the
	// old answer counts.
	Doubt() (live Searcher, err error)
}

// Errors of a Searcher that callers may tell apart.
var (
	ErrNoSuchBase = errors.New("search base does not exist")
	ErrSizeLimit  = errors.New("more entries match than the size limit allows")
)

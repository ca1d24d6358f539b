package ldif

import (
	"context"
	"sort"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// Tree is an immutable set of entries. It implements directory.Searcher and
// may be used concurrently.
type Tree struct {
	entries []node
	byKey   map[string]int
	index   map[indexKey][]int // entries by attribute and value
}

type node struct {
	entry  directory.Entry
	public directory.Entry // what searches see: no password
	key    string          // of the DN
}

type indexKey struct{ attribute, value string }

// NewTree returns a tree of entries.
func NewTree(entries []directory.Entry) *Tree {
	t := &Tree{byKey: make(map[string]int, len(entries)), index: map[indexKey][]int{}}
	for i, e := range entries {
		n := node{entry: e, public: withSuperiors(e.Without(passwordAttribute)), key: e.DN.Key()}
		t.entries = append(t.entries, n)
		t.byKey[n.key] = i
		n.public.Each(func(attribute string, values []string) {
			for _, v := range values {
				k := indexKey{attribute, directory.IndexKey(attribute, v)}
				t.index[k] = append(t.index[k], i)
			}
		})
	}
	return t
}

// Len returns the number of entries.
func (t *Tree) Len() int { return len(t.entries) }

// Search implements directory.Searcher. Passwords are never returned.
func (t *Tree) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.New(status.DirectoryDown, err)
	}
	if rule := directory.UnsupportedRule(req.Filter); rule != "" {
		return nil, status.Errorf(status.DirectoryDown, "filter %s: matching rule %s is not known here", req.Filter, rule)
	}
	base := req.Base.Key()
	if !t.exists(base) {
		return nil, status.Errorf(status.DirectoryDown, "%w: %q", directory.ErrNoSuchBase, req.Base)
	}
	var found []directory.Entry
	for _, i := range t.candidates(req, base) {
		n := t.entries[i]
		if !inScope(n.key, base, req.Scope) || !directory.Match(req.Filter, n.public) {
			continue
		}
		if req.SizeLimit > 0 && len(found) == req.SizeLimit {
			return nil, status.Errorf(status.DirectoryDown, "%w (%d)", directory.ErrSizeLimit, req.SizeLimit)
		}
		found = append(found, n.public.Select(req.Attributes))
	}
	return found, nil
}

// exists reports whether a base may be searched: it is an entry, or entries
// lie below it (a file may leave out the suffix's own entry).
func (t *Tree) exists(base string) bool {
	if _, ok := t.byKey[base]; ok || base == "" {
		return true
	}
	for i := range t.entries {
		if directory.KeyUnder(t.entries[i].key, base) {
			return true
		}
	}
	return false
}

// candidates returns the entries that may match: by index where the filter
// asks for values, else all.
func (t *Tree) candidates(req directory.Request, base string) []int {
	if req.Scope == directory.ScopeBase {
		if i, ok := t.byKey[base]; ok {
			return []int{i}
		}
		return nil
	}
	values, ok := directory.RequiredValues(req.Filter)
	if !ok {
		all := make([]int, len(t.entries))
		for i := range all {
			all[i] = i
		}
		return all
	}
	seen := map[int]bool{}
	var list []int
	for _, v := range values {
		for _, i := range t.index[indexKey{v.Attribute, v.Key}] {
			if !seen[i] {
				seen[i] = true
				list = append(list, i)
			}
		}
	}
	sort.Ints(list)
	return list
}

func inScope(key, base string, scope directory.Scope) bool {
	switch scope {
	case directory.ScopeBase:
		return key == base
	case directory.ScopeOne:
		return key != base && directory.ParentKey(key) == base
	default:
		return directory.KeyUnder(key, base)
	}
}

// passwords returns the stored password values of an entry.
func (t *Tree) passwords(dn directory.DN) []string {
	i, ok := t.byKey[dn.Key()]
	if !ok {
		return nil
	}
	return t.entries[i].entry.Values(passwordAttribute)
}

const passwordAttribute = "userpassword"

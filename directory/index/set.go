// Package index keeps directory entries in memory and finds them.
//
// A Set holds entries in a packed form, a third of what they take as Go values,
// with an index over every value of every attribute: what asks for a value
// looks at the entries that have it and at no others. What is found is judged by
// the filter itself, so that the index only needs to miss nothing: it keeps 32
// bits of a hash of each value.
//
// Readers copy the few words that stand for the entries they look at and leave
// the lock before they read them: neither a long scan nor a large group keeps a
// writer waiting.
package index

import (
	"context"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// ID is what an entry keeps when it is renamed: entryUUID, objectGUID.
type ID [16]byte

// Set is a set of entries, each with an ID and a DN of its own. It implements
// directory.Searcher and may be used concurrently. The zero Set is not usable;
// New makes one.
type Set struct {
	seed maphash.Seed

	mu sync.RWMutex
	// slots hold the entries; free ones have no text.
	slots  []slot
	free   []uint32
	byID   map[ID]uint32
	names  dictionary // attribute types
	lists  dictionary // whole lists of object classes, which many entries share
	above  []parent   // the entries above entries
	aboves map[string]uint32
	// values find slots by a hash of attribute and value, names by one of the
	// DN's key.
	values postings
	dns    postings
	below  map[string]int // how many entries lie below a DN key
	octets int64          // of the packed texts
}

// slot is an entry: its packed text, its place below another, its identity.
type slot struct {
	text  string
	above uint32
	id    ID
}

// parent is the name of an entry above, as it was written and as a key.
type parent struct{ written, key string }

// New returns an empty set.
func New() *Set {
	return &Set{
		seed: maphash.MakeSeed(), byID: map[ID]uint32{}, aboves: map[string]uint32{}, below: map[string]int{},
		names: newDictionary(), lists: newDictionary(), values: newPostings(), dns: newPostings(),
	}
}

// Clone returns a set with the same entries that changes on its own.
func (s *Set) Clone() *Set {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &Set{
		seed: s.seed, slots: slices.Clone(s.slots), free: slices.Clone(s.free), byID: maps.Clone(s.byID),
		names: s.names.clone(), lists: s.lists.clone(), above: slices.Clone(s.above), aboves: maps.Clone(s.aboves),
		values: s.values.clone(), dns: s.dns.clone(), below: maps.Clone(s.below), octets: s.octets,
	}
}

// Len returns the number of entries.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byID)
}

// Octets returns the length of the packed entries; index and bookkeeping take
// about as much again.
func (s *Set) Octets() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.octets
}

// Put adds an entry or replaces the one of that ID, whatever its name was. An
// entry with another ID that has the name goes: it was deleted and its name
// given to this one. Its ID is returned.
func (s *Set) Put(id ID, e directory.Entry) (displaced ID, was bool) {
	key := e.DN.Key()
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, ok := s.slotOfLocked(key); ok && s.slots[other].id != id {
		displaced, was = s.slots[other].id, true
		s.removeLocked(other)
	}
	at, known := s.byID[id]
	if known {
		s.removeLocked(at)
	}
	at = s.takeSlotLocked()
	above, rdn := s.placeLocked(e.DN, key)
	packed := slot{text: s.packLocked(rdn, e), above: above, id: id}
	s.slots[at] = packed
	s.byID[id] = at
	s.octets += int64(len(packed.text))
	s.indexLocked(at, e, key, true)
	return displaced, was
}

// Delete removes the entry of that ID, and reports whether there was one.
func (s *Set) Delete(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.byID[id]
	if ok {
		s.removeLocked(at)
	}
	return ok
}

// Get returns the entry of an ID.
func (s *Set) Get(id ID) (directory.Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok := s.byID[id]
	if !ok {
		return directory.Entry{}, false
	}
	return s.viewLocked().unpack(s.slots[at]), true
}

// Has reports whether there is an entry of that ID.
func (s *Set) Has(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.byID[id]
	return ok
}

// Find returns the ID of the entry of a name.
func (s *Set) Find(dn directory.DN) (ID, bool) {
	key := dn.Key()
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok := s.slotOfLocked(key)
	if !ok {
		return ID{}, false
	}
	return s.slots[at].id, true
}

// HasBelow reports whether entries lie below a name.
func (s *Set) HasBelow(dn directory.DN) bool {
	key := dn.Key()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.below[key] > 0
}

// IDs returns the ID of every entry.
func (s *Set) IDs() []ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Keys(s.byID))
}

// All yields the entries there are at the call, in the order they came.
func (s *Set) All() iter.Seq2[ID, directory.Entry] {
	s.mu.RLock()
	slots, v := slices.Clone(s.slots), s.viewLocked()
	s.mu.RUnlock()
	return func(yield func(ID, directory.Entry) bool) {
		for _, one := range slots {
			if one.text != "" && !yield(one.id, v.unpack(one)) {
				return
			}
		}
	}
}

// Search implements directory.Searcher. Entries come in the order they were
// put. A base that is no entry, and above none, is directory.ErrNoSuchBase; a
// filter with a matching rule that nobody knows here is an error.
func (s *Set) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, status.New(status.DirectoryDown, err)
	}
	if rule := directory.UnsupportedRule(req.Filter); rule != "" {
		return nil, status.Errorf(status.DirectoryDown, "filter %s: matching rule %s is not known here", req.Filter, rule)
	}
	base := req.Base.Key()
	candidates, v, ok := s.candidates(req, base)
	if !ok {
		return nil, status.Errorf(status.DirectoryDown, "%w: %q", directory.ErrNoSuchBase, req.Base)
	}
	var found []directory.Entry
	for _, one := range candidates {
		if one.text == "" || !v.inScope(one, base, req.Scope) {
			continue
		}
		e := v.unpack(one)
		if !directory.Match(req.Filter, e) {
			continue
		}
		if req.SizeLimit > 0 && len(found) == req.SizeLimit {
			return nil, status.Errorf(status.DirectoryDown, "%w (%d)", directory.ErrSizeLimit, req.SizeLimit)
		}
		found = append(found, e.Select(req.Attributes))
	}
	return found, nil
}

// candidates returns what may match: by index where the filter asks for values,
// else all. It is false when there is no such base.
func (s *Set) candidates(req directory.Request, base string) ([]slot, view, bool) {
	values, byValue := directory.RequiredValues(req.Filter)
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, isEntry := s.slotOfLocked(base)
	if !isEntry && base != "" && s.below[base] == 0 {
		return nil, view{}, false
	}
	v := s.viewLocked()
	switch {
	case req.Scope == directory.ScopeBase && isEntry:
		return []slot{s.slots[at]}, v, true
	case req.Scope == directory.ScopeBase:
		return nil, v, true
	case !byValue:
		return slices.Clone(s.slots), v, true
	}
	var places []uint32
	for _, value := range values {
		name, known := s.names.byText[value.Attribute]
		if !known {
			continue
		}
		places = s.values.appendTo(places, s.hash(name, value.Key))
	}
	if len(values) > 1 {
		slices.Sort(places)
		places = slices.Compact(places)
	}
	list := make([]slot, len(places))
	for i, place := range places {
		list[i] = s.slots[place]
	}
	return list, v, true
}

// hash gives the place of an attribute's value in the index.
func (s *Set) hash(name uint32, key string) uint32 {
	return uint32(maphash.String(s.seed, key)) ^ (name+1)*0x9e3779b1
}

// slotOfLocked returns the slot of the entry of a DN key.
func (s *Set) slotOfLocked(key string) (uint32, bool) {
	v := s.viewLocked()
	var few [4]uint32
	for _, place := range s.dns.appendTo(few[:0], uint32(maphash.String(s.seed, key))) {
		if v.key(s.slots[place]) == key {
			return place, true
		}
	}
	return 0, false
}

func (s *Set) takeSlotLocked() uint32 {
	if n := len(s.free); n > 0 {
		at := s.free[n-1]
		s.free = s.free[:n-1]
		return at
	}
	s.slots = append(s.slots, slot{})
	return uint32(len(s.slots) - 1)
}

func (s *Set) removeLocked(at uint32) {
	v := s.viewLocked()
	gone := s.slots[at]
	s.indexLocked(at, v.unpack(gone), v.key(gone), false)
	s.octets -= int64(len(gone.text))
	delete(s.byID, gone.id)
	s.slots[at] = slot{}
	s.free = append(s.free, at)
}

// indexLocked adds or removes everything by which an entry is found.
func (s *Set) indexLocked(at uint32, e directory.Entry, key string, add bool) {
	change := (*postings).add
	n := 1
	if !add {
		change, n = (*postings).remove, -1
	}
	change(&s.dns, uint32(maphash.String(s.seed, key)), at)
	e.Each(func(attribute string, values []string) {
		name := s.names.add(attribute)
		for _, value := range values {
			change(&s.values, s.hash(name, directory.IndexKey(attribute, value)), at)
		}
	})
	for up := directory.ParentKey(key); up != ""; up = directory.ParentKey(up) {
		if count, ok := s.below[up]; ok {
			if count += n; count > 0 {
				s.below[up] = count
			} else {
				delete(s.below, up)
			}
		} else if add {
			s.below[strings.Clone(up)] = 1
		}
	}
}

package signing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// Folder is where the keys of domains are: one folder for each, named as the
// domain. In it SELECTOR.pem, .private or .key is the key of a selector, and
// keys.json, where there is one, says when each is used. Without it all are
// used from when they are there, as those of OpenDKIM.
type Folder struct{ Dir string }

// KeyState is what is recorded of one key.
type KeyState struct {
	Selector  string         `json:"selector"`
	Algorithm dkim.Algorithm `json:"algorithm"`
	Created   time.Time      `json:"created"`
	// From is when it begins to sign; zero for one whose record is still to be
	// put into the DNS.
	From time.Time `json:"from,omitzero"`
	// Until is when it ended to sign; zero while it does.
	Until time.Time `json:"until,omitzero"`
}

// Waiting tells that the key is made and not yet used.
func (k KeyState) Waiting() bool { return k.From.IsZero() }

// Signs tells whether the key signs at a time.
func (k KeyState) Signs(at time.Time) bool {
	return !k.Waiting() && !at.Before(k.From) && (k.Until.IsZero() || at.Before(k.Until))
}

// domainState is keys.json.
type domainState struct {
	Format int        `json:"format"`
	Keys   []KeyState `json:"keys"`
}

const (
	stateName   = "keys.json"
	stateFormat = 1
	// maxDomains and maxKeysOfDomain bound what one folder may hold.
	maxDomains      = 10000
	maxKeysOfDomain = 100
)

var extensions = []string{".pem", ".private", ".key"}

// Domains lists the domains with a folder.
func (f Folder) Domains() ([]string, error) {
	entries, err := os.ReadDir(f.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() && dkim.IsDomain(e.Name()) {
			all = append(all, e.Name())
		}
	}
	if len(all) > maxDomains {
		return nil, fmt.Errorf("%s has more than %d domains", f.Dir, maxDomains)
	}
	return all, nil
}

// Keys returns what is known of a domain's keys, in the order in which they were
// made; none for a domain without a folder.
func (f Folder) Keys(domain string) ([]KeyState, error) {
	dir := filepath.Join(f.Dir, domain)
	text, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return f.plainKeys(dir)
	}
	if err != nil {
		return nil, err
	}
	var state domainState
	if err := json.Unmarshal(text, &state); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateName), err)
	}
	if state.Format != stateFormat {
		return nil, fmt.Errorf("%s is of format %d, and this program knows %d: it was written by a newer one", filepath.Join(dir, stateName), state.Format, stateFormat)
	}
	if len(state.Keys) > maxKeysOfDomain {
		return nil, fmt.Errorf("%s: more than %d keys", dir, maxKeysOfDomain)
	}
	for _, k := range state.Keys {
		if !dkim.IsSelector(k.Selector) {
			return nil, fmt.Errorf("%s: %q is no selector", filepath.Join(dir, stateName), k.Selector)
		}
	}
	return state.Keys, nil
}

// plainKeys lists the key files of a folder without a record: all sign.
func (f Folder) plainKeys(dir string) ([]KeyState, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []KeyState
	for _, e := range entries {
		extension := filepath.Ext(e.Name())
		selector := strings.ToLower(strings.TrimSuffix(e.Name(), extension))
		if !slices.Contains(extensions, extension) || !dkim.IsSelector(selector) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		all = append(all, KeyState{Selector: selector, Created: info.ModTime(), From: time.Unix(0, 0)})
	}
	if len(all) > maxKeysOfDomain {
		return nil, fmt.Errorf("%s has more than %d keys", dir, maxKeysOfDomain)
	}
	slices.SortFunc(all, func(a, b KeyState) int { return a.Created.Compare(b.Created) })
	return all, nil
}

// Load reads the key of a selector.
func (f Folder) Load(domain, selector string) (*dkim.Key, error) {
	var err error
	for _, extension := range extensions {
		private, failed := ReadKeyFile(filepath.Join(f.Dir, domain, selector+extension))
		if failed == nil {
			return dkim.NewKey(domain, selector, private)
		}
		if err == nil || !errors.Is(failed, fs.ErrNotExist) {
			err = failed
		}
	}
	return nil, err
}

// Add makes a key for a domain and records it as waiting. The key file is durable
// before the record names it.
func (f Folder) Add(domain, selector string, kind dkim.KeyType, bits int, now time.Time) (*dkim.Key, error) {
	domain, selector = strings.ToLower(domain), strings.ToLower(selector)
	keys, err := f.Keys(domain)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(keys, func(k KeyState) bool { return k.Selector == selector }) {
		return nil, fmt.Errorf("%s has a key with the selector %s already: choose another with --selector", domain, selector)
	}
	private, err := Generate(kind, bits)
	if err != nil {
		return nil, err
	}
	key, err := dkim.NewKey(domain, selector, private)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(f.Dir, domain)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// From here on a record says what signs, so that a key without its record
	// in the DNS never does, whatever happens between the two writes below.
	if err := f.save(domain, keys); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, selector+".pem")
	if err := WriteKeyFile(name, private); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there already, and is not overwritten: choose another --selector", name)
	} else if err != nil {
		return nil, err
	}
	return key, f.save(domain, append(keys, KeyState{Selector: selector, Algorithm: key.Algorithm, Created: now.UTC().Truncate(time.Second)}))
}

// Use has the waiting keys of a domain sign from a time on. The keys of the same
// algorithm that signed until then end at that time.
func (f Folder) Use(domain string, from time.Time) error {
	keys, err := f.Keys(domain)
	if err != nil {
		return err
	}
	return f.save(domain, use(keys, from.UTC().Truncate(time.Second)))
}

func use(keys []KeyState, from time.Time) []KeyState {
	out := slices.Clone(keys)
	for i, k := range keys {
		if !k.Waiting() {
			continue
		}
		out[i].From = from
		for j, other := range keys {
			sameKind := other.Algorithm == k.Algorithm || other.Algorithm == ""
			if i != j && sameKind && !other.Waiting() && (other.Until.IsZero() || other.Until.After(from)) {
				out[j].Until = from
			}
		}
	}
	return out
}

func (f Folder) save(domain string, keys []KeyState) error {
	text, err := json.MarshalIndent(domainState{stateFormat, keys}, "", "  ")
	if err != nil {
		return err
	}
	return fsx.WriteFile(fsx.OS(), filepath.Join(f.Dir, domain, stateName), append(text, '\n'))
}

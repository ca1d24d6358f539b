package signing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/policy/mailauth/dkim"
)

// KeyConfig is one key of the configuration.
type KeyConfig struct {
	Domain, Selector, File string
	// Subdomains tells that it signs for the domains below its own, too, where
	// they have no key.
	Subdomains bool
}

// Config is where keys come from and how they sign.
type Config struct {
	// Dir is the Folder of keys; "" for none.
	Dir string
	// Keys are those of the configuration. A domain that has one takes none
	// from Dir.
	Keys []KeyConfig
	// Subdomains is that of the keys in Dir.
	Subdomains bool
	// Options are what is signed, and how.
	Options dkim.Options
	// Check is how often Dir is looked at; 0 is 30 seconds.
	Check time.Duration
}

// Ring holds the keys in memory. It may be used concurrently.
type Ring struct {
	cfg     Config
	fixed   map[string][]entry
	current atomic.Pointer[snapshot]
	log     hclog.Logger
}

// snapshot is all keys by domain.
type snapshot map[string][]entry

type entry struct {
	key        *dkim.Key
	state      KeyState
	subdomains bool
}

// NewRing reads all keys. What is wrong with any of them is an error.
func NewRing(cfg Config, log hclog.Logger) (*Ring, error) {
	if cfg.Check <= 0 {
		cfg.Check = 30 * time.Second
	}
	r := &Ring{cfg: cfg, fixed: map[string][]entry{}, log: log}
	for _, k := range cfg.Keys {
		private, err := ReadKeyFile(k.File)
		if err != nil {
			return nil, err
		}
		key, err := dkim.NewKey(k.Domain, k.Selector, private)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.File, err)
		}
		state := KeyState{Selector: key.Selector, Algorithm: key.Algorithm, From: time.Unix(0, 0)}
		r.fixed[key.Domain] = append(r.fixed[key.Domain], entry{key, state, k.Subdomains})
	}
	all, err := r.read(nil)
	if err != nil {
		return nil, err
	}
	r.current.Store(&all)
	return r, nil
}

// Log returns where the ring logs to.
func (r *Ring) Log() hclog.Logger { return r.log }

// read reads the folder; keys that were there before are not read again.
func (r *Ring) read(before snapshot) (snapshot, error) {
	all := maps.Clone(r.fixed)
	if r.cfg.Dir == "" {
		return all, nil
	}
	folder := Folder{r.cfg.Dir}
	domains, err := folder.Domains()
	if err != nil {
		return nil, err
	}
	for _, domain := range domains {
		if _, ok := r.fixed[domain]; ok {
			continue
		}
		states, err := folder.Keys(domain)
		if err != nil {
			return nil, err
		}
		for _, state := range states {
			if !state.Until.IsZero() && state.Until.Before(time.Now()) {
				continue // its file may be gone
			}
			key := loaded(before[domain], state)
			if key == nil {
				if key, err = folder.Load(domain, state.Selector); err != nil {
					return nil, fmt.Errorf("DKIM key %s of %s: %w", state.Selector, domain, err)
				}
			}
			all[domain] = append(all[domain], entry{key, state, r.cfg.Subdomains})
		}
	}
	return all, nil
}

func loaded(entries []entry, state KeyState) *dkim.Key {
	for _, e := range entries {
		if e.state.Selector == state.Selector && e.state.Created.Equal(state.Created) {
			return e.key
		}
	}
	return nil
}

// Run looks for new keys in the folder until ctx ends.
func (r *Ring) Run(ctx context.Context) error {
	if r.cfg.Dir == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(r.cfg.Check)
	defer tick.Stop()
	failing := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		all, err := r.read(*r.current.Load())
		switch {
		case err == nil:
			r.current.Store(&all)
			if failing != "" {
				r.log.Info("DKIM keys can be read again", "dir", r.cfg.Dir)
			}
			failing = ""
		case err.Error() != failing:
			failing = err.Error()
			r.log.Error("DKIM keys cannot be read; the former ones are used", "dir", r.cfg.Dir, "err", err)
		}
	}
}

// For returns the keys that sign at a time for mail from a domain, in lower case:
// those of the domain, or of the nearest one above that signs for the domains
// below it. Of each algorithm the one that began last; RSA before Ed25519.
func (r *Ring) For(domain string, at time.Time) []*dkim.Key {
	all := *r.current.Load()
	for parent := domain; parent != ""; {
		var chosen []entry
		for _, e := range all[parent] {
			if e.state.Signs(at) && (parent == domain || e.subdomains) {
				chosen = newer(chosen, e)
			}
		}
		if len(chosen) > 0 {
			keys := make([]*dkim.Key, len(chosen))
			for i, e := range chosen {
				keys[i] = e.key
			}
			return keys
		}
		_, parent, _ = strings.Cut(parent, ".")
	}
	return nil
}

// newer puts e in the place of an older one of its algorithm.
func newer(chosen []entry, e entry) []entry {
	for i, other := range chosen {
		if other.key.Algorithm == e.key.Algorithm {
			if e.state.From.After(other.state.From) || e.state.Created.After(other.state.Created) {
				chosen[i] = e
			}
			return chosen
		}
	}
	if e.key.Algorithm == dkim.RSASHA256 {
		return slices.Insert(chosen, 0, e)
	}
	return append(chosen, e)
}

package file

import (
	"context"
	"fmt"
	"iter"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// forms counts in which forms passwords are stored.
type forms struct {
	logins  int
	having  map[string]int
	example map[string]string // of each form, the first in order of its text
}

// formNames are those that mechanisms ask for.
var formNames = []string{authn.FormSCRAMSHA256, authn.FormSCRAMSHA1, authn.FormCleartext}

// add counts one login with the hashes of its password.
func (f *forms) add(hashes ...authn.Hash) {
	if f.having == nil {
		f.having, f.example = make(map[string]int), make(map[string]string)
	}
	f.logins++
	for _, form := range formNames {
		if stored := formOf(hashes, form); stored != "" {
			f.having[form]++
			if f.example[form] == "" || stored < f.example[form] {
				f.example[form] = stored
			}
		}
	}
}

func (f *forms) covers(form string) authn.Coverage {
	switch f.having[form] {
	case 0:
		return authn.CoversNone
	case f.logins:
		return authn.CoversAll
	}
	return authn.CoversSome
}

// formOf returns the first of hashes that is in a form.
func formOf(hashes []authn.Hash, form string) string {
	for _, h := range hashes {
		if stored := h.Form(form); stored != "" {
			return stored
		}
	}
	return ""
}

// Covers implements authn.Credentials.
func (f *File) Covers(form string) authn.Coverage { return f.fresh().forms.covers(form) }

// Example implements authn.Credentials.
func (f *File) Example(form string) string { return f.fresh().forms.example[form] }

// Stored implements authn.Credentials.
func (f *File) Stored(_ context.Context, login, form string) (mail.Identity, string, error) {
	t := f.fresh()
	if _, limited := t.limits[login]; limited { // only Verify knows from where
		return mail.Identity{}, "", authn.ErrNoForm
	}
	hash, known := t.entries[login]
	if !known {
		return mail.Identity{}, "", authn.ErrUnknownLogin
	}
	stored := hash.Form(form)
	if stored == "" {
		return mail.Identity{}, "", authn.ErrNoForm
	}
	return mail.Identity{Authentication: login, Authorization: login}, stored, nil
}

// Catalogue is implemented by Hashes that can tell all passwords they hold:
// without it nobody knows whether a mechanism suits everybody.
type Catalogue interface {
	// AllPasswordHashes yields the hashes of each account that has a password,
	// and a version that changes when they do.
	AllPasswordHashes() (version any, all iter.Seq[[]string])
}

// counted are the forms of one version of a catalogue.
type counted struct {
	version any
	forms   forms
}

// forms counts anew when the catalogue has changed.
func (s *Stored) forms() *forms {
	catalogue, ok := s.source.(Catalogue)
	if !ok {
		return &forms{}
	}
	version, all := catalogue.AllPasswordHashes()
	if c := s.counted.Load(); c != nil && c.version == version {
		return &c.forms
	}
	c := &counted{version: version}
	for stored := range all {
		c.forms.add(s.usable(stored)...)
	}
	s.counted.Store(c)
	return &c.forms
}

// usable parses what can be used, in silence.
func (s *Stored) usable(stored []string) []authn.Hash {
	var parsed []authn.Hash
	for _, text := range stored[:min(len(stored), maxHashes)] {
		if hash, err := s.hasher.Parse(text); err == nil {
			parsed = append(parsed, hash)
		}
	}
	return parsed
}

// Covers implements authn.Credentials.
func (s *Stored) Covers(form string) authn.Coverage { return s.forms().covers(form) }

// Example implements authn.Credentials.
func (s *Stored) Example(form string) string { return s.forms().example[form] }

// Stored implements authn.Credentials. An account without a password is not
// this verifier's.
func (s *Stored) Stored(ctx context.Context, login, form string) (mail.Identity, string, error) {
	account, stored, err := s.source.PasswordHashes(ctx, login)
	switch {
	case status.Of(err) == status.NoSuchUser && err != nil:
		return mail.Identity{}, "", authn.ErrUnknownLogin
	case err != nil:
		return mail.Identity{}, "", fmt.Errorf("find password: %w", err)
	case len(stored) == 0:
		return mail.Identity{}, "", authn.ErrUnknownLogin
	}
	found := formOf(s.usable(stored), form)
	switch {
	case found == "":
		return mail.Identity{}, "", authn.ErrNoForm
	case account.Disabled:
		return mail.Identity{}, "", status.Errorf(status.AuthFailed, "account is disabled: %w", authn.ErrRefused)
	}
	return mail.Identity{Authentication: account.Name, Authorization: account.Name, Source: account.Source}, found, nil
}

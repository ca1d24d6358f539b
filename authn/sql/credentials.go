package sql

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/mail"
)

// verifier holds passwords in a form that SCRAM and CRAM-MD5 prove a login
// from. A database is not asked for all it holds: its form is the one that the
// default scheme names. It implements authn.Credentials.
type verifier struct {
	passwords *file.Stored
	form      string // "" for none
	// mixed tells that a password in another form was met.
	mixed atomic.Bool
	// example is the first one that was met, or one that was made up: what
	// logins that do not exist look like.
	example atomic.Pointer[string]
	made    string
}

func newVerifier(s *file.Stored, scheme string, hasher *authn.Hasher) (authn.Verifier, error) {
	v := &verifier{passwords: s}
	switch scheme = strings.ToUpper(scheme); scheme {
	case "PLAIN", authn.FormCleartext:
		if _, err := hasher.Parse("{CLEARTEXT}x"); err == nil { // they are allowed
			v.form = authn.FormCleartext
		}
	case authn.FormSCRAMSHA1, authn.FormSCRAMSHA256:
		var err error
		v.form = scheme
		if v.made, err = authn.MakeHash(strings.ToLower(scheme), rand.Text()); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Name implements authn.Verifier.
func (v *verifier) Name() string { return v.passwords.Name() }

// Verify implements authn.Verifier.
func (v *verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	return v.passwords.Verify(ctx, a)
}

// Covers implements authn.Credentials.
func (v *verifier) Covers(form string) authn.Coverage {
	switch {
	case v.form != form && v.form != authn.FormCleartext:
		return authn.CoversNone
	case v.mixed.Load():
		return authn.CoversSome
	default:
		return authn.CoversAll
	}
}

// Example implements authn.Credentials. From cleartext passwords keys are made
// anew: those need no example.
func (v *verifier) Example(form string) string {
	if v.form != form {
		return ""
	}
	if met := v.example.Load(); met != nil {
		return *met
	}
	return v.made
}

// Stored implements authn.Credentials.
func (v *verifier) Stored(ctx context.Context, login, form string) (mail.Identity, string, error) {
	identity, stored, err := v.passwords.Stored(ctx, login, form)
	switch {
	case errors.Is(err, authn.ErrNoForm):
		v.mixed.Store(true)
	case err == nil && form == v.form && form != authn.FormCleartext && v.example.Load() == nil:
		v.example.CompareAndSwap(nil, &stored)
	}
	return identity, stored, err
}

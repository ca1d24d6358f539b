package file

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Hashes hands out the stored password hashes of a login, a uid or an address.
// A login nobody has is a *status.Error with NoSuchUser; an account without a
// password has no hashes. Implemented by directory sources that hold hashes.
type Hashes interface {
	PasswordHashes(ctx context.Context, login string) (account mail.Account, hashes []string, err error)
}

// maxHashes bounds the values of userPassword that one attempt computes.
const maxHashes = 8

// Stored verifies against hashes a directory hands out. Safe for concurrent
// use.
type Stored struct {
	name   string
	source Hashes
	hasher *authn.Hasher
	log    hclog.Logger
	decoy  authn.Hash
	// likeness is the hash last computed for a known login: what an unknown
	// one is made to cost.
	likeness atomic.Pointer[authn.Hash]
	counted  atomic.Pointer[counted]
}

// NewStored returns a verifier called name.
func NewStored(name string, source Hashes, hasher *authn.Hasher, log hclog.Logger) (*Stored, error) {
	if name == "" {
		return nil, errors.New("authn file: verifier without a name")
	}
	return &Stored{name: name, source: source, hasher: hasher, log: log, decoy: authn.Decoy()}, nil
}

// Name implements authn.Verifier.
func (s *Stored) Name() string { return s.name }

var errNoUsableHash = errors.New("none of the stored password hashes can be used")

// Verify implements authn.Verifier. The identity is the account's name. An
// account without a password is not this verifier's; one whose hashes are all
// unusable is not known, for its password may be right.
func (s *Stored) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	account, stored, err := s.source.PasswordHashes(ctx, a.Login)
	known := err == nil
	if err != nil && status.Of(err) != status.NoSuchUser {
		return mail.Identity{}, fmt.Errorf("find password: %w", err)
	}
	hashes := s.parse(account.Name, stored)
	usable := len(hashes) > 0
	if !usable {
		hashes = []authn.Hash{s.costly()}
	}
	matched, err := s.hasher.Check(ctx, hashes, a.Password)
	switch {
	case err != nil:
		return mail.Identity{}, err
	case !known || len(stored) == 0:
		return mail.Identity{}, authn.ErrUnknownLogin
	case !usable:
		return mail.Identity{}, errNoUsableHash
	case !matched:
		return mail.Identity{}, status.New(status.AuthFailed, errors.New("wrong password"))
	case account.Disabled:
		return mail.Identity{}, status.Errorf(status.AuthFailed, "account is disabled: %w", authn.ErrRightButRefused)
	}
	return mail.Identity{Authentication: account.Name, Authorization: account.Name, Source: account.Source}, nil
}

// parse returns those of the stored hashes that can be used.
func (s *Stored) parse(account string, stored []string) []authn.Hash {
	var parsed []authn.Hash
	for _, text := range stored[:min(len(stored), maxHashes)] {
		hash, err := s.hasher.Parse(text)
		if err != nil {
			s.log.Warn("stored password hash cannot be used", "verifier", s.name, "account", account, "err", err)
			continue
		}
		parsed = append(parsed, hash)
	}
	if len(parsed) > 0 {
		s.likeness.Store(&parsed[0])
	}
	return parsed
}

// costly costs what a known login costs and matches nobody.
func (s *Stored) costly() authn.Hash {
	if like := s.likeness.Load(); like != nil {
		return like.Unmatchable()
	}
	return s.decoy
}

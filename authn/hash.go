package authn

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
)

// HashConfig of a Hasher.
type HashConfig struct {
	// Concurrency bounds hash computations at one time; default one per CPU.
	Concurrency int
	// AllowCleartext accepts {CLEARTEXT} and {PLAIN} passwords in files and
	// directories; default no.
	AllowCleartext bool
}

// Hasher checks passwords against stored hashes, a bounded number at a time:
// hashes are slow and large on purpose, and strangers decide how many are
// asked for. One Hasher serves a whole process. Safe for concurrent use.
type Hasher struct {
	slots          chan struct{}
	allowCleartext bool
	computed       atomic.Uint64
}

// Hash is one stored password hash, parsed and within the limits on its cost.
// The zero Hash matches nothing.
type Hash struct {
	scheme string
	match  func(password string) (bool, error)
	stored string // as it was read, of schemes that are a form of their own
}

// String names the scheme, so that no verb prints what is stored.
func (h Hash) String() string { return h.Scheme() }

// GoString is String.
func (h Hash) GoString() string { return h.Scheme() }

// Form returns what is stored when a login can be proven from it in a form,
// FormSCRAMSHA256 and its like, and "" otherwise. From a cleartext password it
// can be in every form.
func (h Hash) Form(form string) string {
	if h.scheme == "cleartext" || strings.EqualFold(h.scheme, form) {
		return h.stored
	}
	return ""
}

// Scheme names the hash's scheme in lower case, "argon2id".
func (h Hash) Scheme() string { return h.scheme }

// Unmatchable returns a hash that costs what h costs and matches nothing.
func (h Hash) Unmatchable() Hash {
	if h.match == nil {
		return h
	}
	return Hash{scheme: h.scheme, match: func(password string) (bool, error) {
		_, err := h.match(password)
		return false, err
	}}
}

var (
	errHashEmpty     = errors.New("empty password hash")
	errHashLong      = errors.New("password hash too long")
	errHashScheme    = errors.New("unknown password scheme")
	errHashCost      = errors.New("cost of password hash out of bounds")
	errHashMalformed = errors.New("malformed password hash")
	errHashCleartext = errors.New("cleartext passwords are not allowed here")
)

// maxHashOctets is more than any supported scheme writes.
const maxHashOctets = 512

// NewHasher returns a Hasher.
func NewHasher(cfg HashConfig) (*Hasher, error) {
	if cfg.Concurrency < 0 {
		return nil, errors.New("authn: hash concurrency must not be negative")
	}
	setDefault(&cfg.Concurrency, runtime.GOMAXPROCS(0))
	return &Hasher{slots: make(chan struct{}, cfg.Concurrency), allowCleartext: cfg.AllowCleartext}, nil
}

// Parse reads a stored hash: "{SCHEME}data" as in userPassword (RFC 2307
// section 5.3) or "$id$..." as in shadow files. A scheme that is not known, is
// not allowed, or costs more than a login may cost is an error. Errors never
// show the hash.
func (h *Hasher) Parse(stored string) (Hash, error) {
	switch {
	case stored == "":
		return Hash{}, errHashEmpty
	case len(stored) > maxHashOctets:
		return Hash{}, errHashLong
	case stored[0] == '$':
		return parseCrypt(stored)
	case stored[0] != '{':
		return Hash{}, fmt.Errorf("%w: neither {SCHEME} nor $id$ at its beginning", errHashScheme)
	}
	name, data, found := strings.Cut(stored[1:], "}")
	if !found {
		return Hash{}, fmt.Errorf("%w: brace is not closed", errHashMalformed)
	}
	name = strings.ToUpper(name)
	if name == "CLEARTEXT" || name == "PLAIN" {
		if !h.allowCleartext {
			return Hash{}, errHashCleartext
		}
		return parseCleartext(data)
	}
	parse, known := schemes[name]
	if !known {
		return Hash{}, fmt.Errorf("%w %q", errHashScheme, clip(name))
	}
	return parse(data)
}

// Check tells whether password matches one of hashes; it computes all of them,
// so that its work does not depend on which one matches. An error means that
// it could not compute: ctx ended before a slot was free.
func (h *Hasher) Check(ctx context.Context, hashes []Hash, password string) (bool, error) {
	matched := false
	for _, hash := range hashes {
		ok, err := h.compute(ctx, hash, password)
		if err != nil {
			return false, err
		}
		matched = matched || ok
	}
	return matched, nil
}

// Computed counts the hashes computed since the start, for metrics.
func (h *Hasher) Computed() uint64 { return h.computed.Load() }

func (h *Hasher) compute(ctx context.Context, hash Hash, password string) (bool, error) {
	if hash.match == nil {
		return false, errHashEmpty
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return false, fmt.Errorf("waiting to compute a password hash: %w", ctx.Err())
	}
	h.computed.Add(1)
	return hash.match(password)
}

// Decoy is a hash nobody has the password of. Verifiers compute it for a login
// they do not know, where they have no hash of their own as a better likeness.
func Decoy() Hash {
	hash, err := parseCrypt("$6$" + randomText(16) + "$" + strings.Repeat(".", 86))
	if err != nil {
		panic("authn: decoy: " + err.Error())
	}
	return hash
}

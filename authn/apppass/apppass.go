package apppass

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
)

// Password is one password for applications, without the password.
type Password struct {
	ID        string         `json:"id"`
	Source    string         `json:"source,omitempty"` // the directory that Account is a name of
	Account   string         `json:"account"`
	Label     string         `json:"label,omitempty"`
	Protocols []string       `json:"protocols,omitempty"` // none: all
	Networks  []netip.Prefix `json:"networks,omitempty"`  // none: all
	Created   time.Time      `json:"created"`
	Expires   time.Time      `json:"expires,omitzero"`
	LastUsed  time.Time      `json:"last_used,omitzero"` // up to a minute late
	LastFrom  netip.Addr     `json:"last_from,omitzero"`
}

// Bounds of what is kept.
const (
	MaxLabelOctets = 100
	maxPerAccount  = 100
	maxNetworks    = 20
)

// Errors of Add and Revoke.
var (
	ErrNotFound = errors.New("there is no such app password; postern app-password list USER shows those there are, with their ids")
	errTooMany  = fmt.Errorf("an account has at most %d app passwords: revoke some", maxPerAccount)
)

// digest is a password as it is kept.
type digest [sha256.Size]byte

// stored is a Password in the store.
type stored struct {
	Version int    `json:"v"`
	Digest  []byte `json:"digest"`
	Password
}

const (
	tag           = 'a'
	recordVersion = 1
)

// Passwords are all passwords for applications. Safe for concurrent use.
type Passwords struct {
	key []byte
	kv  store.Store
	log hclog.Logger

	mu       sync.Mutex
	byDigest map[digest]*kept
	byOwner  map[string]map[string]*kept // by owner, then by id
	used     map[*kept]struct{}          // LastUsed is not in the store yet
}

type kept struct {
	Password
	digest digest
	value  []byte // in the store
}

// Open reads the passwords in kv. They are hashed with key, without which
// none is right any more.
func Open(ctx context.Context, key []byte, kv store.Store, log hclog.Logger) (*Passwords, error) {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("app passwords"))
	p := &Passwords{
		key: mac.Sum(nil), kv: kv, log: log,
		byDigest: map[digest]*kept{}, byOwner: map[string]map[string]*kept{}, used: map[*kept]struct{}{},
	}
	err := kv.View(ctx, func(s store.Snapshot) error {
		for pair, err := range s.Range([]byte{tag}, []byte{tag + 1}, 0, false) {
			if err != nil {
				return err
			}
			k, err := decode(pair.Value)
			if err != nil {
				// It lets nobody in; it may be of a newer release.
				log.Warn("an app password cannot be read and is not used", "err", err)
				continue
			}
			p.insertLocked(k)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the app passwords: %w", err)
	}
	return p, nil
}

func decode(value []byte) (*kept, error) {
	var s stored
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, err
	}
	k := &kept{Password: s.Password, value: slices.Clone(value)}
	if s.Version != recordVersion || copy(k.digest[:], s.Digest) != len(s.Digest) || len(s.Digest) != len(k.digest) || s.ID == "" || s.Account == "" {
		return nil, fmt.Errorf("record of version %d is not understood", s.Version)
	}
	return k, nil
}

func encode(pw Password, d digest) ([]byte, error) {
	return json.Marshal(stored{recordVersion, d[:], pw})
}

func owner(source, account string) string { return source + "\x00" + account }

func keyOf(pw Password) []byte {
	return append([]byte{tag}, owner(pw.Source, pw.Account)+"\x00"+pw.ID...)
}

func (p *Passwords) insertLocked(k *kept) {
	p.byDigest[k.digest] = k
	name := owner(k.Source, k.Account)
	if p.byOwner[name] == nil {
		p.byOwner[name] = map[string]*kept{}
	}
	p.byOwner[name][k.ID] = k
}

func (p *Passwords) removeLocked(k *kept) {
	delete(p.byDigest, k.digest)
	delete(p.used, k)
	name := owner(k.Source, k.Account)
	if delete(p.byOwner[name], k.ID); len(p.byOwner[name]) == 0 {
		delete(p.byOwner, name)
	}
}

func (p *Passwords) digestOf(secret string) (d digest) {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(secret))
	mac.Sum(d[:0])
	return d
}

// Add makes a password of pw's account with pw's limits. It returns the
// password itself, which is nowhere else, once it is on disk.
func (p *Passwords) Add(ctx context.Context, pw Password) (secret string, made Password, err error) {
	if err := pw.check(); err != nil {
		return "", pw, err
	}
	var id [4]byte
	rand.Read(id[:])
	pw.ID, pw.Created = hex.EncodeToString(id[:]), time.Now().UTC().Truncate(time.Second)
	secret = newSecret()
	k := &kept{Password: pw, digest: p.digestOf(secret)}
	if k.value, err = encode(pw, k.digest); err != nil {
		return "", pw, err
	}
	p.mu.Lock()
	count := len(p.byOwner[owner(pw.Source, pw.Account)])
	p.mu.Unlock()
	if count >= maxPerAccount {
		return "", pw, errTooMany
	}
	b := store.NewBatch()
	b.IfAbsent(keyOf(pw))
	b.Put(keyOf(pw), k.value)
	if err := p.commit(ctx, b); err != nil {
		return "", pw, fmt.Errorf("keep the app password: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.insertLocked(k)
	return grouped(secret), pw, nil
}

// check holds a new password against the bounds.
func (pw Password) check() error {
	switch {
	case pw.Account == "" || strings.ContainsRune(pw.Account+pw.Source, 0):
		return errors.New("an app password needs an account")
	case len(pw.Label) > MaxLabelOctets || !utf8.ValidString(pw.Label) || strings.ContainsFunc(pw.Label, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("a label is a line of at most %d octets", MaxLabelOctets)
	case len(pw.Networks) > maxNetworks:
		return fmt.Errorf("an app password has at most %d networks", maxNetworks)
	}
	for _, name := range pw.Protocols {
		if !slices.Contains(Protocols(), name) {
			return fmt.Errorf("protocol %q is not known; there are %s", name, strings.Join(Protocols(), ", "))
		}
	}
	return nil
}

func (p *Passwords) commit(ctx context.Context, b *store.Batch) error {
	_, err := p.kv.Commit(ctx, b)
	if errors.Is(err, store.ErrUnknown) {
		_, err = p.kv.Commit(ctx, b)
	}
	return err
}

// List returns the passwords of an account, the oldest first.
func (p *Passwords) List(source, account string) []Password {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Password
	for _, k := range p.byOwner[owner(source, account)] {
		all = append(all, k.Password)
	}
	slices.SortFunc(all, func(a, b Password) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID)) })
	return all
}

// Count returns how many passwords there are.
func (p *Passwords) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byDigest)
}

// Revoke ends a password of an account, all of them for the id "". It returns
// how many those were; once it returns nil none of them lets anybody in, also
// after a power cut.
func (p *Passwords) Revoke(ctx context.Context, source, account, id string) (int, error) {
	p.mu.Lock()
	var gone []*kept
	for _, k := range p.byOwner[owner(source, account)] {
		if id == "" || k.ID == id {
			gone = append(gone, k)
		}
	}
	p.mu.Unlock()
	if len(gone) == 0 {
		return 0, ErrNotFound
	}
	b := store.NewBatch()
	for _, k := range gone {
		b.Delete(keyOf(k.Password))
	}
	if err := p.commit(ctx, b); err != nil {
		return 0, fmt.Errorf("revoke: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range gone {
		p.removeLocked(k)
	}
	return len(gone), nil
}

// writeEvery is how often the times of use are written.
const writeEvery = time.Minute

// Run writes when passwords were used, until ctx ends.
func (p *Passwords) Run(ctx context.Context) error {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return p.writeUsed(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		if err := p.writeUsed(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("when app passwords were used cannot be written", "err", err)
		}
	}
}

func (p *Passwords) writeUsed(ctx context.Context) error {
	p.mu.Lock()
	all := make([]*kept, 0, len(p.used))
	for k := range p.used {
		all = append(all, k)
	}
	clear(p.used)
	p.mu.Unlock()
	for i, k := range all {
		if err := p.writeOne(ctx, k); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, k := range all[i:] { // the next time
				if p.byDigest[k.digest] == k {
					p.used[k] = struct{}{}
				}
			}
			return err
		}
	}
	return nil
}

// writeOne writes one password as it is now, unless it was revoked meanwhile.
func (p *Passwords) writeOne(ctx context.Context, k *kept) error {
	p.mu.Lock()
	pw, before := k.Password, k.value
	p.mu.Unlock()
	value, err := encode(pw, k.digest)
	if err != nil {
		return err
	}
	b := store.NewBatch()
	b.IfEquals(keyOf(pw), before)
	b.Put(keyOf(pw), value)
	switch err := p.commit(ctx, b); {
	case errors.Is(err, store.ErrConflict): // revoked
		return nil
	case err != nil:
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.value = value
	return nil
}

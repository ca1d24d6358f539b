package recall

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/store"
)

// Costs of a hash on disk: argon2id as OWASP advises for servers with many
// logins. At most hashesAtOnce are computed at a time.
const (
	argonKiB     = 19 << 10
	argonPasses  = 2
	saltOctets   = 16
	hashOctets   = 32
	hashesAtOnce = 2
	jobsWaiting  = 1024
	// writtenAnew is how old the time on disk may be for a password that is
	// right again and again.
	writtenAnew = 4 // a fourth of OfflineFor
)

const (
	tag           = 'c'
	recordVersion = 1
	recordOctets  = 1 + 8 + 8 + saltOctets + hashOctets
)

// diskEntry is what the store has of an account.
type diskEntry struct {
	right   time.Time
	version uint64
	salt    [saltOctets]byte
	hash    [hashOctets]byte
}

func (e diskEntry) encode() []byte {
	b := append(make([]byte, 0, recordOctets), recordVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(e.right.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, e.version)
	b = append(b, e.salt[:]...)
	return append(b, e.hash[:]...)
}

func decode(b []byte) (e diskEntry, err error) {
	if len(b) != recordOctets || b[0] != recordVersion {
		return e, errNotRemembered
	}
	e.right = time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:])))
	e.version = binary.BigEndian.Uint64(b[9:])
	copy(e.salt[:], b[17:])
	copy(e.hash[:], b[17+saltOctets:])
	return e, nil
}

// job is one thing to write.
type job struct {
	known authn.Known
	right time.Time // zero: the password is wrong
}

// diskKey hashes an account's names: who it is shows not in the store.
func (c *Cache) diskKey(k authn.Known) string {
	mac := hmac.New(sha256.New, c.key)
	mac.Write([]byte(account(k)))
	return string(mac.Sum(nil))
}

// slowHash hashes a password with the key first, so that a stolen store without
// it is of no use.
func (c *Cache) slowHash(k authn.Known, salt [saltOctets]byte) (out [hashOctets]byte) {
	mac := hmac.New(sha256.New, c.key)
	mac.Write([]byte(account(k) + "\x00" + k.Password))
	copy(out[:], argon2.IDKey(mac.Sum(nil), salt[:], argonPasses, argonKiB, 1, hashOctets))
	return out
}

// Load reads what the store has, before the Cache is used.
func (c *Cache) Load(ctx context.Context) error {
	if c.kv == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kv.View(ctx, func(s store.Snapshot) error {
		for pair, err := range s.Range([]byte{tag}, []byte{tag + 1}, 0, false) {
			if err != nil {
				return fmt.Errorf("read the verifier cache: %w", err)
			}
			e, err := decode(pair.Value)
			if err != nil || e.right.After(time.Now().Add(time.Minute)) {
				e = diskEntry{} // long over: the next sweep deletes it
			}
			c.disk[string(pair.Key[1:])] = e
		}
		return nil
	})
}

// onDisk reports whether the store has the password as right, not longer ago
// than limit, and takes it into memory then.
func (c *Cache) onDisk(ctx context.Context, k authn.Known, now time.Time, limit time.Duration) bool {
	c.mu.Lock()
	e, found := c.disk[c.diskKey(k)]
	c.mu.Unlock()
	if !found || now.Sub(e.right) >= limit || e.version != uint64(lockout.VersionOf(k.Version)) {
		return false
	}
	select {
	case c.hashing <- struct{}{}:
		defer func() { <-c.hashing }()
	case <-ctx.Done():
		return false
	}
	sum := c.slowHash(k, e.salt)
	if !hmac.Equal(sum[:], e.hash[:]) {
		return false
	}
	c.right(k, e.right)
	return true
}

// later has a password that is right written, unless the disk has it so or too
// much waits already: what is not written is asked of the verifier.
func (c *Cache) later(k authn.Known, now time.Time) {
	if c.kv == nil {
		return
	}
	c.mu.Lock()
	e, found := c.disk[c.diskKey(k)]
	limit := c.cfg.OfflineFor / writtenAnew
	c.mu.Unlock()
	if found && now.Sub(e.right) < limit && e.version == uint64(lockout.VersionOf(k.Version)) && k.Version != "" {
		return
	}
	if found && k.Version == "" && now.Sub(e.right) < min(limit, time.Minute) {
		return // the password may be another one; but not all the time
	}
	select {
	case c.work <- job{k, now}:
	default:
	}
}

// laterWrong has a password deleted that the verifier says is wrong.
func (c *Cache) laterWrong(k authn.Known) {
	if c.kv == nil {
		return
	}
	c.mu.Lock()
	_, found := c.disk[c.diskKey(k)]
	c.mu.Unlock()
	if !found {
		return
	}
	select {
	case c.work <- job{known: k}:
	default:
	}
}

// sweepEvery is how often what is over is deleted from the store.
const sweepEvery = 10 * time.Minute

// Run writes until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-c.work:
			if err := c.do(ctx, j); err != nil && ctx.Err() == nil {
				c.log.Warn("the verifier cache cannot be written", "err", err)
			}
		case <-sweep.C:
			if err := c.sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
				c.log.Warn("the verifier cache cannot be cleared", "err", err)
			}
		}
	}
}

func (c *Cache) do(ctx context.Context, j job) error {
	key := c.diskKey(j.known)
	c.mu.Lock()
	present, found := c.disk[key]
	full := !found && len(c.disk) >= c.cfg.Entries
	c.mu.Unlock()
	b := store.NewBatch()
	if j.right.IsZero() {
		if sum := c.slowHash(j.known, present.salt); !found || !hmac.Equal(sum[:], present.hash[:]) {
			return nil
		}
		b.Delete(diskKeyOf(key))
		return c.commit(ctx, b, func() { delete(c.disk, key) })
	}
	if full {
		return nil // those who are there stay: they are who logs in
	}
	e := diskEntry{right: j.right, version: uint64(lockout.VersionOf(j.known.Version))}
	rand.Read(e.salt[:])
	e.hash = c.slowHash(j.known, e.salt)
	b.Put(diskKeyOf(key), e.encode())
	return c.commit(ctx, b, func() { c.disk[key] = e })
}

func diskKeyOf(key string) []byte { return append([]byte{tag}, key...) }

// commit writes b, and takes it over with the lock held.
func (c *Cache) commit(ctx context.Context, b *store.Batch, takeOver func()) error {
	if _, err := c.kv.Commit(ctx, b); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	takeOver()
	return nil
}

// sweepBatch bounds one commit of a sweep.
const sweepBatch = 500

// sweep deletes what is too old to let anybody in.
func (c *Cache) sweep(ctx context.Context, now time.Time) error {
	c.mu.Lock()
	var over []string
	for key, e := range c.disk {
		if now.Sub(e.right) >= c.cfg.OfflineFor {
			over = append(over, key)
		}
	}
	c.mu.Unlock()
	for part := range slices.Chunk(over, sweepBatch) {
		b := store.NewBatch()
		for _, key := range part {
			b.Delete(diskKeyOf(key))
		}
		if err := c.commit(ctx, b, func() {
			for _, key := range part {
				delete(c.disk, key)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// Clear forgets everything, in memory and on disk.
func (c *Cache) Clear(ctx context.Context) error {
	c.mu.Lock()
	clear(c.entries)
	c.order.Init()
	c.mu.Unlock()
	if c.kv == nil {
		return nil
	}
	b := store.NewBatch()
	b.DeleteRange([]byte{tag}, []byte{tag + 1})
	return c.commit(ctx, b, func() { clear(c.disk) })
}

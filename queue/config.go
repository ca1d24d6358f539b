// Package queue keeps the messages that were accepted until each recipient is
// delivered or reported on, and decides when each is tried.
//
// What goes in: an envelope and a staged body. When Accept returns nil both are
// on stable storage and the queue answers for them; that is the instant at
// which a client may be told 250. What comes out: deliveries, handed to a
// Transport with an id that is the same for every attempt, reports for which
// senders asked, log lines and audit events. What it promises: no accepted
// message is lost, by kill, power cut or full disk; a recipient who was
// recorded as delivered is not tried again; between a delivery and its record
// a crash repeats the delivery, with the same id. What it leaves to others:
// where mail goes and how (delivery), what a report looks like
// (delivery/dsn), whether a message may come in at all (policy).
//
// One goroutine, the keeper, makes every change to what is queued but for
// additions: it alone removes, defers, holds and loads, so that what it reads
// is never overtaken. Messages wait in the store, ordered by the time they
// are due; only a bounded number is in memory. Recipients of a message who go
// to the same destination form a group, which is tried, deferred and recorded
// as one; within it each recipient has a state. The layout of the store is in
// keys.go and record.go, the semantics are Postfix's (qmgr(8), RFC 3461, 3464,
// 5321 section 4.5.4.1 and 6.1).
package queue

import (
	"fmt"
	"time"
)

// Config holds the schedule and the bounds of the queue.
type Config struct {
	// MinimalBackoff and MaximalBackoff bound the time between two attempts;
	// it doubles from the first to the second with each attempt, give or take
	// a fifth. 0 means 300 s and 4000 s, Postfix's.
	MinimalBackoff time.Duration
	MaximalBackoff time.Duration
	// Lifetime is how long a message is tried before it is returned; 0 means
	// 5 days; negative means one attempt.
	Lifetime time.Duration
	// BounceLifetime is Lifetime for mail with the null reverse-path; 0 means
	// 5 days; negative means one attempt.
	BounceLifetime time.Duration
	// DelayWarning is the age at which the sender is told once that a message
	// is still being tried; 0 means never.
	DelayWarning time.Duration
	// Workers is how many deliveries run at once; 0 means 100.
	Workers int
	// InitialConcurrency and MaximalConcurrency bound the deliveries to one
	// destination at once: it begins at the first, grows with each success and
	// shrinks with each failed connection. 0 means 5 and 20. A Transport that
	// implements Limiter knows better.
	InitialConcurrency int
	MaximalConcurrency int
	// RecipientLimit is the most recipients of one delivery; 0 means 50, and
	// it is at most 200.
	RecipientLimit int
	// ActiveLimit is the most groups of recipients in memory; 0 means 20000.
	// The others wait in the store.
	ActiveLimit int
	// Owner names this process among those that share the queue. "" means that
	// nobody else has the store open: it serves everything.
	Owner string
	// Shards is into how many parts a new queue is divided, for the processes
	// that share it; 0 means 64 with an Owner and 1 without. An old one stays
	// as it is.
	Shards int
	// MaxMessages is the most messages that may be queued before new ones are
	// put off; 0 means any number. Reports are always taken.
	MaxMessages int64
	// Grace is how long deliveries under way may take to end when the queue
	// stops; 0 means 20 s.
	Grace time.Duration
}

// shardsFor is how many shards a new queue gets.
func shardsFor(owner string) int {
	if owner == "" {
		return 1
	}
	return sharedShards
}

const maxRecipientLimit = 200

func (cfg Config) withDefaults() (Config, error) {
	day := 24 * time.Hour
	for _, d := range []struct {
		field   *time.Duration
		missing time.Duration
	}{
		{&cfg.MinimalBackoff, 300 * time.Second},
		{&cfg.MaximalBackoff, 4000 * time.Second},
		{&cfg.Lifetime, 5 * day},
		{&cfg.BounceLifetime, 5 * day},
		{&cfg.Grace, 20 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.missing
		}
	}
	for _, d := range []struct {
		field   *int
		missing int
	}{
		{&cfg.Workers, 100},
		{&cfg.InitialConcurrency, 5},
		{&cfg.MaximalConcurrency, 20},
		{&cfg.RecipientLimit, 50},
		{&cfg.ActiveLimit, 20000},
		{&cfg.Shards, shardsFor(cfg.Owner)},
	} {
		if *d.field == 0 {
			*d.field = d.missing
		}
		if *d.field < 0 {
			return cfg, fmt.Errorf("queue: a limit of %d", *d.field)
		}
	}
	if cfg.MinimalBackoff < 0 || cfg.MaximalBackoff < cfg.MinimalBackoff {
		return cfg, fmt.Errorf("queue: backoff from %v to %v", cfg.MinimalBackoff, cfg.MaximalBackoff)
	}
	cfg.InitialConcurrency = min(cfg.InitialConcurrency, cfg.MaximalConcurrency)
	if cfg.Shards > maxShards {
		return cfg, fmt.Errorf("queue: %d shards, at most %d", cfg.Shards, maxShards)
	}
	cfg.RecipientLimit = min(cfg.RecipientLimit, maxRecipientLimit)
	return cfg, nil
}

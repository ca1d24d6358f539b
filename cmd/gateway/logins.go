package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/authn/apppass"
	"github.com/postern-mail/postern/authn/lockout"
	"github.com/postern-mail/postern/authn/recall"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/milter"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/pebble"
)

// lived is what generations use and do not own: it lives as long as the
// process. Its zero value is for commands that only ask.
type lived struct {
	sessions tlspolicy.Sessions // told of connections to other servers
	dmarc    mailauth.Counter   // told what DMARC found
	logins   *logins
	replicas *replicas
	limits   *limiting
	policy   *policyState
	milters  map[string]*milter.Milter // of the generation in force, by name
}

// logins is what is remembered of logins, with the store that keeps it.
type logins struct {
	kv     *pebble.Store
	memory *lockout.Memory
	apps   *apppass.Passwords
	recall *recall.Cache
	// saltKey makes the salts that SCRAM shows of logins without keys, the same
	// after a restart.
	saltKey []byte
}

// authnDir holds the store of logins and its key.
func authnDir(f *config.File) string { return filepath.Join(f.DataDir, "authn") }

// openLogins opens what is remembered of logins.
func openLogins(ctx context.Context, f *config.File, audit auditor, log hclog.Logger) (*logins, error) {
	key, err := loginKey(fsx.OS(), authnDir(f))
	if err != nil {
		return nil, fmt.Errorf("key of the memory of logins: %w", err)
	}
	kv, err := pebble.Open(ctx, pebble.Config{
		Dir: filepath.Join(authnDir(f), "index"), ReserveOctets: reserveOf(f, "authn"), CacheOctets: 4 << 20, MemTableOctets: 4 << 20,
	}, log.Named("store").With("store", "authn"))
	if err != nil {
		return nil, fmt.Errorf("open the store of logins (app passwords, lockouts): %w; if it is damaged bring %s back from a backup, or move it away: then app passwords have to be made anew", err, authnDir(f))
	}
	l := &logins{kv: kv, saltKey: saltKey(key)}
	log = log.Named("authn")
	if l.memory, err = lockout.New(f.LoginMemory(), key, kv, noticed(audit, log), log); err == nil {
		err = l.memory.Load(ctx)
	}
	if err == nil {
		l.apps, err = apppass.Open(ctx, key, kv, log)
	}
	if err == nil {
		l.recall = recall.New(f.Cache.Room(), key, kv, log)
		err = l.recall.Load(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, kv.Close())
	}
	return l, nil
}

// loginKey reads the key that passwords are remembered under, or makes one. It
// lies beside the store, readable by its owner alone: who gets the store
// without it can try no passwords.
func loginKey(fsys fsx.FS, dir string) ([]byte, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "key")
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == lockout.KeyOctets:
		return key, nil
	case err == nil:
		return nil, fmt.Errorf("%s has %d octets instead of %d: bring back the file from a backup, or remove it together with %s, and what was remembered is forgotten and app passwords have to be made anew", path, len(key), lockout.KeyOctets, filepath.Join(dir, "index"))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	key = make([]byte, lockout.KeyOctets)
	rand.Read(key)
	return key, fsx.WriteFile(fsys, path, key)
}

// noticed records what the memory of failures tells, which is seldom.
func noticed(audit auditor, log hclog.Logger) func(lockout.Notice) {
	return func(n lockout.Notice) {
		log.Warn("wrong passwords", "what", n.What, "login", n.Login, "network", n.Network, "until", n.Until, "detail", n.Detail)
		audit.Record(mail.Event{Kind: mail.EventLockout, Result: "held", Reason: status.AuthTooMany.String(), Login: n.Login,
			Peer: n.Network.String(), Stage: n.What, Detail: n.Detail + "; until " + n.Until.UTC().Format("2006-01-02T15:04:05Z")})
	}
}

// Metrics of what is remembered of logins.
var (
	metricHeldOff  = newMetric(prometheus.CounterValue, "gateway_authn_held_off_total", "Logins that had to wait, by why.", "by")
	metricRepeated = newMetric(prometheus.CounterValue, "gateway_authn_repeated_total", "Wrong passwords that came again and were refused without asking.")
	metricSpraying = newMetric(prometheus.CounterValue, "gateway_authn_spraying_total", "Attacks found that try one password on many accounts (password) or many accounts from one address (source).", "kind")
	metricRemember = newMetric(prometheus.GaugeValue, "gateway_authn_memory_entries", "Entries in the memory of logins, by table.", "table")

	metricRecalled = newMetric(prometheus.CounterValue, "gateway_authn_verifier_cache_total", "Logins where the verifier cache was looked at, by what came of it.", "result")
	metricKnown    = newMetric(prometheus.GaugeValue, "gateway_authn_verifier_cache_entries", "Accounts in the verifier cache, by tier.", "tier")
	metricAppPass  = newMetric(prometheus.GaugeValue, "gateway_authn_app_passwords", "App passwords there are.")

	loginMetrics = []metric{metricHeldOff, metricRepeated, metricSpraying, metricRemember, metricRecalled, metricKnown, metricAppPass}
)

// collect puts the figures of logins.
func (l *logins) collect(put func(metric, float64, ...string)) {
	if l == nil {
		return
	}
	c := l.memory.Counts()
	for by, n := range map[string]uint64{"account": c.HeldAccount, "client": c.HeldPair, "network": c.HeldNetwork, "spraying": c.HeldSpraying} {
		put(metricHeldOff, float64(n), by)
	}
	put(metricRepeated, float64(c.Repeated))
	put(metricSpraying, float64(c.SprayingSource), "source")
	put(metricSpraying, float64(c.SprayingPassword), "password")
	for table, n := range l.memory.Sizes() {
		put(metricRemember, float64(n), table)
	}
	known := l.recall.Counts()
	for result, n := range map[string]uint64{"fresh": known.Fresh, "offline": known.Offline, "asked": known.Asked, "dropped": known.Dropped} {
		put(metricRecalled, float64(n), result)
	}
	memory, disk := l.recall.Len()
	put(metricKnown, float64(memory), "memory")
	put(metricKnown, float64(disk), "disk")
	put(metricAppPass, float64(l.apps.Count()))
}

// takeOver puts the settings of another configuration in force.
func (l *logins) takeOver(f *config.File) error {
	l.recall.Configure(f.Cache.Room())
	return l.memory.Configure(f.LoginMemory())
}

// tasks are what runs while the process does, after everything that logs
// people in has ended.
func (l *logins) tasks() phase {
	return phase{{"memory of logins", l.memory.Run}, {"app passwords", l.apps.Run}, {"verifier cache", l.recall.Run}}
}

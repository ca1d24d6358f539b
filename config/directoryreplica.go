package config

import (
	"fmt"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/replica"
)

// The words of replica.
const (
	replicaAuto = "auto"
	replicaOn   = "on"
	replicaOff  = "off"
)

// Replicated reports whether the directory is one of which a copy may be kept.
// Where aliases of the directory are followed its servers alone know what
// stands where.
func (d *Directory) Replicated() bool {
	return d.Kind == DirectoryLDAP && d.Replica != replicaOff && (d.Dereference == "" || d.Dereference == "never")
}

// ReplicaRoom returns what is copied of a directory whose entries mean what
// cfg says, and how its servers are followed.
func (d *Directory) ReplicaRoom(cfg directory.Config) (replica.Config, ldap.FeedConfig, error) {
	needs, err := cfg.Coverage()
	if err != nil {
		return replica.Config{}, ldap.FeedConfig{}, err
	}
	for _, t := range d.Tables {
		if _, own := t.LDAP(d); own {
			continue
		}
		more, err := t.Room(d.Base).Coverage()
		if err != nil {
			return replica.Config{}, ldap.FeedConfig{}, fmt.Errorf("table %q: %w", t.Name, err)
		}
		needs = needs.With(more)
	}
	r := replica.Config{
		Name: d.Name, Needs: needs, Source: d.LDAP().Key(), MaxAge: d.ReplicaMaxAge, MaxStale: d.ReplicaMaxStale,
		ShrinkPercent: d.ReplicaShrink, MaxEntries: d.ReplicaMaxEntries,
	}
	f := ldap.FeedConfig{
		Needs: needs, Mode: d.ReplicaMode, PollOtherwise: d.Replica == replicaOn, RefreshInterval: d.ReplicaRefresh,
		PollInterval: d.ReplicaPoll, Heartbeat: d.ReplicaHeartbeat,
	}
	return r, f, nil
}

// directoryReplica checks the settings of a directory's copy.
func (c checker) directoryReplica(d *Directory) {
	if d.Replica == replicaOn && d.Kind != DirectoryLDAP {
		c.errorf(d.rangeOf("replica"), "Not for this kind", "a directory of kind %s is held in memory anyway; replica is for kind ldap.", d.Kind)
	}
	if d.Replica == replicaOn && d.Dereference != "" && d.Dereference != "never" {
		c.errorf(d.rangeOf("replica"), "Contradiction", `a replica cannot follow aliases of the directory: set dereference = "never", or replica = "off".`)
	}
	atLeast := func(name string, v, least time.Duration) {
		if v < least {
			c.errorf(d.rangeOf(name), "Too short", "%s is at least %s.", name, formatDuration(least))
		}
	}
	atLeast("replica_poll", d.ReplicaPoll, 100*time.Millisecond)
	atLeast("replica_refresh", d.ReplicaRefresh, 10*time.Second)
	atLeast("replica_heartbeat", d.ReplicaHeartbeat, time.Second)
	atLeast("replica_max_age", d.ReplicaMaxAge, time.Second)
	if d.ReplicaMaxStale < d.ReplicaMaxAge {
		c.errorf(d.rangeOf("replica_max_stale_reject"), "Contradiction", "replica_max_stale_reject (%s) is not below replica_max_age (%s).",
			formatDuration(d.ReplicaMaxStale), formatDuration(d.ReplicaMaxAge))
	}
	if d.ReplicaShrink < 1 || d.ReplicaShrink > 100 {
		c.errorf(d.rangeOf("replica_shrink_percent"), "Wrong value", "replica_shrink_percent is between 1 and 100.")
	}
	if d.ReplicaMaxEntries < 1 {
		c.errorf(d.rangeOf("replica_max_entries"), "Wrong value", "replica_max_entries is at least 1.")
	}
}

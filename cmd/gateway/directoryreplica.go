package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/replica"
	"github.com/postern-mail/postern/store/pebble"
)

// replicas are the copies of directories. They outlive generations: a reload
// that leaves a directory's settings as they were leaves its copy alone.
type replicas struct {
	kv    *pebble.Store  // nil when it cannot be opened: the copies end with the process
	store *replica.Store // nil with kv
	wake  chan struct{}

	mu   sync.Mutex
	made map[string]*replica.Replica // by all that decides what they are
	want []*replica.Replica          // to be kept up to date
}

// replicaDir holds the store of copies.
func replicaDir(f *config.File) string { return filepath.Join(f.DataDir, "directory") }

// openReplicas opens the store of copies. It can be made anew at any time, so
// that one that cannot be opened stops nothing.
func openReplicas(ctx context.Context, f *config.File, log hclog.Logger) *replicas {
	rs := &replicas{wake: make(chan struct{}, 1), made: make(map[string]*replica.Replica)}
	if !slices.ContainsFunc(f.Directories, (*config.Directory).Replicated) {
		return rs
	}
	kv, err := pebble.Open(ctx, pebble.Config{
		Dir: replicaDir(f), ReserveOctets: reserveOf(f, "directory"), CacheOctets: 4 << 20, MemTableOctets: 4 << 20, Private: true,
	}, log.Named("store").With("store", "directory"))
	if err != nil {
		log.Named("directory").Error("the store of directory replicas cannot be opened: they are kept in memory alone; with the server stopped, "+
			"the folder may be removed, and is made anew", "folder", replicaDir(f), "error", err)
		return rs
	}
	rs.kv, rs.store = kv, replica.NewStore(kv)
	return rs
}

// of returns the copy of a directory, the one there is where nothing that
// decides about it changed.
func (rs *replicas) of(ctx context.Context, cfg replica.Config, feed ldap.FeedConfig, client *ldap.Client, log hclog.Logger) (*replica.Replica, error) {
	feed.Needs = cfg.Needs
	key := fmt.Sprintf("%v\n%v", cfg, feed)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r := rs.made[key]; r != nil {
		return r, nil
	}
	r, err := replica.New(ctx, cfg, client.Feed(feed), rs.store, log)
	if err == nil {
		rs.made[key] = r
	}
	return r, err
}

// adopt has the copies of a generation kept up to date, and no others.
func (rs *replicas) adopt(g *generation) {
	rs.mu.Lock()
	rs.want = nil
	for _, s := range g.sources {
		if s.replica != nil {
			rs.want = append(rs.want, s.replica)
		}
	}
	for key, r := range rs.made {
		if !slices.Contains(rs.want, r) {
			delete(rs.made, key)
		}
	}
	rs.mu.Unlock()
	select {
	case rs.wake <- struct{}{}:
	default:
	}
}

// Run keeps the copies up to date until ctx ends.
func (rs *replicas) Run(ctx context.Context) error {
	running := make(map[*replica.Replica]func())
	defer func() {
		for _, stop := range running {
			stop()
		}
	}()
	for {
		rs.mu.Lock()
		want := rs.want
		rs.mu.Unlock()
		// What ends has written its last before what begins writes.
		for r, stop := range running {
			if !slices.Contains(want, r) {
				stop()
				delete(running, r)
			}
		}
		for _, r := range want {
			if running[r] == nil {
				running[r] = runReplica(ctx, r)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rs.wake:
		}
	}
}

// runReplica runs a copy until the returned function is called, which waits for
// its end.
func runReplica(ctx context.Context, r *replica.Replica) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.Run(ctx) // ends with ctx and has no other end
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (rs *replicas) close() error {
	if rs == nil || rs.kv == nil {
		return nil
	}
	return rs.kv.Close()
}

// replicated returns what a directory searches: its copy, and behind it its
// servers, where there may be a copy.
func (b *builder) replicated(cfg *config.Directory, client *ldap.Client, log hclog.Logger) (*replica.Replica, directory.Searcher, error) {
	if b.replicas == nil || !cfg.Replicated() {
		return nil, client, nil
	}
	room, feed, err := cfg.ReplicaRoom(b.file.DirectoryRoom(cfg, b.domainsOf(cfg.Name)))
	if err != nil {
		return nil, nil, err
	}
	r, err := b.replicas.of(context.Background(), room, feed, client, log)
	if err != nil {
		return nil, nil, err
	}
	return r, r.View(client), nil
}

// Metrics of copies of directories.
var (
	metricReplicaAge        = newMetric(prometheus.GaugeValue, "gateway_directory_replica_age_seconds", "Time since the replica was known to be all there is.", "directory")
	metricReplicaGeneration = newMetric(prometheus.CounterValue, "gateway_directory_replica_generation", "Changes of the replica's content.", "directory")
	metricReplicaEntries    = newMetric(prometheus.GaugeValue, "gateway_directory_replica_entries", "Entries in the replica; 0 while there is none.", "directory")
	metricReplicaRefreshed  = newMetric(prometheus.GaugeValue, "gateway_directory_replica_refreshed_seconds", "Unix time of the last refresh.", "directory")
	metricReplicaConnected  = newMetric(prometheus.GaugeValue, "gateway_directory_replica_connected", "1 while the directory's servers are followed.", "directory")
	metricReplicaHeld       = newMetric(prometheus.GaugeValue, "gateway_directory_replica_quarantined", "1 while so many entries are gone that an operator must say whether that is meant.", "directory")
	metricReplicaReconnects = newMetric(prometheus.CounterValue, "gateway_directory_replica_reconnects_total", "Sessions with the directory's servers that ended.", "directory")
	metricReplicaStored     = newMetric(prometheus.GaugeValue, "gateway_directory_replica_stored", "1 while the replica would survive a restart.", "directory")

	replicaMetrics = []metric{
		metricReplicaAge, metricReplicaGeneration, metricReplicaEntries, metricReplicaRefreshed, metricReplicaConnected, metricReplicaHeld,
		metricReplicaReconnects, metricReplicaStored,
	}
)

// putReplicas puts the figures of the copies.
func (g *generation) putReplicas(put func(metric, float64, ...string)) {
	for name, s := range g.sources {
		if s.replica == nil {
			continue
		}
		st := s.replica.Status()
		put(metricReplicaEntries, float64(st.Entries), name)
		put(metricReplicaGeneration, float64(st.Generation), name)
		put(metricReplicaConnected, truth(st.Connected), name)
		put(metricReplicaHeld, truth(st.Quarantine != nil), name)
		put(metricReplicaReconnects, float64(st.Reconnects), name)
		if st.Ready {
			put(metricReplicaAge, st.Age.Seconds(), name)
			put(metricReplicaRefreshed, float64(st.LastRefresh.Unix()), name)
			put(metricReplicaStored, truth(st.Stored && st.StoreError == ""), name)
		}
	}
}

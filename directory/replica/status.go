package replica

import "time"

// The modes of a replica that no feed is in.
const (
	modeConnecting = "connecting"
	modeQuery      = "query" // the servers offer nothing to follow
)

// Status is how a replica does.
type Status struct {
	Name string
	// Mode is how changes come: sync, dirsync, poll; query where the servers
	// are asked each time, connecting before that is known.
	Mode   string
	Server string // followed last
	// Connected is true while the servers are followed.
	Connected  bool
	Refreshing bool
	// Ready is true when the replica answers.
	Ready      bool
	Generation uint64
	Entries    int
	Octets     int64 // of the entries in memory, without their index
	// Age is the time since what is served was all there is.
	Age         time.Duration
	LastRefresh time.Time
	Refreshes   uint64
	Changes     uint64 // single ones, outside of refreshes
	Reconnects  uint64
	Error       string // of the last session; "" while one goes well
	ErrorAt     time.Time
	// Stored is true when there is a store; StoreError tells why the replica
	// would not survive a restart all the same.
	Stored     bool
	StoreError string
	Quarantine *Quarantine
}

// Quarantine is a refresh that waits for an operator.
type Quarantine struct {
	Since               time.Time
	Gone, Before, After int // entries
}

// Status returns how the replica does.
func (r *Replica) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.status
	st.Name, st.Generation = r.cfg.Name, r.generation.Load()
	if set := r.live.Load(); set != nil {
		st.Ready, st.Entries, st.Octets = true, set.Len(), set.Octets()
		st.Age = max(time.Since(r.synced), 0)
	}
	if q := st.Quarantine; q != nil {
		held := *q
		st.Quarantine = &held
	}
	if r.keep != nil {
		st.Stored, st.StoreError = true, r.keep.failure()
	}
	return st
}

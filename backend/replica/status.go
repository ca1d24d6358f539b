package replica

import (
	"cmp"
	"context"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// AccountState is what a node tells of one account.
type AccountState struct {
	Name  string
	GUID  mailstore.GUID
	State string // of the attachment, or why there is none
	// Home is the class that gives out the account's UIDs.
	Home     uint8
	Attached bool
	// Operations are those of this node that the partner has not confirmed,
	// Octets how much of them is under way, Since when that began.
	Operations uint64
	Octets     int
	Since      time.Time
	// Waits is how many answers wait for the partner.
	Waits int
	// Success is when the partner last had everything, as far as this process
	// knows. Full is the last time that everything was compared.
	Success, Full time.Time
	Verified      Verification
	// Failure is what went wrong last, since the last success.
	Failure  string
	FailedAt time.Time
	Tries    int
	// Paused and Quarantine tell why an account is left out; Stale that it is
	// older here than the partner knows.
	Paused     bool
	Quarantine string
	Stale      bool
	// Blocked: there is no room here; PeerBlocked: there.
	Blocked, PeerBlocked bool
	// Merging: everything is being compared.
	Merging bool
	// Waiting is how many of the partner's records wait here for their bodies.
	Waiting int
}

// show tells where the channel stands.
func (c *Channel) show(name string) AccountState {
	s := AccountState{
		Name: name, GUID: c.id, State: c.state.String(), Home: c.home.Class, Attached: c.state == Attached,
		Octets: c.tx.flightOctets, Tries: max(c.tries, c.rx.tries), Paused: c.paused, Quarantine: c.poisoned, Stale: c.stale,
		Blocked: c.rx.blocked, PeerBlocked: c.tx.peerBlocked, Merging: c.pull.active(), Waiting: len(c.rx.held),
		Success: c.tx.success, Since: c.tx.since,
	}
	if c.tx.own > c.tx.acked {
		s.Operations = c.tx.own - c.tx.acked
	}
	switch {
	case c.paused:
		s.State = "paused"
	case c.poisoned != "":
		s.State = "quarantined"
	case c.stale, c.peerIs:
		s.State = "stale"
	case s.Blocked, s.PeerBlocked:
		s.State = "blocked"
	case s.Merging:
		s.State = "merging"
	}
	return s
}

// Lag is how far the partner is behind this node. That of Status is over all
// accounts, that of the metrics over those in exchange.
type Lag struct {
	Operations uint64
	Octets     int64
	Age        time.Duration // of the oldest
	Accounts   int
	Attached   int
}

func (n *Node) lag() Lag {
	var l Lag
	now := n.now()
	for _, r := range n.all() {
		s := r.state()
		l.add(&s, now)
	}
	return l
}

func (l *Lag) add(s *AccountState, now time.Time) {
	l.Operations += s.Operations
	l.Octets += int64(s.Octets)
	if s.Operations > 0 {
		l.Accounts++
		if !s.Since.IsZero() {
			l.Age = max(l.Age, now.Sub(s.Since))
		}
	}
	if s.Attached {
		l.Attached++
	}
}

// state returns what was last shown of the account.
func (r *runner) state() AccountState {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.shown
	s.Name, s.GUID, s.Waits = r.name, r.id, len(r.waiters)
	if s.Operations == 0 && r.committed > r.acked && !r.down && r.scheduled {
		s.Operations, s.Since = r.committed-r.acked, r.node.now()
	}
	return s
}

// Status is what a node tells of itself. The first seven are the counters of
// doveadm replicator status.
type Status struct {
	QueuedSync       int // accounts that an answer waits for
	QueuedHigh       int // with operations that the partner has not confirmed
	QueuedLow        int // that wait for the link, or to be attached
	QueuedFailed     int // that failed and are tried again just now
	QueuedFullResync int // whose whole state is compared
	WaitingFailed    int // that failed and wait, are paused or in quarantine
	KnownUsers       int

	Connected bool
	Since     time.Time
	Partner   Peer
	Mode      string
	// Joining: this node has not all accounts yet. PeerJoining: the partner.
	Joining, PeerJoining bool
	// Stale says why this node does not serve; "" when it does.
	Stale     string
	PausedAll bool
	Lag       Lag
	Bootstrap BootstrapProgress
	Scrub     ScrubProgress
}

// String is the mode's name in the configuration.
func modeName(d Durability) string {
	switch d {
	case mailstore.DurabilityAsync:
		return "async"
	case mailstore.DurabilityStrict:
		return "strict"
	case mailstore.DurabilityShadow:
		return "shadow"
	}
	return "semi-sync"
}

// Status tells how the pair does. It reads the head of every account.
func (n *Node) Status(ctx context.Context) (Status, error) {
	n.mu.Lock()
	s := Status{
		Connected: n.link != nil && n.greeted, Since: n.since, Partner: n.lastPeer, Mode: modeName(n.cfg.Mode),
		PeerJoining: n.greeted && n.hello.joining, Stale: n.stale,
	}
	n.mu.Unlock()
	s.PausedAll, _, _ = n.memory.kept()
	s.Joining = n.joining()
	s.Bootstrap = n.strap.progress(n.now())
	s.Scrub = n.scrub.progress()
	rows, err := n.Accounts(ctx, "*")
	for i := range rows {
		s.KnownUsers++
		s.Lag.add(&rows[i], n.now())
		switch row := &rows[i]; row.Priority() {
		case "sync":
			s.QueuedSync++
		case "high":
			s.QueuedHigh++
		case "low":
			s.QueuedLow++
		case "full":
			s.QueuedFullResync++
		case "failed":
			if row.State == Asked.String() || row.State == Pending.String() {
				s.QueuedFailed++ // it is tried again just now
			} else {
				s.WaitingFailed++
			}
		}
	}
	return s, err
}

// Priority is the account's place in the queue, in the words of doveadm
// replicator status, or "full" and "failed".
func (s *AccountState) Priority() string {
	switch {
	case s.Paused, s.Quarantine != "", s.Stale, s.Blocked, s.PeerBlocked, s.Failure != "" && s.Tries > 0:
		return "failed"
	case s.Merging:
		return "full"
	case s.Waits > 0:
		return "sync"
	case s.Operations > 0 && s.Attached:
		return "high"
	case s.Operations > 0:
		return "low"
	}
	return "none"
}

// Accounts tells of every account whose name matches the mask, in which * and ?
// stand for what they do in a shell. In the order of names.
func (n *Node) Accounts(ctx context.Context, mask string) ([]AccountState, error) {
	if mask == "" {
		mask = "*"
	}
	if _, err := path.Match(mask, ""); err != nil {
		return nil, err
	}
	all, paused, poisoned := n.memory.kept()
	var rows []AccountState
	here := make(map[mailstore.GUID]bool)
	err := n.deps.Mail.Heads(ctx, func(head mailstore.Head) error {
		here[head.Account] = true
		if !matches(mask, head.Name) {
			return nil
		}
		s := AccountState{Name: head.Name, GUID: head.Account, State: Unattached.String(), Home: head.Home.Class}
		if r := n.existing(head.Account); r != nil {
			s = r.state()
			if s.State == "" {
				s.State = Unattached.String()
			}
		} else if head.Seq > head.Acked {
			s.Operations, s.Since = head.Seq-head.Acked, head.Time
		}
		if s.Operations > 0 && s.Since.IsZero() {
			s.Since = head.Time // of the last of them, which is all that is kept
		}
		s.Home, s.Name = head.Home.Class, head.Name
		rows = append(rows, s)
		return nil
	})
	for _, r := range n.all() { // those on their way here
		if s := r.state(); !here[s.GUID] && s.Name != "" && matches(mask, s.Name) {
			s.State = cmp.Or(s.State, Unattached.String())
			rows = append(rows, s)
		}
	}
	for i := range rows {
		s := &rows[i]
		s.Verified = n.memory.lastVerified(s.GUID)
		s.Paused = all || paused[s.GUID]
		s.Quarantine = poisoned[s.GUID]
		switch {
		case s.Paused:
			s.State = "paused"
		case s.Quarantine != "":
			s.State = "quarantined"
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	return rows, err
}

// matches is path.Match without the special meaning of the slash.
func matches(mask, name string) bool {
	if mask == "*" {
		return true
	}
	hide := strings.NewReplacer("/", "\x00")
	ok, _ := path.Match(hide.Replace(mask), hide.Replace(name))
	return ok
}

// Sessions tells of the accounts that are busy now, as doveadm replicator
// dsync-status does.
func (n *Node) Sessions() []AccountState {
	var rows []AccountState
	for _, r := range n.all() {
		if s := r.state(); s.Operations > 0 || s.Merging || s.Waiting > 0 || s.State == Pending.String() || s.State == Asked.String() {
			rows = append(rows, s)
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	return rows
}

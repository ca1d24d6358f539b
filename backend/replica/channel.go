package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/mutant"
)

// State is how far an account's attachment has come.
type State uint8

// The states. docs/replication-protocol.md has the table of what leads where.
const (
	Unattached State = iota
	Asked            // the home asked the other node to attach
	Pending          // attach was sent
	Attached
)

func (s State) String() string {
	return [...]string{"unattached", "asked", "pending", "attached"}[s&3]
}

// Limits bounds what a channel has under way. Zero fields mean the defaults.
type Limits struct {
	// WindowOctets and WindowRecords are how much may be sent and not yet
	// acknowledged. Defaults: 1 MiB, 2000.
	WindowOctets, WindowRecords int
	// FrameOctets is what a frame of records and bodies holds, about. Default:
	// 256 KiB.
	FrameOctets int
	// SmallOctets is up to which size a body is sent without being asked for.
	// Default: 64 KiB.
	SmallOctets int64
	// PartOctets is the size of the parts of larger ones. Default: 256 KiB.
	PartOctets int64
	// AnswerTimeout is how long an attachment waits for the partner. Default: 3 s.
	AnswerTimeout time.Duration
	// RetryMin and RetryMax bound the wait before an attachment, or a commit the
	// store refused, is tried again. Defaults: 100 ms, 30 s.
	RetryMin, RetryMax time.Duration
}

func (l Limits) withDefaults() Limits {
	defaultTo(&l.WindowOctets, 1<<20)
	defaultTo(&l.WindowRecords, 2000)
	defaultTo(&l.FrameOctets, 256<<10)
	defaultTo(&l.SmallOctets, 64<<10)
	defaultTo(&l.PartOctets, 256<<10)
	defaultTo(&l.AnswerTimeout, 3*time.Second)
	defaultTo(&l.RetryMin, 100*time.Millisecond)
	defaultTo(&l.RetryMax, 30*time.Second)
	return l
}

func defaultTo[T int | int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// Out is where a channel sends.
type Out interface {
	// Send takes over a frame of the channel's account.
	Send(class Class, kind Kind, payload []byte)
	// Room reports whether more of a class should be sent now. After it said no
	// the owner calls Work again when there is.
	Room(class Class) bool
	// Wake asks for Tick at a time. A later call replaces an earlier one.
	Wake(at time.Time)
}

// Channel is the replication of one account between this node and its partner.
// It is a state machine: its owner gives it what happens, one thing at a time,
// and calls Work until that returns false. It keeps no time but what Tick said.
// Not safe for concurrent use.
type Channel struct {
	id       mailstore.GUID
	name     string
	class    uint8 // this node's
	account  Account
	bodies   Bodies
	out      Out
	events   Events
	limits   Limits
	now      time.Time
	linked   bool
	peer     Peer
	state    State
	wanted   bool   // somebody needs the account attached
	told     uint64 // our last operation as Committed said
	paused   bool
	poisoned string // why it is in quarantine
	stale    bool   // this node's incarnation is
	peerIs   bool   // the partner's is stale
	home     Home
	origin   mailstore.Origin

	// attachment numbers the one in force or under way: the last bit is the
	// class of who began it, so that the two never draw the same.
	attachment uint64
	drawn      uint64
	without    mutant.Rule
	deadline   time.Time // of the answer
	retryAt    time.Time // zero: at once
	tries      int       // attachments that failed since the last good one
	leaving    bool      // the store has not detached yet
	settleAt   time.Time // when the home gives out UIDs even if it has not caught up
	rehomed    uint64    // our operation that made the partner home, until it knows
	early      []Frame   // of an attachment that the home has not confirmed yet

	tx   sending
	rx   receiving
	pull pulling

	verify verifying
}

// ChannelConfig is what a channel is made of.
type ChannelConfig struct {
	ID      mailstore.GUID
	Name    string // of the account
	Class   uint8  // of this node
	Account Account
	Bodies  Bodies
	Out     Out
	Events  Events
	Limits  Limits
	// Drawn is a number above those of all attachments that an earlier channel
	// of the account began over the present link.
	Drawn uint64
	// Without names safety rules to leave out: for simulations only.
	Without mutant.Rule
}

// NewChannel returns the channel of an account, without a link.
func NewChannel(cfg ChannelConfig) *Channel {
	return &Channel{
		id: cfg.ID, name: cfg.Name, class: cfg.Class & 1, account: cfg.Account, bodies: cfg.Bodies, out: cfg.Out,
		events: cfg.Events, limits: cfg.Limits.withDefaults(), drawn: cfg.Drawn, without: cfg.Without,
	}
}

// State returns how far the attachment has come.
func (c *Channel) State() State { return c.state }

// Tick says what time it is. Every input is preceded by one.
func (c *Channel) Tick(now time.Time) { c.now = now }

// LinkUp says that there is a link to the partner.
func (c *Channel) LinkUp(peer Peer) {
	c.linked, c.peer = true, peer
	c.retryAt, c.tries, c.peerIs = time.Time{}, 0, false
}

// LinkDown says that the link is lost: the account goes its own way.
func (c *Channel) LinkDown(ctx context.Context) {
	c.linked = false
	c.leave(ctx)
}

// Want says that the account should be attached while there is a link.
func (c *Channel) Want() { c.wanted = true }

// Committed says that this node has operations of its own up to seq. What it was
// told before has no effect.
func (c *Channel) Committed(seq uint64) {
	if seq > c.told {
		c.told, c.wanted = seq, true
		c.tx.own = max(c.tx.own, seq)
	}
}

// Pause ends the attachment until Resume.
func (c *Channel) Pause(ctx context.Context) {
	c.paused = true
	c.detach(ctx, ReasonPaused, "")
	c.pull.giveUp(errPaused)
}

// Resume undoes Pause and quarantine, and tries at once whatever waits.
func (c *Channel) Resume() {
	c.paused, c.poisoned = false, ""
	c.retryAt, c.tries = time.Time{}, 0
	c.rx.retryAt = time.Time{}
	c.wanted = true
}

// Quarantine ends the attachment until Resume: for who remembers one.
func (c *Channel) Quarantine(ctx context.Context, why string) {
	c.poisoned = why
	c.detach(ctx, ReasonQuarantined, why)
	c.pull.giveUp(c.leftOut())
}

// leftOutError means that an operator must act before an account is replicated.
type leftOutError struct{ why string }

func (e *leftOutError) Error() string { return e.why }

var errPaused = &leftOutError{"the account is paused; see postern replica resume"}

func quarantineError(why string) error {
	return &leftOutError{"the account is in quarantine, see postern replica resume: " + why}
}

// leftOut says why an operator must act before the account is replicated; nil
// when none must.
func (c *Channel) leftOut() error {
	switch {
	case c.paused:
		return errPaused
	case c.poisoned != "":
		return quarantineError(c.poisoned)
	case c.stale, c.peerIs:
		return &leftOutError{"stale incarnation; see postern replica rejoin"}
	}
	return nil
}

// Work does what can be done now. It returns true when there is more to do, so
// that others may have their turn in between. What the store refuses ends the
// attachment for a while.
func (c *Channel) Work(ctx context.Context) (more bool) {
	if c.leaving {
		if c.finishLeaving(ctx); c.leaving {
			return false
		}
	}
	c.tx.age(c.now)
	if !c.linked {
		return false
	}
	c.overdue(ctx)
	switch c.state {
	case Unattached:
		if !c.wanted || !c.mayAttach() {
			return false
		}
		if c.now.Before(c.retryAt) {
			c.out.Wake(c.retryAt)
			return false
		}
		if !c.out.Room(ClassOps) {
			return false // as when all accounts attach at once
		}
		c.begin(ctx, unknownHome)
	case Attached:
		var err error
		if err = c.settle(ctx); err != nil {
			c.again(ctx, err.Error())
			return false
		}
		if more, err = c.work(ctx); err != nil && c.state == Attached {
			c.events.Failed(c.id, "replicate", err)
			c.again(ctx, err.Error())
		}
	}
	return more
}

// settle has the store give out UIDs that it kept back for the partner's sake,
// once it has waited long enough.
func (c *Channel) settle(ctx context.Context) error {
	switch {
	case c.settleAt.IsZero():
		return nil
	case c.now.Before(c.settleAt):
		c.out.Wake(c.settleAt)
		return nil
	}
	c.settleAt = time.Time{}
	return c.account.Acked(ctx, Ack{Seq: c.tx.acked})
}

// work takes its turns at what an attached account has to do.
func (c *Channel) work(ctx context.Context) (more bool, err error) {
	for _, turn := range []func(context.Context) (bool, error){c.receive, c.sendAck, c.sendRecords, c.sendParts, c.workPull, c.turnOver} {
		again, err := turn(ctx)
		if err != nil || c.state != Attached {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

// overdue ends what was not answered.
func (c *Channel) overdue(ctx context.Context) {
	if c.state != Asked && c.state != Pending {
		return
	}
	if c.now.Before(c.deadline) {
		c.out.Wake(c.deadline)
		return
	}
	c.detach(ctx, ReasonTimeout, "")
	c.backOff()
}

func (c *Channel) mayAttach() bool {
	return c.linked && !c.paused && c.poisoned == "" && !c.stale && !c.peerIs
}

// Frame takes in a frame of the account. What the partner does wrong, and what
// the store refuses, ends the attachment for a while.
func (c *Channel) Frame(ctx context.Context, kind Kind, payload []byte) {
	if !c.linked {
		return
	}
	if err := c.frame(ctx, kind, payload); err != nil {
		c.events.Failed(c.id, "take in a frame of the partner", fmt.Errorf("kind %d: %w", kind, err))
		c.again(ctx, err.Error())
	}
}

func (c *Channel) frame(ctx context.Context, kind Kind, payload []byte) error {
	switch kind {
	case KindAsk, KindAttach, KindAccept:
		g, err := parseGreeting(payload)
		if err != nil {
			return err
		}
		return c.greeted(ctx, kind, &g)
	case KindRefuse, KindDetach:
		r, err := parseRefusal(payload)
		if err != nil {
			return err
		}
		c.refused(ctx, kind, r)
		return nil
	}
	attachment, _, err := unstamp(payload)
	if err != nil || c.state < Pending || attachment != c.attachment {
		return err // of an attachment that is over
	}
	if c.state == Pending {
		// It overtook the home's word in another class.
		if len(c.early) >= maxEarly {
			return tooMany(true)
		}
		c.early = append(c.early, Frame{Kind: kind, Payload: payload})
		return nil
	}
	return c.attachedFrame(ctx, kind, payload)
}

// maxEarly bounds the frames that arrive before the home's word.
const maxEarly = 64

// attachedFrame takes in a frame of the attachment in force.
func (c *Channel) attachedFrame(ctx context.Context, kind Kind, payload []byte) error {
	switch kind {
	case KindOps:
		return c.gotRecords(ctx, payload)
	case KindBodies:
		return c.gotBodies(ctx, payload)
	case KindAck:
		return c.gotAck(ctx, payload)
	case KindTruncated:
		return c.gotTruncated(ctx)
	case KindWant:
		return c.gotWant(payload)
	case KindData:
		return c.gotPart(ctx, payload)
	case KindGone:
		return c.gotGone(ctx, payload)
	case KindVerify:
		return c.gotVerify(ctx, payload)
	case KindVerified:
		return c.gotVerified(payload)
	case KindBlocked:
		c.tx.peerBlocked = true
		return nil
	case KindPull, KindState:
		return c.gotState(ctx, kind, payload)
	}
	return nil // of a later version, which knows that we do not know it
}

package mailstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// Partner is what the mail store tells and asks about the other node of a
// pair. Its methods are safe for concurrent use.
type Partner interface {
	// Committed tells of every commit that logged operations of this node, seq
	// being the last. It must not block, nor call the store.
	Committed(account GUID, name string, seq uint64)
	// Durable waits until the partner has the account's own operations up to
	// seq, as the mode asks; nil is an answer of OK to the client.
	Durable(ctx context.Context, account GUID, seq uint64, mode Durability) error
	// Available is asked when a client is about to use the account, which need
	// not exist yet. It says why the client may not now, as a *status.Error that
	// is transient, or nil. It may wait a little, so that the account is attached
	// and its UIDs go on without a gap, and must not call the store itself.
	Available(account GUID, name string) error
	// Fetch brings in a body that is missing or damaged here, by Store.Restore.
	Fetch(ctx context.Context, ref store.Ref) error
}

// Durability says where a change must be before its client is answered.
type Durability uint8

// The modes.
const (
	// DurabilityDefault is what the pair was configured with.
	DurabilityDefault Durability = iota
	// DurabilityAsync: on this node's storage.
	DurabilityAsync
	// DurabilitySemiSync: on both, unless the partner is out of reach or slow.
	DurabilitySemiSync
	// DurabilityStrict: on both, or an error.
	DurabilityStrict
	// DurabilityShadow: on this node's storage; the sender keeps the message
	// until the partner has it. See DeliverKept and WithoutKeeper.
	DurabilityShadow
)

// partnerBox lets the partner be set while others ask for it.
type partnerBox struct{ atomic.Pointer[Partner] }

// SetPartner plugs the partner in, before the store is used.
func (s *Store) SetPartner(p Partner) { s.partner.Store(&p) }

func (s *Store) peer() Partner {
	if p := s.partner.Load(); p != nil {
		return *p
	}
	return nil
}

// MailboxFloor is the highest UID known of in a mailbox.
type MailboxFloor struct {
	Mailbox GUID
	UID     uint32
}

// Digest identifies what an account holds: messages with UIDs and flags, names
// and registers of mailboxes, subscriptions, entries.
type Digest [16]byte

// Position is one consistent picture of where an account stands.
type Position struct {
	// Origin is this node's; Vector has its entry once it logged something.
	Origin Origin
	Vector Vector
	Home   Home
	Floors []MailboxFloor
	// StreamFrom is the first own operation that Journal can still give; when
	// it is above what the partner has and one more, the partner needs a state
	// merge.
	StreamFrom uint64
	Digest     Digest
	// Settled: every message is shown at its highest UID. Only then does equal
	// knowledge make equal digests.
	Settled bool
	// ModSeq is the highest MODSEQ that was given out.
	ModSeq uint64
	// Joined: the account is complete here; see Store.Joining.
	Joined bool
	// Merging: a state merge was begun here and broken off. Another is to follow:
	// until then more is here than Vector says.
	Merging bool
}

// Record is one record of an account's own journal.
type Record struct {
	First, Last uint64
	Raw         []byte
	// Bodies are those of the messages it adds that were not copied from
	// another message of the account.
	Bodies []store.Ref
}

// Ack is what is durable at the partner.
type Ack struct {
	// Seq is up to which it applied operations of this node.
	Seq    uint64
	Floors []MailboxFloor
	// ModSeq, unless 0, is one of the partner's: whoever was told it knows what
	// Vector covers.
	ModSeq uint64
	Vector Vector
}

// Applied is what applying records did, durably.
type Applied struct {
	// Seq is this node's own last operation, Vector what it applied.
	Seq    uint64
	Vector Vector
	// Floors are those of the mailboxes that were touched, for the Ack.
	Floors []MailboxFloor
	// ModSeq is for the Ack: 0 when the account is not settled.
	ModSeq    uint64
	Digest    Digest
	Settled   bool
	Conflicts []Conflict
}

// Conflict is one that was resolved, for audit and metrics.
type Conflict struct {
	// Kind is one of a closed set: see the constants.
	Kind ConflictKind
	// Mailbox is its name now.
	Mailbox string
	Detail  string
}

// ConflictKind is a kind of conflict.
type ConflictKind string

// The kinds of conflicts.
const (
	// ConflictRenumbered: a message got another UID.
	ConflictRenumbered ConflictKind = "renumbered"
	// ConflictTwins: one delivery had reached both nodes.
	ConflictTwins ConflictKind = "twins"
	// ConflictFlags: flags changed on both nodes at the same time.
	ConflictFlags ConflictKind = "flags"
	// ConflictDeleted: a mailbox that was deleted keeps messages that the one
	// who deleted it had not seen.
	ConflictDeleted ConflictKind = "deleted"
	// ConflictName: a mailbox got another name because of one with the same.
	ConflictName ConflictKind = "name"
	// ConflictMerged: two mailboxes that were made under one name became one.
	ConflictMerged ConflictKind = "merged"
	// ConflictCycle: mailboxes were each moved below the other.
	ConflictCycle ConflictKind = "cycle"
	// ConflictEntry: an entry was changed on both nodes at the same time.
	ConflictEntry ConflictKind = "entry"
)

// What Apply and Journal refuse; test with errors.Is.
var (
	// ErrTruncated: the journal does not reach back that far.
	ErrTruncated = errors.New("the journal does not reach back that far")
	// ErrGap: records are missing before these.
	ErrGap = errors.New("journal records are missing")
	// ErrChain: the partner's history is not the one known here.
	ErrChain = errors.New("hash chain of the journal differs")
	// ErrMalformed: a record cannot be read or applied, ever.
	ErrMalformed = errors.New("journal record cannot be applied")
)

// Gone are bodies that the partner does not have any more, as it expunged the
// messages, each with the last of its operations that this is true of: it was
// asked for the body when that one was here. What it added since has the body
// again.
type Gone map[store.Hash]uint64

// covers reports whether the message that an operation of a record from first on
// adds with such a body was expunged.
func (g Gone) covers(hash store.Hash, first uint64) bool {
	last, ok := g[hash]
	return ok && first <= last
}

// MissingBodies is the error of records whose bodies are not here.
type MissingBodies struct{ Refs []store.Ref }

func (e *MissingBodies) Error() string { return fmt.Sprintf("%d bodies are missing", len(e.Refs)) }

// Replica is a handle on one account for the exchange with the partner. It is
// small, and keeps nothing of the account in memory between calls but, during a
// state merge of the partner's, some 40 octets for each message of one mailbox. It is safe
// for concurrent use; calls that change something should come one at a time.
type Replica struct {
	store *Store
	id    GUID
	name  string
	cache indexCache
}

// Replica returns a handle on the account with that identity, which need not
// exist yet; then name must be its name. ErrMalformed when they do not belong
// together.
func (s *Store) Replica(ctx context.Context, id GUID, name string) (*Replica, error) {
	r := &Replica{store: s, id: id, name: name}
	if name == "" {
		err := s.kv.View(ctx, func(snap store.Snapshot) (err error) {
			r.name, err = readAccountName(snap, id)
			return err
		})
		if err != nil {
			return nil, s.failure("open account", err)
		}
	}
	if accountGUID(r.name) != id {
		return nil, fmt.Errorf("%w: account %s is not %q", ErrMalformed, id, r.name)
	}
	return r, nil
}

// Close gives the handle back.
func (r *Replica) Close() { r.cache.drop() }

// Name is the account's name.
func (r *Replica) Name() string { return r.name }

// with runs fn on the account, read if need be but not created.
func (r *Replica) with(ctx context.Context, fn func(a *account) error) error {
	a := r.store.hold(r.id, r.name)
	defer r.store.release(a)
	if err := a.open(ctx); err != nil {
		return r.store.failure("open account", err)
	}
	if err := a.sumMailboxes(ctx); err != nil {
		return err
	}
	return fn(a)
}

// Position tells where the account stands.
func (r *Replica) Position(ctx context.Context) (p Position, err error) {
	err = r.with(ctx, func(a *account) error {
		return a.changeAlone(ctx, func(t *txn) error {
			p, err = t.position()
			return err
		})
	})
	return p, err
}

// Missing returns those bodies that are not in this store.
func (r *Replica) Missing(ctx context.Context, refs []store.Ref) ([]store.Ref, error) {
	var missing []store.Ref
	for _, ref := range refs {
		body, err := r.store.blobs.Open(ctx, ref)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			// Damaged is as good as missing: what comes is compared by its hash.
			missing = append(missing, ref)
			continue
		}
		if err := body.Close(); err != nil {
			return nil, r.store.failure("look for a body", err)
		}
	}
	return missing, nil
}

// Journal returns own records from the one that holds or follows the operation
// behind after, in order, some octets at most but one record at least; none
// when there is nothing more. ErrTruncated.
func (r *Replica) Journal(ctx context.Context, after uint64, maxOctets int) ([]Record, error) {
	var records []Record
	prefix := accountKey(r.id, kindJournal)
	octets := 0
	next := after + 1
	err := r.store.kv.View(ctx, func(snap store.Snapshot) error {
		h, err := readHead(snap, r.id)
		if err != nil || after >= h.seq {
			return err
		}
		if next < h.streamFrom || h.origin != r.store.origin {
			return ErrTruncated
		}
		for pair, err := range snap.Range(numberKey(prefix, next), above(prefix), 0, false) {
			if err != nil {
				return err
			}
			if octets += len(pair.Value); octets > maxOctets && len(records) > 0 {
				return nil
			}
			record, err := openRecord(pair.Value)
			if err != nil {
				return fmt.Errorf("own journal behind %d: %w", next-1, err)
			}
			if record.First != next {
				return ErrTruncated
			}
			next = record.Last + 1
			records = append(records, record)
		}
		if len(records) == 0 {
			return ErrTruncated
		}
		return nil
	})
	if errors.Is(err, ErrTruncated) {
		return nil, err
	}
	return records, r.store.failure("read journal", err)
}

// openRecord copies a journal record and finds the bodies it needs.
func openRecord(raw []byte) (Record, error) {
	raw = append([]byte(nil), raw...)
	r, err := DecodeJournal(raw)
	if err != nil {
		return Record{}, err
	}
	out := Record{First: r.First, Last: r.Last(), Raw: raw}
	for i := range r.Ops {
		if op := &r.Ops[i]; op.Code == OpAdd && op.Source == (Dot{}) {
			out.Bodies = append(out.Bodies, op.Message.Body)
		}
	}
	return out, nil
}

// unavailable is the answer to clients of an account that is not complete here.
func unavailable(why string) error {
	return status.Errorf(status.ServerBusy, "%s", why)
}

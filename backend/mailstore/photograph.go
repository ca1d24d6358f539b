package mailstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/store"
)

// Photo is an account as it was at one instant, without what is in it.
type Photo struct {
	Name    string
	Account GUID
	// Position names the state: another one has another Position.
	Position string
	// Vector is where the account's journals stood.
	Vector Vector
	// ModSeq is the highest that was given out, LastUIDValidity the highest of
	// those taken from the clock.
	ModSeq          uint64
	LastUIDValidity uint32
	Octets          int64
}

// PhotoMailbox is a mailbox as it was.
type PhotoMailbox struct {
	MailboxInfo
	UIDValidity   uint32
	UIDNext       imap.UID
	HighestModSeq uint64
	// Messages counts those with a UID, Pending those that had to wait for one.
	Messages, Pending int
	// Buried: it was deleted, and is known so that its identity is not used
	// twice. Nothing else of it counts.
	Buried bool
}

// PhotoMessage is a message as it was. Its UID is 0 while it waited for one.
type PhotoMessage struct {
	Message
	Mailbox GUID
	// TraceHeader stands before the shared body.
	TraceHeader []byte
	// Delivery is set for one that came by a delivery which is remembered until
	// Expires.
	Delivery *PhotoDelivery
}

// PhotoDelivery is a delivery that is not made again.
type PhotoDelivery struct {
	Mark    []byte
	Expires time.Time
}

// Photographer is told what an account holds: the account, then each mailbox
// followed by its messages in the order of UIDs, those without one last, then
// the rest. What it is given is its own, but for the message, which is used
// again. An error ends it and is returned.
type Photographer struct {
	Account      func(Photo) error
	Mailbox      func(PhotoMailbox) error
	Message      func(*PhotoMessage) error
	Subscription func(name string) error
	Entry        func(Entry) error
	// Delivery is one whose message is gone.
	Delivery func(PhotoDelivery) error
}

// Photograph tells p all that an account holds, at one instant: nothing that
// its journal carries is left out. What is derived is: structures, indexes. The
// account is not opened for it, nor kept from being changed meanwhile; p should
// not dawdle, for the store keeps what is replaced meanwhile as long as this
// takes. ErrNoAccount, ErrRestoring, StoreDown, or an error of p.
func (s *Store) Photograph(ctx context.Context, account GUID, p Photographer) error {
	var ours error
	err := s.kv.View(ctx, func(snap store.Snapshot) error {
		c := camera{ctx: ctx, snap: snap, id: account, to: p}
		err := c.take()
		if c.refused != nil {
			ours = c.refused
			return nil
		}
		return err
	})
	if ours != nil {
		return ours
	}
	return s.failure("photograph account", err)
}

// Position is that of an account's Photo as it would be now; ErrNoAccount.
func (s *Store) Position(ctx context.Context, account GUID) (position string, err error) {
	err = s.kv.View(ctx, func(snap store.Snapshot) error {
		value, err := snap.Get(accountKey(account, kindHead))
		if errors.Is(err, store.ErrNotFound) {
			return ErrNoAccount
		}
		position = positionOf(value)
		return err
	})
	return position, s.failure("read account head", err)
}

// positionOf names a state by the head's record, which every commit replaces.
func positionOf(headRecord []byte) string {
	sum := sha256.Sum256(headRecord)
	return hex.EncodeToString(sum[:16])
}

// camera takes one Photograph.
type camera struct {
	ctx     context.Context
	snap    store.Snapshot
	id      GUID
	to      Photographer
	refused error // by to

	deliveries map[Dot]*PhotoDelivery
}

func (c *camera) tell(err error) error {
	if err == nil {
		err = c.ctx.Err()
	}
	c.refused = err
	return err
}

func (c *camera) take() error {
	value, err := c.snap.Get(accountKey(c.id, kindHead))
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoAccount
	} else if err != nil {
		return err
	}
	h, err := decodeHead(value)
	if err != nil {
		return err
	}
	photo := Photo{
		Account: c.id, Position: positionOf(value), Vector: h.vector(), LastUIDValidity: h.lastUIDValidity, Octets: h.octets,
		ModSeq: h.modseqs<<1 | 1,
	}
	if photo.Name, err = readAccountName(c.snap, c.id); errors.Is(err, store.ErrNotFound) {
		return ErrNoAccount
	} else if err != nil {
		return err
	}
	if run, err := readRestoring(c.snap, c.id); err != nil || run != "" {
		return cmpError(err, fmt.Errorf("account %q: %w", photo.Name, ErrRestoring))
	}
	if err := c.tell(c.to.Account(photo)); err != nil {
		return err
	}
	return c.contents()
}

// cmpError is the first of two that is one.
func cmpError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func (c *camera) contents() error {
	records, subscriptions := make(map[GUID]mailboxRecord), make(map[string]subscription)
	if _, err := readTree(c.snap, c.id, records, subscriptions); err != nil {
		return err
	}
	if err := c.readDeliveries(); err != nil {
		return err
	}
	var list []GUID
	for id := range records {
		list = append(list, id)
	}
	slices.SortFunc(list, func(x, y GUID) int { return bytes.Compare(x[:], y[:]) })
	for _, id := range list {
		if err := c.mailbox(id, records[id]); err != nil {
			return fmt.Errorf("mailbox %q: %w", records[id].name, err)
		}
	}
	for name, sub := range subscriptions {
		if !sub.on {
			continue
		}
		if err := c.tell(c.to.Subscription(name)); err != nil {
			return err
		}
	}
	if err := c.entries(records); err != nil {
		return err
	}
	for _, d := range c.deliveries {
		if err := c.tell(c.to.Delivery(*d)); err != nil {
			return err
		}
	}
	return nil
}

// each calls look for what has a key with prefix, which look is not given.
func (c *camera) each(prefix []byte, look func(rest, value []byte) error) error {
	for pair, err := range c.snap.Range(prefix, above(prefix), 0, false) {
		if err != nil {
			return err
		}
		if err := look(pair.Key[len(prefix):], pair.Value); err != nil {
			return err
		}
	}
	return nil
}

func (c *camera) readDeliveries() error {
	c.deliveries = make(map[Dot]*PhotoDelivery)
	lone := uint64(0) // for those that the first release did not keep the message of
	return c.each(accountKey(c.id, kindDelivery), func(rest, value []byte) error {
		d, err := decodeDelivery(value)
		if err != nil {
			return err
		}
		if len(rest) != len(deliveryMark{}) {
			return nil
		}
		if d.dot == (Dot{}) || c.deliveries[d.dot] != nil {
			lone++
			d.dot = Dot{Seq: lone} // no message has an origin of zero
		}
		c.deliveries[d.dot] = &PhotoDelivery{Mark: bytes.Clone(rest), Expires: d.expires}
		return nil
	})
}

func (c *camera) mailbox(id GUID, r mailboxRecord) error {
	err := c.tell(c.to.Mailbox(PhotoMailbox{
		MailboxInfo: MailboxInfo{Name: r.name, GUID: id, SpecialUse: r.use, Subscribed: r.subscribed, Exists: true},
		Buried:      r.removed, UIDValidity: r.uidValidity, UIDNext: r.uidNext, HighestModSeq: r.modseq, Messages: int(r.messages), Pending: int(r.pending),
	}))
	if err != nil || r.removed {
		return err
	}
	blocks := flagBlocks{account: c.id}
	err = c.each(mailboxKey(c.id, kindMessage, id), func(rest, value []byte) error {
		m := PhotoMessage{Mailbox: id}
		if err := decodeMessage(&m.Message, uidOf(rest), value); err != nil {
			return err
		}
		if r.blocks {
			if _, err := blocks.apply(c.snap, id, &m.Message); err != nil {
				return err
			}
		}
		if covers(r.erased, m.Dot) {
			return nil // the sweep's
		}
		return c.message(&m, messageKey(c.id, kindMeta, id, m.UID))
	})
	if err != nil || r.pending == 0 {
		return err
	}
	return c.each(mailboxKey(c.id, kindPending, id), func(_, value []byte) error {
		m := PhotoMessage{Mailbox: id}
		if err := decodeInstance(&m.Message, 0, value); err != nil {
			return err
		}
		if covers(r.erased, m.Dot) {
			return nil
		}
		return c.message(&m, dotKey(c.id, kindPendingMeta, id, m.Dot))
	})
}

func (c *camera) message(m *PhotoMessage, structure []byte) error {
	m.TraceHeader = nil
	if m.Trace() > 0 {
		value, err := c.snap.Get(structure)
		if err != nil {
			return fmt.Errorf("UID %d: %w", m.UID, err)
		}
		if m.TraceHeader, err = traceIn(value); err != nil {
			return fmt.Errorf("UID %d: %w", m.UID, err)
		}
		if int64(len(m.TraceHeader)) != m.Trace() {
			return fmt.Errorf("UID %d: trace header of %d octets, want %d: %w", m.UID, len(m.TraceHeader), m.Trace(), errRecord)
		}
	}
	if m.Delivery = c.deliveries[m.Dot]; m.Delivery != nil {
		delete(c.deliveries, m.Dot)
	}
	return c.tell(c.to.Message(m))
}

// traceIn returns the trace header that a Meta record begins with.
func traceIn(record []byte) ([]byte, error) {
	d := decoder{b: record}
	d.versions(metaVersion)
	d.byte()
	trace := bytes.Clone(d.block())
	if d.bad {
		return nil, fmt.Errorf("message structure: %w", errRecord)
	}
	return trace, nil
}

// entries tells of those of the account and of mailboxes that are there.
func (c *camera) entries(records map[GUID]mailboxRecord) error {
	return c.each(accountKey(c.id, kindEntry), func(rest, value []byte) error {
		e, err := decodeEntry(value)
		if err != nil && isSeenName(rest) && isDamagedSeen(err) {
			return nil // unread
		}
		if err != nil {
			return err
		}
		if len(rest) < entryNameOctets || e.removed {
			return nil
		}
		told := Entry{Space: rest[0], Mailbox: GUID(rest[1:entryNameOctets]), Key: string(rest[entryNameOctets:]), Value: e.value}
		if r, there := records[told.Mailbox]; told.Mailbox != (GUID{}) && (!there || r.removed) {
			return nil
		}
		return c.tell(c.to.Entry(told))
	})
}

// OpenBody opens what is stored of a body; ErrNoMessage when no message has it
// any more. The caller closes it. What is missing or damaged here is fetched
// from the partner, if there is one.
func (s *Store) OpenBody(ctx context.Context, ref store.Ref) (store.Body, error) {
	body, err := s.openBody(ctx, ref)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoMessage
	}
	return body, s.failure("open body", err)
}

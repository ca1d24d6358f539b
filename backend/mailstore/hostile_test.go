package mailstore

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// forge makes a record of the partner's that node n would take next.
func (p *twoNodes) forge(n int, r JournalRecord) []byte {
	p.t.Helper()
	at, err := p.nodes[n].replica.Position(context.Background())
	p.check(err)
	if r.Origin == 0 {
		r.Origin = p.nodes[1-n].store.Origin()
	}
	r.First = at.Vector.Of(r.Origin).Seq + 1
	raw := appendJournalHeader(nil, &r)
	for i := range r.Ops {
		raw = appendJournalOp(raw, &r.Ops[i])
	}
	return sealJournal(raw)
}

// isThere opens a node's account from its storage.
func (p *twoNodes) isThere(n int) {
	p.t.Helper()
	p.nodes[n].account.Close()
	p.start(n)
	box, err := p.nodes[n].account.Mailbox(context.Background(), inbox)
	if err != nil {
		p.t.Fatalf("the account is lost: %v", err)
	}
	box.Close()
	p.nodes[n].add(p.t, inbox, 100)
}

// TestApplyRefusesWhatCannotBeRead: a record that would be stored as one that
// nobody can read again, or be told to clients as it is, is refused as a whole.
func TestApplyRefusesWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.nodes[0].add(t, inbox, 1)
	p.connect()
	p.calm()
	box := openMailbox(t, p.nodes[1].account, inbox)
	ref := box.View().At(0).Body
	mailbox := configuredGUID(accountGUID("kim"), inbox)
	add := func(change func(op *JournalOp)) JournalRecord {
		op := JournalOp{Code: OpAdd, Mailbox: mailbox, Message: Message{UID: 50, Instance: &Instance{Body: ref}}}
		change(&op)
		return JournalRecord{HLC: 1, Ops: []JournalOp{op}}
	}
	for name, r := range map[string]JournalRecord{
		"flags":    add(func(op *JournalOp) { op.Message.Flags = 0xff }),
		"trace":    add(func(op *JournalOp) { op.Trace = []byte("X: " + strings.Repeat("y", MaxTraceOctets) + "\r\n") }),
		"keyword":  add(func(op *JournalOp) { op.Message.Keywords = []string{"a\r\n* BYE"} }),
		"UID":      add(func(op *JournalOp) { op.Message.UID = math.MaxUint32 }),
		"keywords": {HLC: 1, Ops: []JournalOp{{Code: OpFlags, Mailbox: mailbox, SetKeywords: []string{"a b"}}}},
		"UIDs":     {HLC: 1, Ops: []JournalOp{{Code: OpUid, Mailbox: mailbox, Dots: []Dot{{1, 1}}, UIDs: []imap.UID{math.MaxUint32}}}},
		"clock":    {HLC: math.MaxUint64, Ops: []JournalOp{{Code: OpFloor, Mailbox: mailbox, UID: 1}}},
		"home":     {HLC: 1, Ops: []JournalOp{{Code: OpHome, Home: Home{Epoch: 1, Class: 2}}}},
	} {
		if _, err := p.nodes[1].replica.Apply(t.Context(), [][]byte{p.forge(1, r)}, nil, nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.isThere(1)
}

// TestApplyBoundsOrigins: however many origins the partner's records name, the
// account can be opened again.
func TestApplyBoundsOrigins(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	p.nodes[0].create(t, "Work")
	p.connect()
	p.calm()
	work := openMailbox(t, p.nodes[1].account, "Work")
	guid := work.box.guid
	box := configuredGUID(accountGUID("kim"), "Sub")
	refused := 0
	for round := range 3 {
		observed := make([]Dot, maxOrigins/2)
		for i := range observed {
			observed[i] = Dot{Origin(round*maxOrigins + i + 1), 1}
		}
		r := JournalRecord{HLC: 1, Ops: []JournalOp{
			{Code: OpCreate, Mailbox: box, Leaf: "Sub", UIDValidity: 2},
			{Code: OpDelete, Mailbox: guid, Observed: observed},
		}}
		_, err := p.nodes[1].replica.Apply(t.Context(), [][]byte{p.forge(1, r)}, nil, nil)
		if errors.Is(err, ErrMalformed) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("any number of origins was taken")
	}
	p.isThere(1)
}

package mailstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// The hash is the one that others know by this name.
func TestQuickSum(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]uint64{
		"":                          {},
		"hello":                     {0xcbd8a7b341bd9b02, 0x5b1e906a48ae1d19},
		"hello, world":              {0x342fac623a5ebc8e, 0x4cdcbc079642414d},
		"19 Jan 2038 at 3:14:07 AM": {0xb89e5988b737affc, 0x664fc2950231b2cb},
		"The quick brown fox jumps over the lazy dog.": {0xcd99481f9ee902c9, 0x695da1a38987b6e7},
	} {
		s := quickSum([]byte(text))
		if got := [2]uint64{binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:])}; got != want {
			t.Errorf("%q: %x, want %x", text, got, want)
		}
	}
}

// What a change of flags does to a digest at once is what it does in two steps.
func TestQuickSumOfFlags(t *testing.T) {
	t.Parallel()
	mailbox := GUID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	for _, keywords := range [][]string{nil, {"$Work"}} {
		for flags := Flags(0); flags <= allFlags; flags++ {
			m := &Message{UID: imap.UID(flags)<<24 | 0x1234, Dot: Dot{0x1122334455667788, 0x99aabbccddeeff | uint64(flags)<<58}, Flags: flags}
			n := &Message{UID: m.UID, Dot: m.Dot, Flags: allFlags &^ flags, Keywords: keywords}
			if got := len(appendSummed(nil, GUID{}, m)); got != summedOctets {
				t.Fatalf("%d octets", got)
			}
			once := &view{guid: mailbox, mailboxRecord: mailboxRecord{summed: true, quick: true}}
			twice := &view{guid: once.guid, mailboxRecord: once.mailboxRecord}
			once.sumFlags(m, n)
			twice.sum(m, -1)
			twice.sum(n, 1)
			if once.digest != twice.digest || once.digest == ([16]byte{}) {
				t.Errorf("flags %x: %x, want %x", flags, once.digest, twice.digest)
			}
		}
	}
}

// recordIn reads a mailbox's record as it is stored.
func recordIn(t testing.TB, kv store.Store, account string, mailbox GUID) (r mailboxRecord, raw []byte) {
	t.Helper()
	err := kv.View(context.Background(), func(snap store.Snapshot) error {
		value, err := snap.Get(mailboxKey(accountGUID(account), kindMailbox, mailbox))
		if err != nil {
			return err
		}
		raw = slices.Clone(value)
		r, err = decodeMailbox(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, raw
}

// A change of many messages makes a digest a quick one, which is kept through
// all that happens to messages afterwards; every store that is opened here is
// checked at its end.
func TestQuickDigest(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{flagBlockWorth: 4}, kv, blobs)
	box := many(t, s, 40)
	id, uids := box.Info().GUID, uidsOf(box.View())
	setFlags(t, box, uids[:3], FlagsAdd, FlagSeen, "few")
	if r, raw := recordIn(t, kv, "kim", id); r.quick || raw[0] != 2 {
		t.Fatalf("a change of few: quick %v, version %d", r.quick, raw[0])
	}
	setFlags(t, box, uids[1:], FlagsAdd, FlagFlagged)
	if r, raw := recordIn(t, kv, "kim", id); !r.quick || !r.summed || raw[0] != 3 {
		t.Fatalf("a change of many: quick %v, version %d", r.quick, raw[0])
	}
	again := openOn(t, Config{flagBlockWorth: 4}, kv, blobs)
	box = openMailbox(t, openAccount(t, again, "kim"), "INBOX")
	setFlags(t, box, uids[5:6], FlagsSet, FlagDeleted, "one")
	setFlags(t, box, uids[10:20], FlagsAdd, FlagDeleted, "One", "some")
	if _, err := box.Expunge(t.Context(), uids[5:12]); err != nil {
		t.Fatal(err)
	}
	appendMessages(t, again, box, 3)
	if _, err := box.Copy(t.Context(), uids[20:], box); err != nil {
		t.Fatal(err)
	}
	if err := again.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// loseOne takes a message out of the store behind its back, with all that is
// counted but the digest.
func loseOne(t *testing.T, kv store.Store, account string, mailbox GUID, uid imap.UID) {
	t.Helper()
	id := accountGUID(account)
	r, _ := recordIn(t, kv, account, mailbox)
	b := store.NewBatch()
	err := kv.View(t.Context(), func(snap store.Snapshot) error {
		value, err := snap.Get(messageKey(id, kindMessage, mailbox, uid))
		if err != nil {
			return err
		}
		var m Message
		if err := decodeMessage(&m, uid, value); err != nil {
			return err
		}
		h, err := readHead(snap, id)
		if err != nil {
			return err
		}
		h.octets -= m.Octets
		r.octets -= m.Octets
		b.Put(accountKey(id, kindHead), h.encode())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.messages--
	b.Put(mailboxKey(id, kindMailbox, mailbox), r.encode())
	b.Delete(messageKey(id, kindMessage, mailbox, uid))
	b.Delete(messageKey(id, kindMeta, mailbox, uid))
	if _, err := kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// That a message is missing shows in a quick digest, and in the one that is made
// of it for a partner: the mailbox is not whole there either.
func TestQuickDigestOfDamage(t *testing.T) {
	t.Parallel()
	p := &twoNodes{t: t, name: "kim"}
	for n := range p.nodes {
		kv, blobs := storetest.Open(t)
		p.nodes[n] = &side{kv: kv, blobs: blobs}
	}
	kv := p.nodes[0].kv
	s, err := Open(t.Context(), Config{flagBlockWorth: 4, Mailboxes: []ConfiguredMailbox{}}, kv, p.nodes[0].blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	box := many(t, s, 10)
	id := box.Info().GUID
	setFlags(t, box, uidsOf(box.View()), FlagsAdd, FlagSeen)
	loseOne(t, kv, "kim", id, 10)
	const missing = "some may be missing"
	if found := verified(t, s); len(found) != 1 || !strings.Contains(found[0], missing) {
		t.Fatalf("found %q", found)
	}
	p.start(0)
	if _, err := p.nodes[0].replica.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, _ := recordIn(t, kv, "kim", id); r.quick || !r.summed {
		t.Errorf("quick %v, summed %v with a partner", r.quick, r.summed)
	}
	if found := verified(t, p.nodes[0].store); len(found) != 1 || !strings.Contains(found[0], missing) {
		t.Errorf("with a partner found %q", found)
	}
	x, err := p.nodes[0].account.account.readIndex(t.Context(), id)
	if err != nil || x.isWhole() {
		t.Errorf("whole %v, %v", x.isWhole(), err)
	}
}

// A store that was alone, with quick digests and blocks of flags, gets a
// partner: both come to the same.
func TestQuickDigestGetsPartner(t *testing.T) {
	t.Parallel()
	p := &twoNodes{t: t, name: "kim"}
	for n := range p.nodes {
		kv, blobs := storetest.Open(t)
		p.nodes[n] = &side{kv: kv, blobs: blobs}
	}
	s, err := Open(t.Context(), Config{flagBlockWorth: 4, Mailboxes: []ConfiguredMailbox{}}, p.nodes[0].kv, p.nodes[0].blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	box := many(t, s, 30)
	id, uids := box.Info().GUID, uidsOf(box.View())
	setFlags(t, box, uids[3:], FlagsAdd, FlagSeen, "all")
	setFlags(t, box, uids[9:10], FlagsRemove, FlagSeen)
	if r, _ := recordIn(t, p.nodes[0].kv, "kim", id); !r.quick {
		t.Fatal("not quick")
	}
	// What is answered of it before its digest was made anew is nothing that the
	// partner does not understand.
	_, raw := recordIn(t, p.nodes[0].kv, "kim", id)
	told, err := mailboxForPartner(raw)
	if err != nil || told[0] != 2 {
		t.Errorf("the partner is told version %d, %v", told[0], err)
	}
	for n := range p.nodes {
		p.start(n)
	}
	p.connect()
	p.calm()
	m := openMailbox(t, p.nodes[0].account, "INBOX")
	for i := range 3 {
		setFlags(t, m, uids[i*5:], FlagsOp(i%2+1), FlagFlagged, fmt.Sprint("k", i))
	}
	p.calm()
	if got := p.same("INBOX"); len(got) != 30 {
		t.Errorf("%d messages", len(got))
	}
	for n, side := range p.nodes {
		if r, _ := recordIn(t, side.kv, "kim", id); !r.forPartner() {
			t.Errorf("node %d: quick %v, summed %v", n, r.quick, r.summed)
		}
		if err := side.store.Check(t.Context()); err != nil {
			t.Errorf("node %d: %v", n, err)
		}
	}
}

// A keyword is listed as long as one message has it.
func TestKeywordOfSome(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	box := many(t, s, 3)
	uids := uidsOf(box.View())
	setFlags(t, box, uids, FlagsAdd, 0, "todo")
	again := openOn(t, Config{}, kv, blobs)
	box = openMailbox(t, openAccount(t, again, "kim"), "INBOX")
	setFlags(t, box, uids[:2], FlagsRemove, 0, "todo")
	if got := box.View().Keywords(); !slices.Equal(got, []string{"todo"}) {
		t.Errorf("keywords %q while one message has it", got)
	}
	setFlags(t, box, uids[2:], FlagsRemove, 0, "todo")
	if got := box.View().Keywords(); len(got) > 0 {
		t.Errorf("keywords %q that none has", got)
	}
}

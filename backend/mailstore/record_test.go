package mailstore

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/flagset"
	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/store"
)

func sampleMessage() Message {
	return Message{ModSeq: 10, Dot: Dot{7, 9}, Flags: FlagSeen | FlagDraft, Keywords: []string{"$a", "b"}, Instance: &Instance{
		EmailID: GUID{1, 2}, InternalDate: time.Unix(1770000000, 0).UTC(), SaveDate: time.Unix(1770000001, 0).UTC(),
		Octets: 120, Body: store.Ref{Hash: store.Hash{5}, Octets: 100},
	}}
}

func sampleJournal() []byte {
	add := JournalOp{
		Code: OpAdd, Mailbox: GUID{1}, Message: sampleMessage(), Trace: bytes.Repeat([]byte("x"), 20),
		Source: Dot{1, 2}, SourceMailbox: GUID{3}, mark: deliveryMark{8, 20: 9},
	}
	add.Message.UID = 4
	plain := JournalOp{Code: OpAdd, Mailbox: GUID{1}, Message: sampleMessage(), Trace: bytes.Repeat([]byte("x"), 20)}
	ops := []JournalOp{
		add, plain,
		{Code: OpExpunge, Mailbox: GUID{1}, Dots: []Dot{{1, 5}, {1, 6}, {2, 1}}},
		{Code: OpFlags, Mailbox: GUID{1}, Dots: []Dot{{1, 5}}, Set: FlagSeen, Clear: FlagDeleted, SetKeywords: []string{"a"}, ClearKeywords: []string{"b"}},
		{Code: OpCreate, Mailbox: GUID{1}, Parent: GUID{2}, Leaf: "x/y", UIDValidity: 6, SpecialUse: imap.MailboxAttrSent, Subscribed: true},
		{Code: OpMove, Mailbox: GUID{1}, Parent: GUID{2}, Leaf: "z"},
		{Code: OpDelete, Mailbox: GUID{1}, Observed: []Dot{{1, 5}, {2, 9}}},
		{Code: OpSubscribe, Name: "q", Subscribed: true},
		{Code: OpUid, Mailbox: GUID{1}, Dots: []Dot{{1, 5}, {1, 3}, {2, 1}}, UIDs: []imap.UID{7, 9, 8}},
		{Code: OpNeedUid, Mailbox: GUID{1}, Dots: []Dot{{1, 5}}, UID: 77},
		{Code: OpEntry, Mailbox: GUID{1}, Space: SpaceMetadata, Key: "/private/comment", Value: []byte("v")},
		{Code: OpEntry, Space: SpaceACL, Key: "pat", Removed: true},
		{Code: OpHome, Home: Home{Epoch: 3, Class: 1}},
		{Code: OpMerged, Mailbox: GUID{1}, Dots: []Dot{{2, 1}}},
		{Code: OpFloor, Mailbox: GUID{1}, UID: 9},
	}
	r := JournalRecord{Origin: 3 << 48, First: 8, HLC: 77, Known: []Dot{{2, 9}}, ModSeq: 20, Ops: make([]JournalOp, len(ops))}
	b := appendJournalHeader(nil, &r)
	for _, op := range ops {
		b = appendJournalOp(b, &op)
	}
	return sealJournal(b)
}

func TestJournalRoundTrip(t *testing.T) {
	t.Parallel()
	record := sampleJournal()
	r, err := DecodeJournal(record)
	if err != nil {
		t.Fatal(err)
	}
	again := appendJournalHeader(nil, r)
	for i := range r.Ops {
		again = appendJournalOp(again, &r.Ops[i])
	}
	if !bytes.Equal(sealJournal(again), record) {
		t.Error("encoding what was decoded gives another record")
	}
	if r.First != 8 || r.Origin.Node() != 3 || r.Ops[0].Message.Dot != (Dot{3 << 48, 8}) || r.Ops[0].Message.Octets != 120 ||
		!slices.Equal(r.Ops[2].Dots, []Dot{{1, 5}, {1, 6}, {2, 1}}) || r.Last() != 22 {
		t.Errorf("got %+v", r)
	}
	for i := range record {
		damaged := bytes.Clone(record)
		damaged[i] ^= 1
		if _, err := DecodeJournal(damaged); err == nil {
			t.Fatalf("damage at octet %d was not seen", i)
		}
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	t.Parallel()
	h := head{
		seq: 1, hlc: 2, modseqs: 3, lastUIDValidity: 4, octets: 5, chain: [32]byte{6}, origin: 7, streamFrom: 8, acked: 9,
		home: Home{10, 1}, joined: true, unsettled: 11, others: Vector{{Origin: 12, Seq: 13, Chain: [32]byte{14}, Closed: true}, {Origin: 15}},
	}
	if got, err := decodeHead(h.encode()); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("head %+v, %v", got, err)
	}
	r := mailboxRecord{
		name: "x", use: imap.MailboxAttrJunk, subscribed: true, uidValidity: 1, uidNext: 2, modseq: 3,
		messages: 4, unseen: 5, deleted: 6, octets: 7, expungeFloor: 8, allocated: 9, floor: 10, pending: 11, pendingOctets: 12,
		misplaced: 13, parent: GUID{14}, leaf: "y", created: stamp{15, Dot{16, 17}}, subscribing: stamp{18, Dot{19, 20}}, removed: true,
		summed: true, digest: [16]byte{21}, erased: []Dot{{22, 23}}, used: []Dot{{24, 25}},
	}
	if got, err := decodeMailbox(r.encode()); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("mailbox %+v, %v", got, err)
	}
	m := sampleMessage()
	m.UID = 12
	var got Message
	if err := decodeMessage(&got, 12, m.encode()); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("message %+v, %v", got, err)
	}
	m.setMore(more{uid: 13, asked: true, writes: []flagset.Write{{
		Change: flagset.Change{Set: 1, Clear: 2, SetKeywords: []string{"a"}, ClearKeywords: []string{"b"}}, HLC: 5, Dot: flagset.Dot{Origin: 6, Seq: 7},
	}}})
	if err := decodeMessage(&got, 12, m.encode()); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("message %+v, %v", got, err)
	}
	newer := m.encode()
	newer[0]++
	if err := decodeMessage(&got, 12, newer); err == nil {
		t.Error("a newer version was read")
	}
}

func TestMetaRecord(t *testing.T) {
	t.Parallel()
	trace := []byte("Delivered-To: kim\r\n")
	for name, row := range map[string]struct {
		text  string
		whole bool
	}{
		"nested": {"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\nz\r\n--b--\r\n", true},
		"plain":  {"Subject: x\r\n\r\nbody", true},
		"large":  {"Subject: x\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", 900) + "\r\nbody", false},
	} {
		found, err := mime.Scan(strings.NewReader(row.text))
		if err != nil {
			t.Fatal(err)
		}
		record := encodeMeta(trace, found)
		if len(record) > store.MaxValueOctets {
			t.Errorf("%s: %d octets", name, len(record))
		}
		gotTrace, got, err := decodeMeta(record)
		if err != nil || !bytes.Equal(gotTrace, trace) || (got != nil) != row.whole {
			t.Fatalf("%s: %q, %v, %v", name, gotTrace, got, err)
		}
		if got != nil && !reflect.DeepEqual(got, found) {
			t.Errorf("%s: got %+v, want %+v", name, got, found)
		}
	}
}

func FuzzRecords(f *testing.F) {
	m := sampleMessage()
	found, _ := mime.Scan(strings.NewReader("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"))
	h, r := head{seq: 1}, mailboxRecord{name: "x"}
	for _, seed := range [][]byte{
		m.encode(), h.encode(), r.encode(), sampleJournal(), encodeMeta([]byte("A: b\r\n"), found),
		encodeExpunged(time.Unix(1, 0), []imap.UID{1, 5, 1 << 31}, []Dot{{1, 2}}), {recordVersion, metaTraceOnly, 0},
		{flagBlockVersion, 3, 7, 90, 1, 1, 1, 'k', 2, 0, 91, 0, 0},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		if err := decodeMessage(&m, 1, b); err == nil && m.UID != 1 {
			t.Error("UID")
		}
		_, _ = decodeHead(b)
		_, _ = decodeMailbox(b)
		if _, uids, err := decodeExpunged(b); err == nil && !slices.IsSorted(uids) {
			t.Errorf("UIDs %v", uids)
		}
		_, _ = DecodeJournal(b)
		runs, err := decodeFlagBlock(2*flagBlockUIDs, b)
		for i, r := range runs {
			if err == nil && (r.last < r.first || flagBlockOf(r.first) != 2*flagBlockUIDs || flagBlockOf(r.last) != 2*flagBlockUIDs || i > 0 && r.first <= runs[i-1].last) {
				t.Errorf("runs %+v", runs)
			}
		}
		_, _ = DecodeJournal(sealJournal(bytes.Clone(b)))
		if trace, found, err := decodeMeta(b); err == nil && found != nil {
			meta := newMeta(trace, found)
			_, _ = meta.Root.Section([]int{1, 2, 1}, imap.PartSpecifierHeader)
			var less mime.Result
			some, isWhole, err := decodeMetaInto(&less, b, MetaPreview)
			if err != nil || !isWhole || less.Root != nil || !bytes.Equal(some, trace) || !bytes.Equal(less.Envelope, found.Envelope) || !bytes.Equal(less.Preview, found.Preview) {
				t.Errorf("without its parts: %+v, %v", less, err)
			}
		}
	})
}

// TestMessageList compares the persistent list with a plain slice, and that no
// change shows in copies made before.
func TestMessageList(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var list messages
	var plain []*Message
	next := imap.UID(1)
	type copied struct {
		list  messages
		plain []*Message
	}
	var old []copied
	verify := func(list *messages, plain []*Message) {
		t.Helper()
		if list.len() != len(plain) {
			t.Fatalf("%d messages, want %d", list.len(), len(plain))
		}
		for i, want := range plain {
			if list.at(i) != want {
				t.Fatalf("message %d is %v, want %v", i, list.at(i), want)
			}
			if j, found := list.find(want.UID); j != i || !found {
				t.Fatalf("UID %d found at %d", want.UID, j)
			}
		}
		at := list.cursor()
		for uid := imap.UID(1); uid < next+2; uid += imap.UID(1 + random.IntN(700)*random.IntN(2)) {
			i, found := list.find(uid)
			if at.find(uid) != found || found && at.message() != list.at(i) {
				t.Fatalf("a cursor finds UID %d otherwise than at %d, %v", uid, i, found)
			}
		}
		from, n := random.IntN(len(plain)+1), 0
		for some := range list.from(from) {
			for _, m := range some {
				if m != plain[from+n] {
					t.Fatalf("from %d on, message %d is another", from, n)
				}
				n++
			}
		}
		if from+n != len(plain) {
			t.Fatalf("%d messages from %d on of %d", n, from, len(plain))
		}
	}
	for step := range 160 {
		switch random.IntN(4) {
		case 0, 1:
			for range random.IntN(200) {
				m := &Message{UID: next}
				next += imap.UID(1 + random.IntN(3))
				list.append(m)
				plain = append(slices.Clip(plain), m)
			}
		case 2:
			plain = slices.Clone(plain)
			var changed []flagged
			for i := range plain {
				if random.IntN(50) == 0 {
					plain[i] = &Message{UID: plain[i].UID, ModSeq: uint64(step)}
					changed = append(changed, flagged{after: plain[i]})
				}
			}
			list.replace(changed)
		case 3:
			var gone []imap.UID
			lo := random.IntN(len(plain) + 1)
			for _, m := range plain[lo:min(len(plain), lo+random.IntN(300))] {
				if random.IntN(3) > 0 {
					gone = append(gone, m.UID)
				}
			}
			plain = slices.DeleteFunc(slices.Clone(plain), func(m *Message) bool { return slices.Contains(gone, m.UID) })
			list.remove(gone)
		}
		if step%20 == 0 {
			old = append(old, copied{list, slices.Clone(plain)})
			verify(&list, plain)
		}
	}
	for _, c := range old {
		verify(&c.list, c.plain)
	}
	if _, found := list.find(next + 1); found {
		t.Error("found what is not there")
	}
}

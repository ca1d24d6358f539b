package queue

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// sample is a message with everything in it.
func sample(recipients int) *record {
	m := &record{
		arrived: time.UnixMilli(1_700_000_000_123),
		ref:     store.Ref{Hash: store.Hash{1, 2, 31: 3}, Octets: 4711},
		envelope: mail.Envelope{
			ReversePath: mail.MustAddress(`"a b"@a.test`), Body: mail.Body8BitMIME, SMTPUTF8: true,
			DeclaredOctets: 4000, Return: mail.ReturnHeaders, EnvelopeID: "QQ+1",
		},
		receivedFrom: "dns; client.test (192.0.2.1)",
	}
	for i := range recipients {
		if i%50 == 0 {
			m.groups = append(m.groups, nil)
		}
		g := &m.groups[len(m.groups)-1]
		*g = append(*g, mail.Recipient{
			Address: mail.MustAddress(fmt.Sprintf("r%d@b.test", i)), Accepted: mail.MustAddress("list@b.test"),
			Original: "rfc822;list@b.test", Notify: mail.NotifyFailure, Route: mail.Route{Transport: "lmtp", NextHop: "unix:s"},
		})
	}
	(m.groups)[0][0].Accepted = m.groups[0][0].Address
	return m
}

func decodeSample(first []byte, parts [][]byte) (*record, error) {
	return decodeMessage(first, func(n int) ([]byte, error) {
		if n >= len(parts) {
			return nil, store.ErrNotFound
		}
		return parts[n], nil
	})
}

func TestMessageRecord(t *testing.T) {
	t.Parallel()
	for _, recipients := range []int{1, 50, 51, 2000} {
		m := sample(recipients)
		first, parts := encodeMessage(m)
		for i, octets := range append(parts, first) {
			if len(octets) > store.MaxValueOctets {
				t.Errorf("%d recipients: record %d has %d octets", recipients, i, len(octets))
			}
		}
		got, err := decodeSample(first, parts)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%d recipients: %v\ngot  %+v\nwant %+v", recipients, err, got, m)
		}
	}
	small := sample(1)
	small.groups[0][0] = mail.Recipient{Address: mail.MustAddress("bob@b.test"), Accepted: mail.MustAddress("bob@b.test")}
	if first, _ := encodeMessage(small); len(first) > 140 {
		t.Errorf("an ordinary message takes %d octets", len(first))
	}
}

func TestRecordsOfOthers(t *testing.T) {
	t.Parallel()
	short, _ := encodeMessage(sample(3))
	for n := range short {
		if _, err := decodeSample(short[:n], nil); err == nil {
			t.Fatalf("a record of %d octets, cut to %d, is read", len(short), n)
		}
	}
	first, parts := encodeMessage(sample(2000))
	if _, err := decodeSample(append(slices.Clone(first), 0), parts); err == nil {
		t.Error("a record with something behind its end is read")
	}
	if _, err := decodeSample(first, parts[:len(parts)-1]); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without its last part: %v", err)
	}
	newer := slices.Clone(first)
	newer[0] = extendedVersion + 1
	if _, err := decodeSample(newer, parts); err == nil || !strings.Contains(err.Error(), "format 3") {
		t.Errorf("a newer format: %v", err)
	}
	newerPart := append([]byte{extendedVersion}, parts[0][1:]...)
	if _, err := decodeSample(first, append([][]byte{newerPart}, parts[1:]...)); err == nil {
		t.Error("a further record of a newer format is read")
	}
}

// TestExtendedRecord: what the first release could not read makes a record of
// version 2, anything else one that it still reads.
func TestExtendedRecord(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		set     func(e *mail.Envelope)
		version byte
	}{
		"nothing":      {func(*mail.Envelope) {}, 1},
		"8-bit names":  {func(e *mail.Envelope) { e.SMTPUTF8 = true }, 1},
		"REQUIRETLS":   {func(e *mail.Envelope) { e.RequireTLS = true }, 2},
		"TLS-Required": {func(e *mail.Envelope) { e.TLSOptional = true }, 2},
		"urgent":       {func(e *mail.Envelope) { e.Priority = 9 }, 2},
		"leisurely":    {func(e *mail.Envelope) { e.Priority = -9 }, 2},
		"at home":      {nil, 2},
		"submitted":    {func(e *mail.Envelope) { e.Submitter = mail.Submitter{Name: "alice", Source: "corp"} }, 2},
		"all": {func(e *mail.Envelope) {
			e.SMTPUTF8, e.RequireTLS, e.TLSOptional, e.Priority, e.Submitter = true, true, true, 3, mail.Submitter{Name: "a"}
		}, 2},
	} {
		for _, recipients := range []int{1, 2000} {
			m := sample(recipients)
			m.envelope.SMTPUTF8 = false
			if row.set != nil {
				row.set(&m.envelope)
			} else {
				m.groups[0][0].Home, m.groups[len(m.groups)-1][0].Home = mail.HomeOf(0), "mail2.example.com"
			}
			first, parts := encodeMessage(m)
			if first[0] != row.version {
				t.Errorf("%s: a record of version %d, want %d", name, first[0], row.version)
			}
			got, err := decodeSample(first, parts)
			if err != nil || !reflect.DeepEqual(got, m) {
				t.Errorf("%s, %d recipients: %v\ngot  %+v\nwant %+v", name, recipients, err, got, m)
			}
			if ref, err := decodeRef(first); err != nil || ref != m.ref {
				t.Errorf("%s: refers to %v, %v", name, ref, err)
			}
		}
	}
}

// firstReleaseRecord is sample(2) as the first release wrote it.
const firstReleaseRecord = "01f6a1abfef9620102000000000000000000000000000000000000000000000000000000000003e7240361206206612e7465" +
	"737408384249544d494d4501a01f04484452530451512b311c646e733b20636c69656e742e7465737420283139322e302e32" +
	"2e312900010202723006622e7465737400127266633832323b6c69737440622e7465737404046c6d747006756e69783a7302" +
	"723106622e7465737401046c69737406622e74657374127266633832323b6c69737440622e7465737404046c6d747006756e" +
	"69783a73"

// TestRecordOfFirstRelease reads, octet for octet, what the first release wrote.
func TestRecordOfFirstRelease(t *testing.T) {
	t.Parallel()
	written, err := hex.DecodeString(firstReleaseRecord)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeSample(written, nil)
	if want := sample(2); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	if again, _ := encodeMessage(got); !bytes.Equal(again, written) {
		t.Errorf("written again as\n%x\nwhich the first release does not read", again)
	}
}

func TestExtendedRecordOfOthers(t *testing.T) {
	t.Parallel()
	m := sample(1)
	m.envelope.Priority = 7
	short, _ := encodeMessage(m)
	for n := range short {
		if _, err := decodeSample(short[:n], nil); err == nil {
			t.Fatalf("a record of %d octets, cut to %d, is read", len(short), n)
		}
	}
	behind := func(text string) int { return bytes.Index(short, []byte(text)) + len(text) }
	for what, change := range map[string]func(octets []byte){
		"a flag nobody knows":      func(octets []byte) { octets[behind(string(mail.Body8BitMIME))] |= 0x80 },
		"a priority off the scale": func(octets []byte) { octets[behind(m.receivedFrom)] = 10 },
	} {
		octets := slices.Clone(short)
		change(octets)
		if _, err := decodeSample(octets, nil); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestStateRecord(t *testing.T) {
	t.Parallel()
	recipients := sample(50).groups[0]
	s := newGroupState(len(recipients))
	s.attempts, s.due, s.warned = 7, time.UnixMilli(1_700_000_300_000), true
	for i := range s.recipients {
		s.recipients[i] = recipientState{progress: progress(i % 3), owed: i%2 == 0}
		if i%5 > 0 {
			s.recipients[i].last = mail.Outcome{
				Recipient: recipients[i].Address, Class: mail.OutcomeClass(i % 3), FromPeer: i%2 == 0, Relayed: i%3 == 0, Final: i%4 == 0,
				Reply:  status.Reply{Code: 450, Enhanced: [3]int{4, 2, i}, Text: "one\ntwo"},
				Remote: "mx.b.test[192.0.2.7]:25", RemoteMTA: "mx.b.test", At: time.UnixMilli(1_700_000_000_000),
			}
		}
	}
	got, err := decodeState(encodeState(&s), recipients)
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, s)
	}
	for i := range s.recipients {
		s.recipients[i].last.At = time.UnixMilli(1)
		s.recipients[i].last.Reply.Text = strings.Repeat("x", 1<<20)
	}
	if octets := encodeState(&s); len(octets) > store.MaxValueOctets {
		t.Errorf("long replies make a record of %d octets", len(octets))
	}
	if _, err := decodeState(encodeState(&s), recipients[1:]); err == nil {
		t.Error("the state of another group is read")
	}
}

func FuzzMessageRecord(f *testing.F) {
	for _, n := range []int{1, 60, 2000} {
		first, parts := encodeMessage(sample(n))
		f.Add(first, append([]byte(nil), bytes.Join(parts, nil)...))
	}
	extended := sample(3)
	extended.envelope.RequireTLS, extended.envelope.Priority = true, -4
	extended.groups[0][1].Home = mail.HomeOf(1)
	first, _ := encodeMessage(extended)
	f.Add(first, []byte{})
	f.Add([]byte{1, 0, 0xff}, []byte{})
	f.Fuzz(func(t *testing.T, first, part []byte) {
		m, err := decodeMessage(first, func(int) ([]byte, error) { return part, nil })
		if err != nil {
			return
		}
		again, parts := encodeMessage(m)
		got, err := decodeSample(again, parts)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%v\ngot  %+v\nwant %+v", err, got, m)
		}
	})
}

func FuzzStateRecord(f *testing.F) {
	recipients := sample(3).groups[0]
	s := newGroupState(3)
	f.Add(encodeState(&s))
	s.recipients[1].last = later
	s.recipients[1].last.At = time.UnixMilli(5)
	f.Add(encodeState(&s))
	f.Fuzz(func(t *testing.T, octets []byte) {
		s, err := decodeState(octets, recipients)
		if err != nil {
			return
		}
		if _, err := decodeState(encodeState(&s), recipients); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
	})
}

func TestDueKey(t *testing.T) {
	t.Parallel()
	var keys [][]byte
	for _, e := range []dueEntry{
		{0, time.UnixMilli(0), "0", firstAttempt},
		{0, time.UnixMilli(1000), NewID(), firstAttempt},
		{0, time.UnixMilli(1000), NewID(), 0},
		{0, time.UnixMilli(1001), NewID(), 70_000},
		{0, time.UnixMilli(1 << 45), "1", 0},
		{3, time.UnixMilli(7), "2", 1},
	} {
		key := dueKey(e)
		got, ok := parseDueKey(key)
		if !ok || !got.due.Equal(e.due) || got.id != e.id || got.group != e.group || got.shard != e.shard {
			t.Errorf("%+v reads back as %+v, %v", e, got, ok)
		}
		keys = append(keys, key)
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Error("due keys do not sort by time")
	}
	for _, bad := range []string{"", "qd", "qd\x00\x0012345678", "qd\x00\x0012345678\x00\x00\x00\x01", "qd\x00\x0012345678a/b\x00\x00\x00\x01"} {
		if e, ok := parseDueKey([]byte(bad)); ok {
			t.Errorf("%q reads as %+v", bad, e)
		}
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	last := mail.QueueID("")
	for range 5000 {
		id := NewID()
		if len(id) != idOctets || !validID(id) || id <= last {
			t.Fatalf("%q after %q", id, last)
		}
		if strings.ToUpper(string(id)) != string(id) || strings.ContainsAny(string(id), "AEIOU") {
			t.Fatalf("%q has two cases, or vowels", id)
		}
		last = id
	}
}

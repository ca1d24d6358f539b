package queue

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// TestCheck breaks one thing at a time and looks for it, and nothing else, in
// what is found.
func TestCheck(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		damage func(b *store.Batch, m *message)
		want   []FindingKind
	}{
		"nothing":             {func(*store.Batch, *message) {}, nil},
		"garbage":             {func(b *store.Batch, m *message) { b.Put(messageKey(m.id), []byte("\x01garbage")) }, []FindingKind{FoundDamaged}},
		"a part missing":      {func(b *store.Batch, m *message) { b.Delete(partKey(m.id, 0)) }, []FindingKind{FoundDamaged}},
		"a part too many":     {func(b *store.Batch, m *message) { b.Put(partKey(m.id, 7), nil) }, []FindingKind{FoundOrphan}},
		"a bad state":         {func(b *store.Batch, m *message) { b.Put(stateKey(m.id, 0), []byte("\x01")) }, []FindingKind{FoundDamaged}},
		"the first due entry": {func(b *store.Batch, m *message) { b.Delete(m.untriedKey()) }, []FindingKind{FoundNoDue}},
		"another due time": {func(b *store.Batch, m *message) {
			b.Put(dueKey(dueEntry{0, time.Now(), m.id, 0}), nil)
		}, []FindingKind{FoundStale}},
		"on hold and due": {func(b *store.Batch, m *message) { b.Put(holdKey(m.id), nil) }, []FindingKind{FoundStale, FoundCount}},
		"the next due entry": {func(b *store.Batch, m *message) {
			s := newGroupState(len(m.groups[0]))
			s.due = m.arrived.Add(time.Hour)
			b.Put(stateKey(m.id, 0), encodeState(&s))
		}, []FindingKind{FoundNoDue}},
		"the message": {func(b *store.Batch, m *message) { b.Delete(messageKey(m.id)) }, []FindingKind{FoundOrphan, FoundOrphan, FoundCount}},
		"a state and a hold of none": {func(b *store.Batch, _ *message) {
			b.Put(stateKey("NONE", 1), nil)
			b.Put(holdKey("NONE"), nil)
		}, []FindingKind{FoundOrphan, FoundOrphan, FoundCount}},
		"a message counted twice": {func(b *store.Batch, m *message) { count(b, 0, 1, 0) }, []FindingKind{FoundCount}},
		"a hold counted":          {func(b *store.Batch, m *message) { count(b, 0, 0, 1) }, []FindingKind{FoundCount}},
		"a queue without counts":  {func(b *store.Batch, m *message) { b.Delete(layoutKey()) }, nil},
		"other keys": {func(b *store.Batch, _ *message) {
			for _, key := range []string{"qa", "qe1", "qz", "qm!", "qp1", "qr1", "qd1"} {
				b.Put([]byte(key), nil)
			}
		}, slices.Repeat([]FindingKind{FoundUnknown}, 7)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.accept("alice@a.test", "bob@b.test")
			id := r.accept("alice@a.test", manyRecipients()...)
			m := r.stored(id)
			r.write(func(b *store.Batch) { row.damage(b, m) })
			if got := r.findings(); !slices.Equal(got, row.want) {
				t.Errorf("found %q, want %q", got, row.want)
			}
		})
	}
}

// manyRecipients are more than one record holds.
func manyRecipients() (many []string) {
	for i := range 900 {
		many = append(many, strings.Repeat("x", 60)+string(rune('a'+i%26))+"@b.test")
	}
	return many
}

// stored reads a message as it is in the store.
func (r *rig) stored(id mail.QueueID) (m *message) {
	r.t.Helper()
	err := r.kv.View(context.Background(), func(v store.Snapshot) (err error) {
		m, err = r.shards.readMessage(v, id)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// findings returns the kinds of what Check finds, of two messages.
func (r *rig) findings() (kinds []FindingKind) {
	r.t.Helper()
	var messages atomic.Int64
	err := Check(context.Background(), r.kv, r.blobs, func(f Finding) {
		r.t.Log(f)
		kinds = append(kinds, f.Kind)
	}, &messages)
	if err != nil {
		r.t.Fatal(err)
	}
	if n := messages.Load(); n < 1 || n > 3 {
		r.t.Errorf("looked at %d messages", n)
	}
	return kinds
}

// TestCheckFindsLostBody: a message whose content is gone.
func TestCheckFindsLostBody(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	id := r.accept("alice@a.test", "bob@b.test")
	r.write(func(b *store.Batch) { r.blobs.Unlink(b, r.stored(id).ref) })
	if got := r.findings(); !slices.Equal(got, []FindingKind{FoundNoBody}) {
		t.Errorf("found %q", got)
	}
}

// TestReferences: each message counts, also a damaged one as long as its first
// octets are whole; of the others it is told how many there are.
func TestReferences(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	id := r.accept("alice@a.test", manyRecipients()...)
	r.accept("alice@a.test", "bob@b.test") // of the same content
	lost := r.accept("alice@a.test", "bob@b.test")
	want := r.stored(id).ref
	r.write(func(b *store.Batch) {
		b.Delete(partKey(id, 0))
		b.Put(messageKey(lost), []byte("\x01garbage"))
	})
	found := 0
	unreadable, err := References(t.Context(), r.kv, func(ref store.Ref) {
		if ref != want {
			t.Errorf("refers to %v, want %v", ref, want)
		}
		found++
	})
	if err != nil || unreadable != 1 || found != 2 {
		t.Errorf("%d references, %d unreadable, %v", found, unreadable, err)
	}
}

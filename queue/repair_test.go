package queue

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/store"
)

// salvaged is what a test keeps of a Salvage.
type salvaged struct {
	Salvage
	content string
}

// repair runs Repair and returns what was salvaged.
func (r *rig) repair(keep func(Salvage) error) (kept []salvaged, err error) {
	r.t.Helper()
	err = Repair(context.Background(), r.kv, r.blobs, func(s Salvage) error {
		if keep != nil {
			if err := keep(s); err != nil {
				return err
			}
		}
		var content []byte
		if s.Body != nil {
			var err error
			if content, err = io.ReadAll(s.Body); err != nil {
				return err
			}
		}
		kept = append(kept, salvaged{s, string(content)})
		return nil
	}, func(f Finding, how string) { r.t.Logf("%v: %s", f, how) })
	return kept, err
}

// TestRepair: what Check finds is mended and found no more; what a damaged
// message still holds is salvaged, and its body goes with it.
func TestRepair(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		damage func(b *store.Batch, m *message)
		// How many recipients are salvaged with each progress, whether with the
		// content, and what is still found.
		recipients map[string]int
		content    bool
		left       []FindingKind
	}{
		"nothing": {damage: func(*store.Batch, *message) {}},
		"due entry": {damage: func(b *store.Batch, m *message) {
			b.Delete(m.untriedKey())
		}},
		"stale due entry": {damage: func(b *store.Batch, m *message) {
			b.Put(dueKey(dueEntry{0, time.Now(), m.id, 0}), nil)
			b.Put(dueKey(dueEntry{0, time.Now(), "NONE", 0}), nil)
			b.Put(holdKey("NONE"), nil)
		}},
		"damaged part": {damage: func(b *store.Batch, m *message) {
			s := newGroupState(len(m.groups[0]))
			s.recipients[0].progress = delivered
			b.Put(stateKey(m.id, 0), encodeState(&s))
			b.Put(partKey(m.id, 0), []byte("\x01\xff"))
		}, content: true, recipients: map[string]int{"unknown": -1}},
		"damaged state": {damage: func(b *store.Batch, m *message) {
			s := newGroupState(len(m.groups[0]))
			s.recipients[0].progress = delivered
			b.Put(stateKey(m.id, 0), encodeState(&s))
			b.Put(stateKey(m.id, 1), []byte("\x01\xff"))
		}, content: true, recipients: map[string]int{"delivered": 1, "pending": -1, "unknown": -1}},
		"garbage": {damage: func(b *store.Batch, m *message) {
			b.Put(messageKey(m.id), []byte("\x01garbage"))
		}, recipients: map[string]int{"unknown": -1}},
		"message gone": {damage: func(b *store.Batch, m *message) {
			b.Delete(messageKey(m.id))
		}, recipients: map[string]int{"unknown": -1}},
		"newer format": {damage: func(b *store.Batch, m *message) {
			b.Put(messageKey(m.id), []byte{extendedVersion + 1})
		}, left: []FindingKind{FoundDamaged}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.accept("alice@a.test", "bob@b.test")
			id := r.accept("alice@a.test", manyRecipients()...)
			m := r.stored(id)
			r.write(func(b *store.Batch) { row.damage(b, m) })
			kept, err := r.repair(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.findings(); !slices.Equal(got, row.left) {
				t.Errorf("still found %q, want %q", got, row.left)
			}
			got := map[string]int{}
			content := false
			for _, s := range kept {
				content = content || s.content == body
				if s.Queue != id || len(s.Records) == 0 || s.Why == nil {
					t.Errorf("salvaged %+v", s)
				}
				for _, recipient := range s.Recipients {
					got[recipient.Progress]++
				}
			}
			if content != row.content {
				t.Errorf("content salvaged: %v", content)
			}
			for progress, n := range row.recipients {
				if got[progress] == 0 || n > 0 && got[progress] != n {
					t.Errorf("salvaged %v, want %v", got, row.recipients)
				}
			}
			if len(got) != len(row.recipients) {
				t.Errorf("salvaged %v, want %v", got, row.recipients)
			}
			if _, whole := r.show(id); whole != (row.recipients == nil) {
				t.Errorf("the message is there: %v", whole)
			}
		})
	}
}

// TestRepairKeepsWhatItCannotSalvage: a message whose content is unreadable, or
// that the salvage does not take, stays as it is.
func TestRepairKeepsWhatItCannotSalvage(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	id := r.accept("alice@a.test", manyRecipients()...)
	m := r.stored(id)
	r.write(func(b *store.Batch) { b.Delete(partKey(id, 0)) })
	before := r.keys([]byte{tag}, []byte{tag + 1})
	noRoom := errors.New("no room")
	if kept, err := r.repair(func(Salvage) error { return noRoom }); !errors.Is(err, noRoom) || len(kept) > 0 {
		t.Errorf("without room: %v", err)
	}
	if got := r.keys([]byte{tag}, []byte{tag + 1}); !slices.Equal(got, before) {
		t.Errorf("without room: left are %q of %q", got, before)
	}
	r.write(func(b *store.Batch) { r.blobs.Unlink(b, m.ref) })
	if kept, err := r.repair(nil); !errors.Is(err, store.ErrNotFound) || len(kept) > 0 {
		t.Errorf("without content: %v", err)
	}
	if got := r.keys([]byte{tag}, []byte{tag + 1}); !slices.Equal(got, before) {
		t.Errorf("without content: left are %q of %q", got, before)
	}
}

// TestRepairedIsDelivered: a message whose due entry was lost is delivered
// after the repair, and one that shares its body with a salvaged one too.
func TestRepairedIsDelivered(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, func(t *testing.T, r *rig) {
		id := r.accept("alice@a.test", "bob@b.test")
		bad := r.accept("alice@a.test", manyRecipients()...)
		r.write(func(b *store.Batch) {
			b.Delete(r.stored(id).untriedKey())
			b.Delete(partKey(bad, 0))
		})
		if _, err := r.repair(nil); err != nil {
			t.Fatal(err)
		}
		r.reopen()
		r.start()
		time.Sleep(time.Hour)
		attempts := r.transport.attempts()
		if len(attempts) != 1 || !bytes.HasPrefix([]byte(attempts[0].ID), []byte(id)) {
			t.Errorf("attempts: %+v", attempts)
		}
		r.nothingStored()
	})
}

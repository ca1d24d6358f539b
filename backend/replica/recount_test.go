package replica

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// TestVerifyCountsAnew: a message's record is gone from one store without its
// leave. The digests that were kept are still the same; verify tells all the
// same, asked on either server.
func TestVerifyCountsAnew(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	for _, id := range []string{"1", "2"} {
		if err := p.servers[0].deliver(t, "anna", id, message(id, 100)); err != nil {
			t.Fatal(err)
		}
	}
	p.same("anna")
	second := p.servers[1]
	id := mailstore.AccountGUID("anna")
	prefix := append([]byte{'m', 'a'}, id[:]...)
	prefix = append(prefix, 'm')
	var record []byte
	err := store.Scan(t.Context(), second.kv, prefix, append(bytes.Clone(prefix), 0xff, 0xff), 100, func(_ store.Snapshot, key, _ []byte) error {
		record = bytes.Clone(key)
		return nil
	})
	if err != nil || record == nil {
		t.Fatalf("no record of a message: %v", err)
	}
	b := store.NewBatch()
	b.Delete(record)
	if _, err := second.kv.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for i, s := range p.servers {
		var damaged *damagedError
		err := s.Verify(t.Context(), "anna", false, func(v Verified) {
			if v.Same || !errors.As(v.Err, &damaged) || damaged.names != `["INBOX"]` || damaged.where == "here" != (i == 1) {
				t.Errorf("server %d: same %v, %v", i, v.Same, v.Err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if rows, err := s.Accounts(t.Context(), "anna"); err != nil || len(rows) != 1 || rows[0].Verified.At.IsZero() || rows[0].Verified.Same {
			t.Errorf("server %d remembers %+v, %v", i, rows, err)
		}
	}
}

// TestVerifyOfOnePaused does not wait for what will not come.
func TestVerifyOfOnePaused(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{Config: Config{Limits: Limits{AnswerTimeout: time.Hour}}})
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 100)); err != nil {
		t.Fatal(err)
	}
	if err := p.servers[0].Pause(t.Context(), "anna"); err != nil {
		t.Fatal(err)
	}
	for _, whole := range []bool{false, true} {
		err := p.servers[0].Verify(t.Context(), "anna", whole, func(v Verified) {
			if !errors.Is(v.Err, errPaused) {
				t.Errorf("whole %v: %v", whole, v.Err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoRoomForParts: the disk is full where the parts of bodies are kept. That
// is waited for like any other want of room.
func TestNoRoomForParts(t *testing.T) {
	t.Parallel()
	p := newToyPair(t)
	p.nodes[1].account.disk.full = &wrapped{syscall.ENOSPC}
	p.nodes[0].Committed(p.nodes[0].account.commit(bytes.Repeat([]byte("large"), 3000)))
	p.up()
	p.settle(seeded(1))
	if p.nodes[1].state != Attached || !p.nodes[1].rx.blocked || !p.nodes[0].tx.peerBlocked {
		t.Fatalf("state %v, blocked %v, there %v", p.nodes[1].state, p.nodes[1].rx.blocked, p.nodes[0].tx.peerBlocked)
	}
	p.nodes[1].account.disk.full = nil
	p.now = p.now.Add(time.Minute)
	p.settle(seeded(1))
	p.same()
}

type wrapped struct{ error }

func (w *wrapped) Unwrap() error { return w.error }

// A merge that waits for its time does not keep verify from an answer.
func TestVerifyHurriesWhatWaits(t *testing.T) {
	t.Parallel()
	p := newPair(t, testConfig{})
	p.connect()
	if err := p.servers[0].deliver(t, "anna", "1", message("1", 100)); err != nil {
		t.Fatal(err)
	}
	p.same("anna")
	for _, s := range p.servers {
		r := s.runner(mailstore.AccountGUID("anna"), "anna")
		set := make(chan struct{})
		r.do(func(_ context.Context, c *Channel) {
			c.pull.due, c.pull.after = true, time.Now().Add(time.Hour)
			close(set)
		})
		<-set
	}
	err := p.servers[0].Verify(t.Context(), "anna", false, func(v Verified) {
		if !v.Same || v.Err != nil {
			t.Errorf("same %v, %v", v.Same, v.Err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

package mailstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store/storetest"
)

func TestSweepForgetsWhatIsOld(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	content := stage(t, s, message(1))
	defer content.Discard()
	deliver := func(s *Store, id string) {
		t.Helper()
		if err := openAccount(t, s, "kim").Deliver(t.Context(), []Delivery{{ID: id, Content: content}})[0]; err != nil {
			t.Fatal(err)
		}
	}
	deliver(s, "old")
	if _, err := m.StoreFlags(t.Context(), []imap.UID{1}, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	before := m.View().HighestModSeq()
	if _, err := m.Expunge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	count := func(kind byte) int {
		t.Helper()
		records, err := s.page(t.Context(), accountKey(a.account.id, kind), 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(records)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if count(kindJournal) < 4 || count(kindDelivery) != 1 || count(kindExpunged) != 1 {
		t.Fatalf("something young was forgotten: %d journal records", count(kindJournal))
	}
	forgetful := openOn(t, Config{JournalRetention: 1, DeliveryMemory: 1, ExpungeRetention: 1}, kv, blobs)
	deliver(forgetful, "other") // its memory ends at once; that of "old" stays
	testenv.Eventually(t, time.Minute, func() error {
		if err := forgetful.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if count(kindExpunged) > 0 || count(kindDelivery) > 1 || count(kindJournal) > 1 {
			return fmt.Errorf("left: %d journal, %d deliveries, %d expunges", count(kindJournal), count(kindDelivery), count(kindExpunged))
		}
		return nil
	})
	n := openMailbox(t, openAccount(t, forgetful, "kim"), "INBOX")
	if _, complete := n.ExpungedSince(before); complete {
		t.Error("an expunge was forgotten, and the answer says it is complete")
	}
	if uids, complete := n.ExpungedSince(n.View().HighestModSeq()); !complete || len(uids) != 0 {
		t.Errorf("since now: %v, %v", uids, complete)
	}
	deliver(forgetful, "old")
	if got := n.View().Len(); got != 1 {
		t.Errorf("%d messages, want the one of \"other\"", got)
	}
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	sent := openMailbox(t, a, "Sent")
	appendMessages(t, s, sent, 1)
	ref := sent.View().At(0).Body
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if err := a.Delete(t.Context(), "Sent"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		body, err := s.blobs.Open(t.Context(), ref)
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("the deleted mailbox's body is still there"), body.Close())
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLargeHeader keeps a message whose header is too large for the index.
func TestLargeHeader(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	for name, header := range map[string]string{
		"Sent":   strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", 900),
		"Drafts": strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", 9000),
	} {
		text := "Subject: large\r\n" + header + "\r\nbody\r\n"
		content := stage(t, s, text)
		trace := "Delivered-To: kim@example.org\r\n"
		deliveries := slices.Repeat([]Delivery{{Content: content, Mailbox: name, Trace: []byte(trace)}}, 40)
		for _, err := range a.Deliver(t.Context(), deliveries) {
			if err != nil {
				t.Fatal(err)
			}
		}
		content.Discard()
		m := openMailbox(t, a, name)
		meta, err := m.Meta(t.Context(), m.View().At(39))
		if err != nil {
			t.Fatal(err)
		}
		if string(meta.Header) != trace+text[:len(text)-len("body\r\n")] || !strings.Contains(string(meta.Envelope), `"large"`) {
			t.Errorf("%s: header of %d octets, envelope %s", name, len(meta.Header), meta.Envelope)
		}
		if got := readAll(t, m, m.View().At(0)); got != trace+text {
			t.Errorf("%s: %d octets", name, len(got))
		}
		if _, err := m.Copy(t.Context(), []imap.UID{1, 2}, m); err != nil {
			t.Error(err)
		}
	}
}

// TestHeadersOfManyAndLarge fills commits by octets rather than by number.
func TestHeadersOfManyAndLarge(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	text := "Subject: x\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", 700) + "\r\nbody\r\n"
	content := stage(t, s, text)
	defer content.Discard()
	for _, err := range a.Deliver(t.Context(), slices.Repeat([]Delivery{{Content: content}}, 70)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if m.View().Len() != 70 {
		t.Fatalf("%d messages", m.View().Len())
	}
	sent := openMailbox(t, a, "Sent")
	if result, err := m.Move(t.Context(), uidsOf(m.View()), sent); err != nil || len(result.Dest) != 70 {
		t.Fatalf("move: %v, %v", result, err)
	}
	appends := slices.Repeat([]Append{{Content: content}}, 70)
	if _, err := m.Append(t.Context(), appends); err == nil || m.View().Len() != 0 {
		t.Errorf("too much for one commit: %v, %d messages", err, m.View().Len())
	}
}

package mailstore

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/mail"
)

// TestTakeIn: messages come in with their UIDs, once; one that cannot be stored
// does not keep the others.
func TestTakeIn(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a, err := s.Account(t.Context(), mail.Account{Name: "kim"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	m, err := a.Mailbox(t.Context(), inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.KeepUIDs(t.Context(), 1_600_000_000); err != nil {
		t.Fatal(err)
	}
	incoming := func(id string, uid imap.UID, keywords ...string) Incoming {
		content, err := s.Stage(t.Context(), strings.NewReader("Subject: "+id+"\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		return Incoming{Append: Append{Content: content, Keywords: keywords}, ID: id, UID: uid}
	}
	results, err := m.TakeIn(t.Context(), []Incoming{incoming("a", 7), incoming("bad", 8, "two words"), incoming("b", 0), incoming("c", 5), incoming("a", 9)})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprint(r.UID, r.Repeated, r.Err != nil))
	}
	if want := "7 false false|0 false true|8 false false|9 false false|7 true false"; strings.Join(got, "|") != want {
		t.Errorf("%s, want %s", strings.Join(got, "|"), want)
	}
	if v := m.View(); v.UIDValidity() != 1_600_000_000 || v.Len() != 3 {
		t.Errorf("UIDVALIDITY %d, %d messages", v.UIDValidity(), v.Len())
	}
	if err := m.KeepUIDs(t.Context(), 77); !errors.Is(err, ErrKept) {
		t.Errorf("with messages: %v", err)
	}
	if err := m.ReserveUIDs(t.Context(), 100); err != nil || m.View().UIDNext() != 100 {
		t.Errorf("UIDNEXT %d, %v", m.View().UIDNext(), err)
	}
	if err := s.Verify(t.Context(), func(f Finding) { t.Error(f) }, new(atomic.Int64)); err != nil {
		t.Error(err)
	}
	all, err := a.Picture(t.Context())
	if err != nil || len(all) != 5 {
		t.Fatalf("picture of %d mailboxes, %v", len(all), err)
	}
	for _, p := range all {
		if p.Info.Name == inbox && p.View.Len() != 3 {
			t.Errorf("%d messages in the picture", p.View.Len())
		}
		p.Close()
	}
}

// TestKeepUIDsInPair: the servers of a pair agree on UIDs by their own rules.
func TestKeepUIDsInPair(t *testing.T) {
	t.Parallel()
	p := newPair(t, "kim")
	m, err := p.nodes[0].account.Mailbox(t.Context(), inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.KeepUIDs(t.Context(), 1_600_000_000); !errors.Is(err, ErrKept) || !strings.Contains(err.Error(), "pair") {
		t.Errorf("%v", err)
	}
}

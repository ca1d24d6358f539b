package backup

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
	"github.com/postern-mail/postern/transfer"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t testing.TB) *mailstore.Store {
	t.Helper()
	kv, blobs := storetest.Open(t)
	s, err := mailstore.Open(t.Context(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	must(t, err)
	t.Cleanup(func() {
		if err := s.Check(context.Background()); err != nil {
			t.Errorf("check: %v", err)
		}
	})
	return s
}

// connect begins a conversation about a store, which ends with the test.
func connect(t testing.TB, s *mailstore.Store) *transfer.BackupClient {
	t.Helper()
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		_ = transfer.ServeBackup(context.WithoutCancel(t.Context()), there, transfer.BackupHost{
			Store: s,
			Owner: func(_ context.Context, user string) (string, error) {
				return strings.TrimSuffix(user, "@example.com"), nil
			},
			Account: func(ctx context.Context, user string) (*mailstore.Account, error) {
				return s.Account(ctx, mail.Account{Name: user})
			},
			Finished:  func(transfer.BackupDone) error { return nil },
			Restoring: func(string) {},
		}) // it ends with its client
		close(ended)
	}()
	t.Cleanup(func() { _ = here.Close(); <-ended })
	return transfer.NewBackupClient(here)
}

func open(t testing.TB, s *mailstore.Store, name string) *mailstore.Account {
	t.Helper()
	a, err := s.Account(t.Context(), mail.Account{Name: name})
	must(t, err)
	t.Cleanup(a.Close)
	return a
}

func mailbox(t testing.TB, a *mailstore.Account, name string) *mailstore.Mailbox {
	t.Helper()
	m, err := a.Mailbox(t.Context(), name)
	must(t, err)
	t.Cleanup(m.Close)
	return m
}

func add(t testing.TB, s *mailstore.Store, m *mailstore.Mailbox, texts ...string) {
	t.Helper()
	for _, text := range texts {
		content, err := s.Stage(t.Context(), strings.NewReader(text))
		must(t, err)
		_, err = m.Append(t.Context(), []mailstore.Append{{Content: content, InternalDate: time.Unix(1_700_000_000, 0)}})
		content.Discard()
		must(t, err)
	}
}

func text(i int) string {
	return fmt.Sprintf("Subject: %d\r\nMessage-ID: <%d@example.com>\r\n\r\n%s\r\n", i, i, strings.Repeat("All work and no play. ", i%7*100))
}

// lived makes an account with some of everything.
func lived(t testing.TB, s *mailstore.Store, name string, n int) *mailstore.Account {
	t.Helper()
	a := open(t, s, name)
	in := mailbox(t, a, "INBOX")
	for i := range n {
		add(t, s, in, text(i))
	}
	content, err := s.Stage(t.Context(), strings.NewReader(text(1)))
	must(t, err)
	defer content.Discard()
	must(t, a.Deliver(t.Context(), []mailstore.Delivery{{ID: "Q1.1", Content: content, Trace: []byte("Return-Path: <>\r\nDelivered-To: " + name + "\r\n")}})[0])
	_, err = in.StoreFlags(t.Context(), []imap.UID{1, 3}, mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagSeen, Keywords: []string{"$Forwarded", "Mine"}})
	must(t, err)
	_, err = a.Create(t.Context(), "Arbeit/Pläne", "")
	must(t, err)
	plans := mailbox(t, a, "Arbeit/Pläne")
	_, err = in.Copy(t.Context(), []imap.UID{1, 2}, plans)
	must(t, err)
	_, err = in.Remove(t.Context(), []imap.UID{2})
	must(t, err)
	must(t, a.Delete(t.Context(), "Junk"))
	must(t, a.Subscribe(t.Context(), "Arbeit/Pläne", true))
	must(t, a.SetEntry(t.Context(), mailstore.Entry{Space: mailstore.SpaceMetadata, Mailbox: plans.Info().GUID, Key: "/private/comment", Value: []byte{0, 0xff, 'a'}}))
	must(t, a.SetEntry(t.Context(), mailstore.Entry{Space: mailstore.SpaceScript, Key: "main", Value: []byte("keep;")}))
	rights, err := acl.Parse("lrs")
	must(t, err)
	must(t, a.SetAccess(t.Context(), plans.Info().GUID, "user=sam", &rights))
	return a
}

// rows is all that a photograph of an account tells, but for what a restoration
// changes, and the texts of its messages.
func rows(t testing.TB, s *mailstore.Store, name string) string {
	t.Helper()
	c := connect(t, s)
	var all []string
	var bodies []transfer.BodyRef
	in := ""
	must(t, c.Photograph(t.Context(), mailstore.AccountGUID(name).String(), func(_ []byte, r *transfer.Row) error {
		switch {
		case r.Account != nil, r.End != nil:
			return nil
		case r.Mailbox != nil:
			r.Mailbox.ModSeq, r.Mailbox.UIDNext = 0, 0
			in = r.Mailbox.ID
			all = append(all, fmt.Sprintf("%+v", *r.Mailbox))
		case r.Message != nil:
			m := *r.Message
			m.ModSeq = 0
			delivery := m.Delivery
			m.Delivery = nil
			all = append(all, fmt.Sprintf("%s %+v %+v", in, m, delivery))
			bodies = append(bodies, transfer.BodyRef{Hash: m.Body, Octets: m.Octets})
		case r.Entry != nil:
			all = append(all, fmt.Sprintf("%+v", *r.Entry))
		default:
			all = append(all, fmt.Sprintf("%+v %+v", r.Subscription, r.Delivery))
		}
		return nil
	}))
	must(t, c.Bodies(t.Context(), bodies, func(b transfer.BodyRef, r io.Reader) error {
		text, err := io.ReadAll(r)
		all = append(all, fmt.Sprintf("%s %x", b.Hash, sha256.Sum256(text)))
		return err
	}, func(b transfer.BodyRef, _ bool, why string) error {
		t.Errorf("%s: %s", b.Hash, why)
		return nil
	}))
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func take(t testing.TB, r *Repository, s *mailstore.Store, o Options) *Result {
	t.Helper()
	result, err := r.Take(t.Context(), connect(t, s), o)
	must(t, err)
	return result
}

func verify(t testing.TB, r *Repository) (found []string) {
	t.Helper()
	_, err := r.Verify(t.Context(), nil, true, func(f Finding) { found = append(found, f.Error()) }, nil)
	must(t, err)
	return found
}

func restore(t testing.TB, r *Repository, s *mailstore.Store, name string, o RestoreOptions) (Restored, error) {
	t.Helper()
	run, err := r.At(time.Time{}, name)
	must(t, err)
	a, _ := run.Account(name)
	return r.Restore(t.Context(), connect(t, s), run, a, o)
}

// differ tells the lines that only one of two texts has.
func differ(have, want string) string {
	var out []string
	h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
	for _, line := range h {
		if !slices.Contains(w, line) {
			out = append(out, "+"+line)
		}
	}
	for _, line := range w {
		if !slices.Contains(h, line) {
			out = append(out, "-"+line)
		}
	}
	return strings.Join(out, "\n")
}

package mailstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// openStore returns a store on engines of the test's own; what it holds is
// checked when the test ends.
func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	kv, blobs := storetest.Open(t)
	return openOn(t, cfg, kv, blobs)
}

func openOn(t testing.TB, cfg Config, kv store.Store, blobs store.Blobs) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Check(context.Background()); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("check: %v", err)
		}
	})
	return s
}

func openAccount(t testing.TB, s *Store, name string) *Account {
	t.Helper()
	a, err := s.Account(t.Context(), mail.Account{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func openMailbox(t testing.TB, a *Account, name string) *Mailbox {
	t.Helper()
	m, err := a.Mailbox(t.Context(), name)
	if err != nil {
		t.Fatalf("mailbox %q: %v", name, err)
	}
	t.Cleanup(m.Close)
	return m
}

func stage(t testing.TB, s *Store, message string) store.Staged {
	t.Helper()
	content, err := s.Stage(context.Background(), strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func message(i int) string {
	return fmt.Sprintf("Subject: number %d\r\nFrom: kim@example.org\r\n\r\nbody %d\r\n", i, i)
}

func appendMessages(t testing.TB, s *Store, m *Mailbox, n int) []imap.UID {
	t.Helper()
	var uids []imap.UID
	for i := range n {
		content := stage(t, s, message(i))
		got, err := m.Append(t.Context(), []Append{{Content: content}})
		content.Discard()
		if err != nil {
			t.Fatal(err)
		}
		uids = append(uids, got...)
	}
	return uids
}

func readAll(t testing.TB, m *Mailbox, message *Message) string {
	t.Helper()
	body, err := m.Body(context.Background(), message)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	octets, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(octets)) != message.Octets || body.Size() != message.Octets {
		t.Errorf("read %d octets of %d, want %d", len(octets), body.Size(), message.Octets)
	}
	return string(octets)
}

func uidsOf(v View) []imap.UID {
	uids := make([]imap.UID, v.Len())
	for i := range uids {
		uids[i] = v.At(i).UID
	}
	return uids
}

func TestFirstUse(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	list, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range list {
		got = append(got, fmt.Sprintf("%s %s %v %v", m.Name, m.SpecialUse, m.Subscribed, m.Exists))
	}
	want := []string{
		`Drafts \Drafts true true`, `INBOX  true true`, `Junk \Junk true true`, `Sent \Sent true true`, `Trash \Trash true true`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// Another node makes the same objects.
	other := openStore(t, Config{Node: 1})
	twin, err := openAccount(t, other, "kim").List(t.Context())
	if err != nil || !slices.Equal(twin, list) {
		t.Errorf("other node has %v, %v", twin, err)
	}
	here, _ := a.Status(t.Context(), "INBOX")
	there, _ := openAccount(t, other, "kim").Status(t.Context(), "inbox")
	if here.UIDValidity == 0 || here.UIDValidity != there.UIDValidity {
		t.Errorf("UIDVALIDITY %d here, %d there", here.UIDValidity, there.UIDValidity)
	}
	if here.HighestModSeq == 0 || here.HighestModSeq&1 != 0 || there.HighestModSeq&1 != 1 {
		t.Errorf("MODSEQ %d here, %d there", here.HighestModSeq, there.HighestModSeq)
	}
	names, err := s.Accounts(t.Context())
	if err != nil || !slices.Equal(names, []string{"kim"}) {
		t.Errorf("accounts %v, %v", names, err)
	}
}

func TestAppendAndRead(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	m := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	changed := m.Changed()
	before := m.View()
	content := stage(t, s, message(1))
	defer content.Discard()
	uids, err := m.Append(t.Context(), []Append{
		{Content: content, Flags: FlagSeen, Keywords: []string{"$Work", "$work", "a"}},
		{Content: content},
	})
	if err != nil || !slices.Equal(uids, []imap.UID{1, 2}) {
		t.Fatalf("got %v, %v", uids, err)
	}
	select {
	case <-changed:
	default:
		t.Error("the change was not told")
	}
	v := m.View()
	if before.Len() != 0 || v.Len() != 2 || v.Unseen() != 1 || v.UIDNext() != 3 || v.HighestModSeq() <= before.HighestModSeq() {
		t.Errorf("before %d, after %d, unseen %d, UIDNEXT %d", before.Len(), v.Len(), v.Unseen(), v.UIDNext())
	}
	if got := v.Keywords(); !slices.Equal(got, []string{"$Work", "a"}) {
		t.Errorf("keywords %q", got)
	}
	if got := readAll(t, m, v.At(1)); got != message(1) {
		t.Errorf("got %q", got)
	}
	meta, err := m.Meta(t.Context(), v.At(0))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(meta.Envelope), `"number 1"`) || !strings.HasPrefix(string(meta.Header), "Subject") ||
		!strings.HasPrefix(string(meta.BodyStructure), `("text" "plain"`) || meta.Root.Body.Len() != int64(len("body 1\r\n")) {
		t.Errorf("meta %s %s %s", meta.Header, meta.Envelope, meta.BodyStructure)
	}
}

func TestDeliveriesShareABody(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	content := stage(t, s, message(7))
	var refs []store.Ref
	for _, name := range []string{"a", "b"} {
		a := openAccount(t, s, name)
		trace := "Delivered-To: " + name + "@example.org\r\n"
		for _, err := range a.Deliver(t.Context(), []Delivery{{ID: "x", Content: content, Trace: []byte(trace)}, {Content: content, Mailbox: "lists/go"}}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		m := openMailbox(t, a, "inbox")
		got := m.View().At(0)
		refs = append(refs, got.Body)
		if text := readAll(t, m, got); text != trace+message(7) {
			t.Errorf("got %q", text)
		}
		meta, err := m.Meta(t.Context(), got)
		if err != nil {
			t.Fatal(err)
		}
		span, _ := meta.Root.Section(nil, imap.PartSpecifierHeader)
		if string(meta.Header) != readAll(t, m, got)[span.Start:span.End] || !strings.HasPrefix(string(meta.Header), trace) {
			t.Errorf("header %q at %v", meta.Header, span)
		}
		body, _ := m.Body(t.Context(), got)
		at := make([]byte, 12)
		if _, err := body.ReadAt(at, int64(len(trace))-4); err != nil || string(at) != (trace + message(7))[len(trace)-4:len(trace)+8] {
			t.Errorf("over the seam: %q, %v", at, err)
		}
		_ = body.Close()
		if list := openMailbox(t, a, "lists/go"); list.View().Len() != 1 || !list.Info().Subscribed {
			t.Errorf("created mailbox: %+v", list.Info())
		}
	}
	content.Discard()
	if refs[0] != refs[1] {
		t.Error("bodies differ")
	}
}

func TestRepeatedDelivery(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	content := stage(t, s, message(1))
	defer content.Discard()
	twice := []Delivery{{ID: "q1", Content: content}, {ID: "q1", Content: content}, {ID: "q2", Content: content}}
	for range 3 {
		for _, err := range a.Deliver(t.Context(), twice) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if st, _ := a.Status(t.Context(), "INBOX"); st.Messages != 2 {
		t.Errorf("%d messages, want 2", st.Messages)
	}
	other := openAccount(t, s, "pat")
	if err := other.Deliver(t.Context(), twice[:1])[0]; err != nil {
		t.Fatal(err)
	}
	if st, _ := other.Status(t.Context(), "INBOX"); st.Messages != 1 {
		t.Error("the ID of another account's delivery counted")
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	size := int64(len(message(1)))
	a, err := s.Account(t.Context(), mail.Account{Name: "kim", QuotaOctets: 2 * size})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	content := stage(t, s, message(1))
	defer content.Discard()
	errs := a.Deliver(t.Context(), []Delivery{{Content: content}, {Content: content}, {Content: content}})
	if errs[0] != nil || errs[1] != nil || status.Of(errs[2]) != status.MailboxFull {
		t.Fatalf("got %v", errs)
	}
	m := openMailbox(t, a, "INBOX")
	if _, err := m.Append(t.Context(), []Append{{Content: content}}); status.Of(err) != status.MailboxFull {
		t.Errorf("append: %v", err)
	}
	if _, err := m.Copy(t.Context(), []imap.UID{1}, m); status.Of(err) != status.MailboxFull {
		t.Errorf("copy: %v", err)
	}
	if used, limit := a.Quota(); used != 2*size || limit != 2*size {
		t.Errorf("uses %d of %d", used, limit)
	}
	if _, err := m.StoreFlags(t.Context(), []imap.UID{1}, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if errs := a.Deliver(t.Context(), []Delivery{{Content: content}}); errs[0] != nil {
		t.Errorf("after an expunge: %v", errs[0])
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{MaxKeywords: 3})
	m := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	uids := appendMessages(t, s, m, 3)
	old := m.View()
	change := func(uids []imap.UID, c FlagsChange) []imap.UID {
		t.Helper()
		modified, err := m.StoreFlags(t.Context(), uids, c)
		if err != nil {
			t.Fatal(err)
		}
		return modified
	}
	change(uids[:2], FlagsChange{Op: FlagsAdd, Flags: FlagSeen, Keywords: []string{"One"}})
	v := m.View()
	if v.Unseen() != 1 || v.At(0).Flags != FlagSeen || !slices.Equal(v.At(1).Keywords, []string{"One"}) {
		t.Errorf("after add: %+v", v.At(0))
	}
	if old.Unseen() != 3 || old.At(0).Flags != 0 {
		t.Error("an old view changed")
	}
	since := v.At(2).ModSeq
	if got := change(append(uids, 99), FlagsChange{Op: FlagsSet, Flags: FlagFlagged, Keywords: []string{"ONE", "two"}, UnchangedSince: &since}); !slices.Equal(got, uids[:2]) {
		t.Errorf("modified %v", got)
	}
	if got := m.View().At(2); got.Flags != FlagFlagged || !slices.Equal(got.Keywords, []string{"One", "two"}) {
		t.Errorf("after set: %+v", got)
	}
	modseq := m.View().HighestModSeq()
	change(uids[2:], FlagsChange{Op: FlagsAdd, Flags: FlagFlagged, Keywords: []string{"TWO"}})
	if m.View().HighestModSeq() != modseq {
		t.Error("a change that changes nothing took a MODSEQ")
	}
	if _, err := m.StoreFlags(t.Context(), uids, FlagsChange{Op: FlagsAdd, Keywords: []string{"x", "y"}}); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many keywords: %v", err)
	}
	change(uids, FlagsChange{Op: FlagsRemove, Flags: FlagSeen | FlagFlagged, Keywords: []string{"one", "two"}})
	if v := m.View(); len(v.Keywords()) != 0 || v.Unseen() != 3 {
		t.Errorf("after remove: %v, %d", v.Keywords(), v.Unseen())
	}
}

func TestExpungeIsRemembered(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	m := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	uids := appendMessages(t, s, m, 6)
	start := m.View()
	expunge := func(mark []imap.UID, uids []imap.UID) []imap.UID {
		t.Helper()
		if _, err := m.StoreFlags(t.Context(), mark, FlagsChange{Op: FlagsAdd, Flags: FlagDeleted}); err != nil {
			t.Fatal(err)
		}
		gone, err := m.Expunge(t.Context(), uids)
		if err != nil {
			t.Fatal(err)
		}
		return gone
	}
	if gone := expunge(uids[:3], []imap.UID{2, 3, 4}); !slices.Equal(gone, []imap.UID{2, 3}) {
		t.Errorf("gone %v", gone)
	}
	middle := m.View().HighestModSeq()
	if gone := expunge(uids[5:], nil); !slices.Equal(gone, []imap.UID{1, 6}) {
		t.Errorf("gone %v", gone)
	}
	if got := uidsOf(m.View()); !slices.Equal(got, []imap.UID{4, 5}) {
		t.Errorf("left %v", got)
	}
	if start.Len() != 6 || m.View().UIDNext() != 7 {
		t.Error("an old view changed, or UIDNEXT")
	}
	if got, complete := m.ExpungedSince(start.HighestModSeq()); !complete || !slices.Equal(got, []imap.UID{1, 2, 3, 6}) {
		t.Errorf("since the start: %v %v", got, complete)
	}
	if got, complete := m.ExpungedSince(middle); !complete || !slices.Equal(got, []imap.UID{1, 6}) {
		t.Errorf("since the middle: %v %v", got, complete)
	}
	if _, err := m.Body(t.Context(), start.At(5)); !errors.Is(err, ErrNoMessage) {
		t.Errorf("body of an expunged message: %v", err)
	}
}

func TestCopyAndMove(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m, sent := openMailbox(t, a, "INBOX"), openMailbox(t, a, "Sent")
	uids := appendMessages(t, s, m, 120)
	if _, err := m.StoreFlags(t.Context(), uids[:1], FlagsChange{Op: FlagsAdd, Flags: FlagFlagged, Keywords: []string{"k"}}); err != nil {
		t.Fatal(err)
	}
	source := m.View()
	result, err := m.Copy(t.Context(), append(uids, 999), sent)
	if err != nil || !slices.Equal(result.Source, uids) || len(result.Dest) != 120 || result.UIDValidity != sent.View().UIDValidity() {
		t.Fatalf("copy: %v, %v", result, err)
	}
	copied := sent.View().At(0)
	if copied.Flags != FlagFlagged || !slices.Equal(copied.Keywords, []string{"k"}) || copied.EmailID != source.At(0).EmailID ||
		copied.Dot == source.At(0).Dot || readAll(t, sent, copied) != message(0) {
		t.Errorf("copy %+v of %+v", copied, source.At(0))
	}
	result, err = m.Move(t.Context(), uids[:60], sent)
	if err != nil || !slices.Equal(result.Source, uids[:60]) || m.View().Len() != 60 || sent.View().Len() != 180 {
		t.Fatalf("move: %v, %v", result, err)
	}
	if got := readAll(t, sent, sent.View().At(179)); got != message(59) {
		t.Errorf("moved: %q", got)
	}
	if empty, err := m.Move(t.Context(), uids[:60], sent); err != nil || len(empty.Source) != 0 {
		t.Errorf("move of what is gone: %v, %v", empty, err)
	}
	other := openMailbox(t, openAccount(t, s, "pat"), "INBOX")
	if result, err := m.Move(t.Context(), uids[60:], other); err != nil || len(result.Dest) != 60 || m.View().Len() != 0 {
		t.Errorf("move to another account: %v, %v", result, err)
	}
	if got := readAll(t, other, other.View().At(0)); got != message(60) {
		t.Errorf("got %q", got)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	uids := appendMessages(t, s, m, 1300)
	if _, err := m.StoreFlags(t.Context(), uids[600:700], FlagsChange{Op: FlagsSet, Flags: FlagDeleted, Keywords: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expunge(t.Context(), uids[600:650]); err != nil {
		t.Fatal(err)
	}
	if err := a.Subscribe(t.Context(), "nowhere", true); err != nil {
		t.Fatal(err)
	}
	again := openOn(t, Config{}, kv, blobs)
	if again.Origin() != s.Origin() {
		t.Error("another origin")
	}
	b := openAccount(t, again, "kim")
	n := openMailbox(t, b, "INBOX")
	want, got := m.View(), n.View()
	if got.Len() != want.Len() || got.HighestModSeq() != want.HighestModSeq() || got.UIDNext() != want.UIDNext() ||
		got.Octets() != want.Octets() || !slices.Equal(got.Keywords(), want.Keywords()) {
		t.Errorf("got %d messages, want %d", got.Len(), want.Len())
	}
	for i := range want.Len() {
		w, g := want.At(i), got.At(i)
		if w.UID != g.UID || w.Flags != g.Flags || w.ModSeq != g.ModSeq || w.Dot != g.Dot || w.EmailID != g.EmailID || w.Octets != g.Octets {
			t.Fatalf("message %d: got %+v, want %+v", i, g, w)
		}
		if j, found := got.Find(w.UID); j != i || !found {
			t.Fatalf("find %d: %d %v", w.UID, j, found)
		}
	}
	if i, found := got.Find(uids[620]); found || got.At(i).UID != uids[650] {
		t.Errorf("find of an expunged UID: %d %v", i, found)
	}
	list, _ := b.List(t.Context())
	if !slices.Contains(list, MailboxInfo{Name: "nowhere", Subscribed: true}) {
		t.Errorf("list %v", list)
	}
	// Two stores over one engine: each sees the other's writes when it writes.
	content := stage(t, again, message(1))
	defer content.Discard()
	if _, err := n.Append(t.Context(), []Append{{Content: content}}); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Append(t.Context(), []Append{{Content: content}}); err != nil || got[0] != 1302 || m.View().Len() != 1252 {
		t.Errorf("after another's write: %v, %v, %d messages", got, err, m.View().Len())
	}
}

// TestBadKeywords: no keyword gets in that would break a list of flags.
func TestBadKeywords(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	m := openMailbox(t, openAccount(t, s, "kim"), "INBOX")
	uids := appendMessages(t, s, m, 1)
	for _, bad := range []string{"", "a b", "b(", ")", `\Recent`, `"q"`, "*", "%", "{3}", "x]", "ü", "a\r\nb", strings.Repeat("k", 129)} {
		if _, err := m.StoreFlags(t.Context(), uids, FlagsChange{Op: FlagsAdd, Keywords: []string{bad}}); !errors.Is(err, ErrKeyword) {
			t.Errorf("%.20q: %v, want %v", bad, err, ErrKeyword)
		}
	}
	for _, good := range []string{"$Forwarded", "NonJunk", "a-b_c.d+e", "[x", strings.Repeat("k", 128)} {
		if _, err := m.StoreFlags(t.Context(), uids, FlagsChange{Op: FlagsAdd, Keywords: []string{good}}); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
}

package mailstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/store/storetest"
)

func names(t *testing.T, a *Account) []string {
	t.Helper()
	list, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range list {
		name := m.Name
		if m.Subscribed {
			name += "*"
		}
		if !m.Exists {
			name += "?"
		}
		got = append(got, name)
	}
	return got
}

func TestNames(t *testing.T) {
	t.Parallel()
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"inbox":                    "INBOX",
		"iNbOx/Sub":                "INBOX/Sub",
		"inboxes":                  "inboxes",
		"a/b/":                     "a/b",
		"Gru\u0308\u00dfe":         "Gr\u00fc\u00dfe",
		"":                         "",
		"/":                        "",
		"/a":                       "",
		"a//b":                     "",
		"a\x00b":                   "",
		"a\nb":                     "",
		"a*":                       "",
		"a%b":                      "",
		"\xff":                     "",
		strings.Repeat("x", 1001):  "",
		strings.Repeat("x/", 51):   "",
		strings.Repeat("x", 1000):  strings.Repeat("x", 1000),
		strings.Repeat("x/", 50):   strings.TrimSuffix(strings.Repeat("x/", 50), "/"),
		"a\u2028b":                 "",
		"\u00e9" + "/..":           "\u00e9/..",
		"with space / and & amper": "with space / and & amper",
	} {
		got, err := cfg.newName(name)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrBadName) {
			t.Errorf("%.40q: got %.40q, %v", name, got, err)
		}
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{Mailboxes: []ConfiguredMailbox{}, MaxMailboxes: 12, MaxSubscriptions: 1})
	a := openAccount(t, s, "kim")
	ctx := t.Context()
	create := func(name string, use imap.MailboxAttr, want error) MailboxInfo {
		t.Helper()
		info, err := a.Create(ctx, name, use)
		if !errors.Is(err, want) {
			t.Fatalf("create %q: %v, want %v", name, err, want)
		}
		return info
	}
	first := create("a", "", nil)
	create("a/b/c", imap.MailboxAttrArchive, nil)
	create("a/x", "", nil)
	create("ab", "", nil)
	create("a/", "", ErrMailboxExists)
	create("inbox", "", ErrMailboxExists)
	create("z", imap.MailboxAttrArchive, ErrSpecialUse)
	create("z", imap.MailboxAttrAll, ErrSpecialUse)
	for _, row := range []struct {
		from, to string
		want     error
	}{
		{"a", "a/b", ErrBadName},
		{"a", "a/b/c/d", ErrBadName},
		{"a", "ab", ErrMailboxExists},
		{"a", "inbox", ErrMailboxExists},
		{"nowhere", "b", ErrNoMailbox},
		{"a", "new/place", nil},
		{"new/place/b", "ab", ErrMailboxExists},
		{"new/place/b", "B", nil}, // a name that exists only in others
		{"B/c", "B", nil},
	} {
		if err := a.Rename(ctx, row.from, row.to); !errors.Is(err, row.want) {
			t.Errorf("rename %s to %s: %v, want %v", row.from, row.to, err, row.want)
		}
	}
	if got := names(t, a); !slices.Equal(got, []string{"B", "INBOX*", "ab", "new/place", "new/place/x"}) {
		t.Errorf("names %q", got)
	}
	if st, err := a.Status(ctx, "new/place"); err != nil || st.GUID != first.GUID {
		t.Error("the identity changed with the name")
	}
	if err := a.Delete(ctx, "INBOX"); !errors.Is(err, ErrInbox) {
		t.Errorf("delete INBOX: %v", err)
	}
	if err := a.Delete(ctx, "nowhere"); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("delete nowhere: %v", err)
	}
	if err := a.Delete(ctx, "new/place"); err != nil {
		t.Fatal(err)
	}
	again := create("new/place", "", nil)
	if again.GUID == first.GUID {
		t.Error("a new mailbox has a deleted one's identity")
	}
	for i := range 7 {
		create(fmt.Sprint("more", i), "", nil)
	}
	create("one more", "", ErrTooManyMailboxes)
	if err := a.Subscribe(ctx, "one more", true); err != nil {
		t.Errorf("subscribe: %v", err)
	}
	if err := a.Subscribe(ctx, "two more", true); !errors.Is(err, ErrTooManySubscriptions) || !errors.Is(err, ErrTooMany) {
		t.Errorf("subscribe beyond the limit: %v", err)
	}
	// A subscription that is left of a mailbox is one more; it goes, and no
	// other comes.
	if err := a.Subscribe(ctx, "more0", true); err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(ctx, "more0"); err != nil {
		t.Fatal(err)
	}
	create("more0", "", nil)
	create("one more", "", ErrTooManyMailboxes)
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{Mailboxes: []ConfiguredMailbox{}}, kv, blobs)
	a := openAccount(t, s, "kim")
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { return a.Subscribe(ctx, "a", true) },
		func() error { return a.Subscribe(ctx, "b", true) },
		func() error { _, err := a.Create(ctx, "a", ""); return err },
		func() error { _, err := a.Create(ctx, "c", ""); return err },
		func() error { return a.Rename(ctx, "c", "b") },
		func() error { return a.Rename(ctx, "a", "d") },
		func() error { return a.Subscribe(ctx, "gone", true) },
		func() error { return a.Subscribe(ctx, "gone", false) },
		func() error { return a.Delete(ctx, "d") },
		func() error { return a.Subscribe(ctx, "inbox", false) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"INBOX", "b*", "d*?"}
	if got := names(t, a); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := names(t, openAccount(t, openOn(t, Config{}, kv, blobs), "kim")); !slices.Equal(got, want) {
		t.Errorf("opened again: got %q, want %q", got, want)
	}
}

func TestRenameInboxMovesItsMessages(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	a := openAccount(t, s, "kim")
	m := openMailbox(t, a, "INBOX")
	appendMessages(t, s, m, 70)
	if _, err := a.Create(t.Context(), "INBOX/sub", ""); err != nil {
		t.Fatal(err)
	}
	if err := a.Rename(t.Context(), "INBOX", "old"); err != nil {
		t.Fatal(err)
	}
	if m.View().Len() != 0 || openMailbox(t, a, "old").View().Len() != 70 {
		t.Error("the messages did not move")
	}
	openMailbox(t, a, "INBOX/sub")
}

func TestDeletedMailbox(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	s := openOn(t, Config{}, kv, blobs)
	a := openAccount(t, s, "kim")
	sent := openMailbox(t, a, "Sent")
	appendMessages(t, s, sent, 450)
	inboxMailbox := openMailbox(t, a, "INBOX")
	if _, err := sent.Copy(t.Context(), []imap.UID{1}, inboxMailbox); err != nil {
		t.Fatal(err)
	}
	changed, last := sent.Changed(), sent.View()
	if err := a.Delete(t.Context(), "Sent"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("the deletion was not told")
	}
	if !sent.View().Deleted() || last.Deleted() {
		t.Error("View.Deleted")
	}
	content := stage(t, s, message(1))
	defer content.Discard()
	if _, err := sent.Append(t.Context(), []Append{{Content: content}}); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("append: %v", err)
	}
	if _, err := inboxMailbox.Copy(t.Context(), []imap.UID{1}, sent); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("copy: %v", err)
	}
	if _, err := a.Mailbox(t.Context(), "Sent"); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("open: %v", err)
	}
	if used, _ := a.Quota(); used != inboxMailbox.View().Octets() {
		t.Errorf("uses %d octets", used)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := blobs.Open(t.Context(), last.At(1).Body); err == nil {
		t.Error("a body outlived its last message")
	}
	if got := readAll(t, inboxMailbox, inboxMailbox.View().At(0)); got != message(0) {
		t.Errorf("the copy reads %q", got)
	}
	if left, err := s.page(t.Context(), accountKey(a.account.id, kindGarbage), 0); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	for _, mailboxes := range [][]ConfiguredMailbox{
		{{Name: "a//b"}}, {{Name: "INBOX"}}, {{Name: "a"}, {Name: "a"}},
		{{Name: "a", SpecialUse: imap.MailboxAttrSent}, {Name: "b", SpecialUse: imap.MailboxAttrSent}}, {{Name: "a", SpecialUse: imap.MailboxAttrAll}}, {{Name: "a", SpecialUse: "Sent"}},
	} {
		if _, err := Open(t.Context(), Config{Mailboxes: mailboxes}, kv, blobs, hclog.NewNullLogger()); err == nil {
			t.Errorf("%v was accepted", mailboxes)
		}
	}
	openOn(t, Config{Node: 3}, kv, blobs)
	if _, err := Open(t.Context(), Config{Node: 4}, kv, blobs, hclog.NewNullLogger()); err == nil {
		t.Error("another node's store was accepted")
	}
}

package transfer_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
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

// newStore is an empty mail store.
func newStore(t testing.TB) *mailstore.Store {
	t.Helper()
	kv, blobs := storetest.Open(t)
	s, err := mailstore.Open(t.Context(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	must(t, err)
	return s
}

// connect begins a conversation about an account, which ends with the test.
func connect(t testing.TB, s *mailstore.Store, user string) *transfer.Client {
	t.Helper()
	account, err := s.Account(t.Context(), mail.Account{Name: user})
	must(t, err)
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		_ = transfer.Serve(context.WithoutCancel(t.Context()), there, s, account) // it ends with its client
		close(ended)
	}()
	t.Cleanup(func() { _ = here.Close(); <-ended; account.Close() })
	return transfer.NewClient(here)
}

// held is all of an account, a line for each message with its text.
func held(t testing.TB, s *mailstore.Store, user string) []string {
	t.Helper()
	c := connect(t, s, user)
	folders, err := c.Picture(t.Context())
	must(t, err)
	var all []string
	for _, f := range folders {
		all = append(all, fmt.Sprintf("%s subscribed=%v absent=%v", f.Name, f.Subscribed, f.Absent))
		if f.Absent {
			continue
		}
		var uids []uint32
		must(t, c.Index(t.Context(), f.Name, false, func(m transfer.Message) error { uids = append(uids, m.UID); return nil }))
		must(t, c.Texts(t.Context(), f.Name, uids, func(m transfer.Message, r io.Reader) error {
			text, err := io.ReadAll(r)
			all = append(all, fmt.Sprintf("%s: %s %s %q", f.Name, m.Date.Format(time.RFC3339), strings.Join(m.Flags, ","), text))
			return err
		}))
	}
	slices.Sort(all)
	return all
}

// scripted is a source in memory.
type scripted struct {
	folders []transfer.Folder
	items   map[string][]transfer.Item
	texts   map[string]string // by key
	fail    func(key string) error
}

func (s *scripted) Name() string { return "scripted" }

func (s *scripted) Folders(context.Context) ([]transfer.Folder, []transfer.Skip, error) {
	return s.folders, nil, nil
}

func (s *scripted) Messages(_ context.Context, folder string, each func([]transfer.Item) error, _ func(transfer.Skip)) error {
	for some := range slices.Chunk(s.items[folder], 3) {
		if err := each(slices.Clone(some)); err != nil {
			return err
		}
	}
	return nil
}

func (s *scripted) Texts(_ context.Context, _ string, items []transfer.Item, take func(*transfer.Item, io.Reader) error) error {
	for i := range items {
		var r io.Reader = strings.NewReader(s.texts[items[i].Key])
		if s.fail != nil {
			if err := s.fail(items[i].Key); err != nil {
				r = io.MultiReader(strings.NewReader("half of "), failing{err})
			}
		}
		if err := take(&items[i], r); err != nil {
			return err
		}
	}
	return nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// newScripted has n messages in each folder.
func newScripted(n int, folders ...string) *scripted {
	s := &scripted{items: make(map[string][]transfer.Item), texts: make(map[string]string)}
	for _, f := range folders {
		s.folders = append(s.folders, transfer.Folder{Name: f, Subscribed: true, UIDValidity: 77, UIDNext: uint32(10*n + 5), Messages: n})
		for i := range n {
			key := fmt.Sprintf("%s-%d", f, i)
			s.items[f] = append(s.items[f], transfer.Item{Key: key, Message: transfer.Message{
				UID: uint32(10 * (i + 1)), Flags: []string{`\Seen`, "$Forwarded"}, Date: time.Unix(1_600_000_000+int64(i), 0).UTC(),
			}})
			s.texts[key] = "Message-ID: <" + key + "@example.com>\r\nSubject: " + key + "\r\n\r\ntext of " + key + "\r\n"
		}
	}
	return s
}

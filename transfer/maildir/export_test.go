package maildir_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/maildir"
	"github.com/postern-mail/postern/transfer/mbox"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func account(t *testing.T) *transfer.Client {
	t.Helper()
	kv, blobs := storetest.Open(t)
	s, err := mailstore.Open(t.Context(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	must(t, err)
	a, err := s.Account(t.Context(), mail.Account{Name: "kim"})
	must(t, err)
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		_ = transfer.Serve(context.WithoutCancel(t.Context()), there, s, a) // it ends with its client
		close(ended)
	}()
	t.Cleanup(func() { _ = here.Close(); <-ended; a.Close() })
	return transfer.NewClient(here)
}

type held struct {
	folder transfer.Folder
	texts  []string
	marks  []transfer.Message
}

// all is everything of an account, without what is this store's own.
func all(t *testing.T, c *transfer.Client) (list []held) {
	t.Helper()
	folders, err := c.Picture(t.Context())
	must(t, err)
	slices.SortFunc(folders, func(a, b transfer.Folder) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range folders {
		if f.Messages == 0 && !f.Absent && !strings.Contains(f.Name, "odd") {
			continue
		}
		h := held{folder: f}
		h.folder.ModSeq, h.folder.SpecialUse = 0, ""
		if !f.Absent {
			must(t, c.Index(t.Context(), f.Name, false, func(m transfer.Message) error {
				m.EmailID = ""
				h.marks = append(h.marks, m)
				return nil
			}))
			var uids []uint32
			for _, m := range h.marks {
				uids = append(uids, m.UID)
			}
			must(t, c.Texts(t.Context(), f.Name, uids, func(_ transfer.Message, r io.Reader) error {
				text, err := io.ReadAll(r)
				h.texts = append(h.texts, string(text))
				return err
			}))
		}
		list = append(list, h)
	}
	return list
}

// fill makes an account with what is odd.
func fill(t *testing.T, c *transfer.Client, texts []string) {
	t.Helper()
	for _, name := range []string{"INBOX", "Arbeit/Pläne", "INBOX/below", "odd. name &", "odd/..", "a.b/c"} {
		_, _, err := c.Ensure(t.Context(), transfer.Folder{Name: name, Subscribed: strings.Contains(name, "a"), UIDValidity: 1_600_000_000}, true)
		must(t, err)
		for i, text := range texts {
			m := transfer.Message{
				UID: uint32(3*i + 2), Date: time.Unix(1_500_000_000+int64(i)*86_400, 0).UTC(),
				Flags: [][]string{nil, {`\Seen`, "$Label1"}, {`\Answered`, `\Deleted`, `\Draft`, `\Flagged`, "$Forwarded", "Ünicode"}}[i%3],
			}
			_, readErr, err := c.Stage(t.Context(), name, m, strings.NewReader(text))
			must(t, err)
			must(t, readErr)
		}
		stored, err := c.Commit(t.Context())
		must(t, err)
		for _, s := range stored {
			if s.Error != "" {
				t.Fatal(s.Error)
			}
		}
		must(t, c.Reserve(t.Context(), name, 500))
	}
}

var texts = []string{
	"Subject: plain\r\n\r\ntext\r\n",
	"Subject: quotes\r\nStatus: of the body\r\n\r\nFrom here\r\n>From there\r\n\r\nFrom kim Sat Feb 29 12:30:00 2020\r\n",
	"Subject: no end\r\n\r\nline",
	"no header at all\r\n\r\n\r\n",
	"Subject: long\r\n\r\n" + strings.Repeat("x", 200_000) + "\r\n",
	"Subject: octets\r\n\r\n\x00\xff\x80 bare\rcr and\nlf\r\n",
}

func exportImport(t *testing.T, from *transfer.Client, sink transfer.Sink, open func() (transfer.Source, error)) *transfer.Client {
	t.Helper()
	sum, err := transfer.Export(t.Context(), from, sink, func(string) bool { return true }, nil)
	must(t, err)
	if sum.Gone != 0 || sum.LostFlags != 0 {
		t.Errorf("%+v", sum)
	}
	source, err := open()
	must(t, err)
	to := account(t)
	in, err := transfer.Import(t.Context(), to, source, transfer.NewState(t.TempDir(), "kim", source.Name()), transfer.Options{KeepUIDs: true}, nil)
	must(t, err)
	if in.Copied != sum.Messages || in.Skipped != 0 || len(in.Notes) != 0 {
		t.Errorf("%+v, exported %+v", in, sum)
	}
	return to
}

// TestRoundTrip: an export as Maildir brought in again is the same: octets,
// flags, keywords, dates, UIDs, names, subscriptions.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	from := account(t)
	fill(t, from, texts)
	dir := filepath.Join(t.TempDir(), "Maildir")
	sink, err := maildir.Create(dir)
	must(t, err)
	to := exportImport(t, from, sink, func() (transfer.Source, error) { return maildir.Open(dir, false) })
	before, after := all(t, from), all(t, to)
	if len(before) != 6 || len(after) != len(before) {
		t.Fatalf("%d mailboxes, then %d", len(before), len(after))
	}
	for i := range before {
		if !reflect.DeepEqual(before[i], after[i]) {
			t.Errorf("%q before: %+v\nafter: %+v", before[i].folder.Name, before[i].folder, after[i].folder)
			for k := range before[i].marks {
				if k < len(after[i].marks) && !reflect.DeepEqual(before[i].marks[k], after[i].marks[k]) {
					t.Errorf("%+v\n%+v", before[i].marks[k], after[i].marks[k])
				}
			}
		}
	}
}

// TestRoundTripMbox: the same through mbox, for messages that end with CRLF.
func TestRoundTripMbox(t *testing.T) {
	t.Parallel()
	from := account(t)
	fill(t, from, []string{texts[0], strings.Replace(texts[1], "Status: of the body\r\n", "", 1), texts[4]})
	dir := filepath.Join(t.TempDir(), "mboxes")
	sink, err := mbox.CreateDir(dir)
	must(t, err)
	to := exportImport(t, from, sink, func() (transfer.Source, error) { return mbox.Open(dir, false) })
	before, after := all(t, from), all(t, to)
	if len(after) != len(before) {
		t.Fatalf("%d mailboxes, then %d", len(before), len(after))
	}
	for i := range before {
		if !slices.Equal(before[i].texts, after[i].texts) || !reflect.DeepEqual(before[i].marks, after[i].marks) {
			t.Errorf("%q:\n%.300q\n%.300q", before[i].folder.Name, before[i].texts, after[i].texts)
		}
	}
}

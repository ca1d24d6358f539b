package mbox

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/transfer"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// all reads every message of a source's folder.
func all(t testing.TB, s *Source, folder string) (items []transfer.Item, texts []string) {
	t.Helper()
	must(t, s.Messages(t.Context(), folder, func(some []transfer.Item) error { items = append(items, some...); return nil },
		func(k transfer.Skip) { t.Errorf("skipped %+v", k) }))
	must(t, s.Texts(t.Context(), folder, items, func(_ *transfer.Item, r io.Reader) error {
		text, err := io.ReadAll(r)
		texts = append(texts, string(text))
		return err
	}))
	return items, texts
}

const sample = `From MAILER-DAEMON Sat Feb 29 12:30:00 2020
Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA
X-IMAP: 1582900000 0000000042

internal

From kim@example.com Sat Feb 29 12:30:01 2020
Message-ID: <1@example.com>
Status: RO
X-Status: AF
X-Keywords: $Label1 Projekt
X-UID: 7
Subject: one
	folded

>From the beginning
>>From twice
From here on it is no separator: no date

From nobody either

From a b c d e
last line

From kim@example.com  Sun Mar  1 00:00:00 2020 +0100
Message-ID: <2@example.com>
Content-Length: 69
Subject: two

line

From kim@example.com Sun Mar  1 00:00:00 2020

unquoted inside

From lee@example.com Mon Mar  2 01:02:03 2020
Content-Length: 9999
Subject: three

a length that lies
`

// TestRead: separators, quotes, fields that are the mailbox's, and lengths
// that may be believed or not.
func TestRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kim")
	must(t, os.WriteFile(path, []byte(sample), 0o600))
	s, err := Open(path, true)
	must(t, err)
	folders, _, err := s.Folders(t.Context())
	must(t, err)
	if len(folders) != 1 || folders[0].Name != "INBOX" || folders[0].UIDValidity != 1582900000 || folders[0].UIDNext != 43 {
		t.Errorf("%+v", folders)
	}
	items, texts := all(t, s, "INBOX")
	want := []string{
		"Message-ID: <1@example.com>\r\nSubject: one\r\n\tfolded\r\n\r\nFrom the beginning\r\n>From twice\r\n" +
			"From here on it is no separator: no date\r\n\r\nFrom nobody either\r\n\r\nFrom a b c d e\r\nlast line\r\n",
		"Message-ID: <2@example.com>\r\nSubject: two\r\n\r\nline\r\n\r\nFrom kim@example.com Sun Mar  1 00:00:00 2020\r\n\r\nunquoted inside\r\n",
		"Subject: three\r\n\r\na length that lies\r\n",
	}
	if !slices.Equal(texts, want) {
		t.Fatalf("texts:\n%q\nwant:\n%q", texts, want)
	}
	if !slices.Equal(items[0].Flags, []string{`\Seen`, `\Answered`, `\Flagged`, "$Label1", "Projekt"}) || items[0].UID != 7 ||
		!items[0].Date.Equal(time.Date(2020, 2, 29, 12, 30, 1, 0, time.UTC)) {
		t.Errorf("%+v", items[0])
	}
	if !items[1].Date.Equal(time.Date(2020, 2, 29, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", items[1])
	}
	for i, it := range items {
		if it.Octets != int64(len(texts[i])) {
			t.Errorf("message %d: %d octets, has %d", i, it.Octets, len(texts[i]))
		}
	}
}

// TestFolder: each file is a mailbox, what is no mbox is told, and equal
// messages are all there.
func TestFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := "From a Sat Feb 29 12:30:00 2020\nSubject: x\n\nx\n\n"
	for name, text := range map[string]string{"Inbox": one + one, "Archive.sbd/2020.mbox": one, "empty": "", "notes.txt": "hello", ".hidden": one} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	s, err := Open(dir, false)
	must(t, err)
	folders, skipped, err := s.Folders(t.Context())
	must(t, err)
	var names []string
	for _, f := range folders {
		names = append(names, f.Name)
	}
	if !slices.Equal(names, []string{"Archive/2020", "INBOX", "empty"}) || len(skipped) != 1 {
		t.Errorf("%q, %v", names, skipped)
	}
	if items, _ := all(t, s, "INBOX"); len(items) != 2 || items[0].Key == items[1].Key {
		t.Errorf("%+v", items)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("From \n\n"))
	f.Add([]byte("From a Sat Feb 29 12:30:00 2020\r\nContent-Length: 3\r\n\r\nabc\r\nFrom b Sat Feb 29 12:30:00 2020\r\n\r\n"))
	f.Add([]byte("x\nFrom a Sat Feb 29 12:30:00 2020"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file := bytes.NewReader(b)
		r := newReader(file, int64(len(b)))
		last := int64(0)
		for range len(b) + 2 {
			m, err := r.next()
			if err != nil {
				return
			}
			if m.from < last || m.to < m.from || m.to > int64(len(b)) {
				t.Fatalf("message at %d to %d, after %d", m.from, m.to, last)
			}
			last = m.to
			text, err := io.ReadAll(text(file, m.place))
			if err != nil || int64(len(text)) != m.octets {
				t.Fatalf("text of %d octets, told %d, %v", len(text), m.octets, err)
			}
		}
		t.Fatal("more messages than octets")
	})
}

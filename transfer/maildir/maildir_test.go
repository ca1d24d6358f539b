package maildir

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/transfer"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, at time.Time) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(text), 0o600))
	if !at.IsZero() {
		must(t, os.Chtimes(path, at, at))
	}
}

// TestRead: folders, flags, keywords, UIDs, dates and subscriptions of a
// Maildir++ as Dovecot leaves it, and of folders that only look like it.
func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := time.Date(2020, 2, 29, 12, 30, 0, 0, time.UTC)
	write(t, filepath.Join(dir, "cur", "1582979400.M1P1.host,S=12,W=14:2,FSab"), "Subject: 1\n\n1", at)
	write(t, filepath.Join(dir, "new", "1582979401.M2P1.host"), "Subject: 2\n\n2", at.Add(time.Hour))
	write(t, filepath.Join(dir, "cur", "1582979402.M3P1.host:2,"), "Subject: 3\n\n3", at)
	must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o700))
	write(t, filepath.Join(dir, "tmp", "1582979402.M4P1.host"), "half", at)
	write(t, filepath.Join(dir, "dovecot-keywords"), "0 $Label1\n1 Projekt\n", time.Time{})
	write(t, filepath.Join(dir, "dovecot-uidlist"), "3 V1582900000 N40 Gabc\n7 W14 :1582979402.M3P1.host\n9 :1582979400.M1P1.host,S=12,W=14\n", time.Time{})
	write(t, filepath.Join(dir, "subscriptions"), "V\t2\n\nEntw&APw-rfe\nWork\tPlans\nGone\n", time.Time{})
	for _, name := range []string{".Entw&APw-rfe", ".Work.Plans", ".Übung", ".bad..name", "plain/tree"} {
		must(t, os.MkdirAll(filepath.Join(dir, name, "cur"), 0o700))
	}
	s, err := Open(dir, true)
	must(t, err)
	folders, skipped, err := s.Folders(t.Context())
	must(t, err)
	var names []string
	for _, f := range folders {
		names = append(names, f.Name)
		if want := f.Name == "Entwürfe" || f.Name == "Work/Plans" || f.Name == "Gone"; f.Subscribed != want || f.Absent != (f.Name == "Gone") {
			t.Errorf("%+v", f)
		}
		if f.Name == "INBOX" && (f.UIDValidity != 1582900000 || f.UIDNext != 40 || f.Messages != 3) {
			t.Errorf("%+v", f)
		}
	}
	if !slices.Equal(names, []string{"Entwürfe", "Gone", "INBOX", "Work/Plans", "plain/tree", "Übung"}) || len(skipped) != 1 {
		t.Errorf("folders %q, skipped %v", names, skipped)
	}
	var items []transfer.Item
	must(t, s.Messages(t.Context(), "INBOX", func(some []transfer.Item) error { items = append(items, some...); return nil },
		func(k transfer.Skip) { t.Errorf("skipped %+v", k) }))
	if len(items) != 3 || items[0].UID != 7 || items[1].UID != 9 || items[2].UID != 0 {
		t.Fatalf("%+v", items)
	}
	if got := items[1].Flags; !slices.Equal(got, []string{`\Flagged`, `\Seen`, "$Label1", "Projekt"}) || !items[1].Date.Equal(at) || items[1].Octets != 14 {
		t.Errorf("%+v", items[1])
	}
	must(t, os.Rename(filepath.Join(dir, "new", "1582979401.M2P1.host"), filepath.Join(dir, "cur", "1582979401.M2P1.host:2,S")))
	var texts []string
	must(t, s.Texts(context.Background(), "INBOX", items, func(_ *transfer.Item, r io.Reader) error {
		text, err := io.ReadAll(r)
		texts = append(texts, string(text))
		return err
	}))
	if !slices.Equal(texts, []string{"Subject: 3\r\n\r\n3", "Subject: 1\r\n\r\n1", "Subject: 2\r\n\r\n2"}) {
		t.Errorf("texts %q", texts)
	}
}

// TestNames: what is written is read back.
func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Work", "Work/Plans", "a.b", "Entwürfe/日本", "A&B", "a b", "..", "-", "&"} {
		dir := dirName(name)
		if back, ok := folderName(dir); !ok || back != name {
			t.Errorf("%q is %q is %q, %v", name, dir, back, ok)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{".Sent", ".Entw&APw-rfe", "1.M2.h,S=1,W=2:2,FS", "3 V1 N2\n1 :a", "V\t2\n\na\tb\n", "0 $x\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, ok := folderName(s); ok && (name == "" || !utf8.ValidString(name) || strings.Contains(name, "//") || strings.EqualFold(name, "INBOX")) {
			t.Errorf("folder %q is %q", s, name)
		}
		if name, ok := treeName(s); ok && !utf8.ValidString(name) {
			t.Errorf("tree %q is %q", s, name)
		}
		flagsOf(parseFile(s).flags, parseKeywords(s))
		parseUIDList(s)
		for _, name := range parseSubscriptions(s) {
			if name == "" || !utf8.ValidString(name) {
				t.Errorf("subscription %q in %q", name, s)
			}
		}
	})
}

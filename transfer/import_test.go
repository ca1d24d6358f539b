package transfer_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/transfer"
)

func run(t *testing.T, c *transfer.Client, s transfer.Source, dir string, o transfer.Options) *transfer.Summary {
	t.Helper()
	sum, err := transfer.Import(t.Context(), c, s, transfer.NewState(dir, "kim", s.Name()), o, nil)
	must(t, err)
	return sum
}

// TestImportTwice: everything comes over once, with flags and dates, and a
// second run brings what is new and the changes of flags, not undoing what
// people did here.
func TestImportTwice(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	source := newScripted(70, "INBOX", "Arbeit/Pläne")
	if sum := run(t, connect(t, store, "kim"), source, dir, transfer.Options{}); sum.Copied != 140 || sum.Skipped != 0 || sum.Known != 0 {
		t.Fatalf("first: %+v", sum)
	}
	first := held(t, store, "kim")
	if n := len(slices.DeleteFunc(slices.Clone(first), func(l string) bool {
		return !strings.Contains(l, "$Forwarded,\\Seen") || !strings.Contains(l, "text of")
	})); n != 140 {
		t.Errorf("%d messages have their flags:\n%s", n, first[0])
	}
	if sum := run(t, connect(t, store, "kim"), source, dir, transfer.Options{}); sum.Copied != 0 || sum.Known != 140 || sum.Flags != 0 {
		t.Errorf("second: %+v", sum)
	}
	must(t, connect(t, store, "kim").Flags(t.Context(), "INBOX", []transfer.FlagsChange{{UID: 1, Add: []string{"mine"}}}))
	source.items["INBOX"][0].Flags = []string{`\Seen`, `\Answered`}
	if sum := run(t, connect(t, store, "kim"), source, dir, transfer.Options{}); sum.Flags != 1 || sum.Copied != 0 {
		t.Errorf("third: %+v", sum)
	}
	if all := strings.Join(held(t, store, "kim"), "\n"); !strings.Contains(all, `\Answered,\Seen,mine "Message-ID: <INBOX-0@`) {
		t.Errorf("flags of the first message:\n%s", all)
	}
}

// TestImportWithoutItsMemory: with its state lost, as by a crash before it was
// written, an import still stores nothing twice; with Dedupe not even one from
// another source does.
func TestImportWithoutItsMemory(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	source := newScripted(10, "INBOX")
	run(t, connect(t, store, "kim"), source, t.TempDir(), transfer.Options{})
	if sum := run(t, connect(t, store, "kim"), source, t.TempDir(), transfer.Options{}); sum.Copied != 0 || sum.Known != 10 {
		t.Errorf("without state: %+v", sum)
	}
	for i := range source.items["INBOX"] {
		it := &source.items["INBOX"][i]
		old := it.Key
		it.Key += "-other"
		source.texts[it.Key] = source.texts[old]
		it.Message.Key = transfer.KeyOf("<"+old+"@example.com>", int64(len(source.texts[old])), it.Date)
	}
	if sum := run(t, connect(t, store, "kim"), source, t.TempDir(), transfer.Options{Dedupe: true}); sum.Copied != 0 || sum.Present != 10 {
		t.Errorf("with dedupe: %+v", sum)
	}
	if sum := run(t, connect(t, store, "kim"), source, t.TempDir(), transfer.Options{Nonce: "again"}); sum.Copied != 10 {
		t.Errorf("again: %+v", sum)
	}
}

// TestImportInterrupted: a source that fails in the middle of a text leaves no
// half message, and another run brings the rest.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	source := newScripted(20, "INBOX")
	lost := errors.New("lost")
	source.fail = func(key string) error {
		if key == "INBOX-7" {
			return lost
		}
		return nil
	}
	state := transfer.NewState(dir, "kim", source.Name())
	sum, err := transfer.Import(t.Context(), connect(t, store, "kim"), source, state, transfer.Options{}, nil)
	if !errors.Is(err, lost) || sum.Copied != 7 {
		t.Fatalf("%+v, %v", sum, err)
	}
	source.fail = nil
	if sum := run(t, connect(t, store, "kim"), source, dir, transfer.Options{}); sum.Copied != 13 || sum.Known != 7 {
		t.Errorf("the rest: %+v", sum)
	}
	if all := strings.Join(held(t, store, "kim"), "\n"); strings.Contains(all, "half of") || strings.Count(all, "text of") != 20 {
		t.Errorf("held:\n%s", all)
	}
}

// TestStateCutOff: what a crash left of the last line does not count.
func TestStateCutOff(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	source := newScripted(5, "INBOX")
	run(t, connect(t, store, "kim"), source, dir, transfer.Options{})
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("state files: %v", files)
	}
	text, err := os.ReadFile(files[0])
	must(t, err)
	for _, cut := range []int{len(text) - 3, len(text) - 30, 5, 0} {
		must(t, os.WriteFile(files[0], text[:cut], 0o600))
		if sum := run(t, connect(t, store, "kim"), source, dir, transfer.Options{}); sum.Copied != 0 || sum.Known != 5 {
			t.Errorf("cut at %d: %+v", cut, sum)
		}
	}
}

// TestKeepUIDs: in mailboxes that never held anything UIDs and UIDVALIDITY are
// those of the source; elsewhere it is said that they are not.
func TestKeepUIDs(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	c := connect(t, store, "kim")
	sum := run(t, c, newScripted(3, "INBOX", "Work"), t.TempDir(), transfer.Options{KeepUIDs: true})
	if len(sum.Notes) != 0 || sum.Copied != 6 {
		t.Fatalf("%+v", sum)
	}
	folders, err := c.Picture(t.Context())
	must(t, err)
	for _, f := range folders {
		if f.Name != "INBOX" && f.Name != "Work" {
			continue
		}
		if f.UIDValidity != 77 || f.UIDNext != 35 {
			t.Errorf("%+v", f)
		}
		var uids []uint32
		must(t, c.Index(t.Context(), f.Name, false, func(m transfer.Message) error { uids = append(uids, m.UID); return nil }))
		if !slices.Equal(uids, []uint32{10, 20, 30}) {
			t.Errorf("%s: UIDs %v", f.Name, uids)
		}
	}
	other := newScripted(2, "INBOX")
	other.folders[0].UIDValidity = 78
	if sum := run(t, c, other, t.TempDir(), transfer.Options{KeepUIDs: true, Nonce: "x"}); len(sum.Notes) != 1 || sum.Copied != 2 {
		t.Errorf("into a mailbox in use: %+v", sum)
	}
}

// TestImportOptions: folders are chosen, go below another, and a dry run
// changes nothing.
func TestImportOptions(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	c := connect(t, store, "kim")
	source := newScripted(2, "INBOX", "Spam", "Work", "Work/2019", "odd*name")
	before := held(t, store, "kim")
	if sum := run(t, c, source, dir, transfer.Options{DryRun: true}); sum.Copied != 10 {
		t.Errorf("dry run: %+v", sum)
	}
	if after := held(t, store, "kim"); !slices.Equal(before, after) {
		t.Errorf("a dry run left %v", after)
	}
	run(t, c, source, dir, transfer.Options{Into: "Old", Exclude: []string{"Sp*", "Work/2019"}})
	var names []string
	folders, err := c.Folders(t.Context())
	must(t, err)
	for _, f := range folders {
		if f.Messages > 0 {
			names = append(names, f.Name)
		}
	}
	if !slices.Equal(names, []string{"Old", "Old/Work", "Old/odd_name"}) {
		t.Errorf("mailboxes with messages: %q", names)
	}
}

// TestOverQuota: an import ends at the limit, says so, and goes on when it was
// raised.
func TestOverQuota(t *testing.T) {
	t.Parallel()
	store, dir := newStore(t), t.TempDir()
	source := newScripted(10, "INBOX")
	c := connect(t, store, "kim")
	small, err := store.Account(t.Context(), mail.Account{Name: "kim", QuotaOctets: 300})
	must(t, err)
	defer small.Close()
	state := transfer.NewState(dir, "kim", source.Name())
	sum, err := transfer.Import(t.Context(), c, source, state, transfer.Options{}, nil)
	var refused *transfer.Refused
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "300 octets") || sum.Copied == 0 || sum.Copied >= 10 {
		t.Fatalf("%+v, %v", sum, err)
	}
	large, err := store.Account(t.Context(), mail.Account{Name: "kim"})
	must(t, err)
	defer large.Close()
	if again := run(t, c, source, dir, transfer.Options{}); again.Copied+sum.Copied != 10 {
		t.Errorf("%+v", again)
	}
}

// TestLines: LF becomes CRLF, and what came with CRLF stays as it is.
func TestLines(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\nb\n": "a\r\nb\r\n", "a\r\nb\nc": "a\r\nb\nc", "": "", "a\rb\n": "a\rb\r\n", "\n\n": "\r\n\r\n", "a\nb\r\n": "a\r\nb\r\n",
	} {
		got, err := io.ReadAll(transfer.Lines(strings.NewReader(in)))
		must(t, err)
		if string(got) != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("x\n", 100_000)
	if got, _ := io.ReadAll(transfer.Lines(strings.NewReader(long))); string(got) != strings.ReplaceAll(long, "\n", "\r\n") {
		t.Error("a long text is another")
	}
}

package maildir_test

import (
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/utf7"
	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/maildir"
)

// TestDovecotReadsExport: Dovecot, started on an exported Maildir, has all of
// it: mailboxes, UIDVALIDITY and UIDs, flags, keywords, dates, texts,
// subscriptions.
func TestDovecotReadsExport(t *testing.T) {
	t.Parallel()
	const person = "anna@example.com"
	from := account(t)
	fill(t, from, []string{texts[0], texts[1], texts[4]})
	dir := filepath.Join(t.TempDir(), "Maildir")
	sink, err := maildir.Create(dir)
	must(t, err)
	_, err = transfer.Export(t.Context(), from, sink, func(string) bool { return true }, nil)
	must(t, err)
	d := testenv.Dovecot(t, person)
	d.PutMaildir(person, dir)
	c, err := imap.Dial(t.Context(), d.IMAP, nil, time.Minute)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Login(t.Context(), person, "", d.Password))
	_, delimiter, err := c.Namespace(t.Context())
	must(t, err)
	for _, want := range all(t, from) {
		if want.folder.Messages == 0 || delimiter == "." && strings.Contains(want.folder.Name, ".") {
			continue // Dovecot itself cannot tell such a "." from its separator
		}
		levels := strings.Split(want.folder.Name, "/")
		for i := range levels {
			levels[i] = utf7.Encode(levels[i])
		}
		s, err := c.Examine(t.Context(), strings.Join(levels, delimiter))
		if err != nil {
			t.Errorf("%q: %v", want.folder.Name, err)
			continue
		}
		if s.UIDValidity != want.folder.UIDValidity || s.UIDNext != want.folder.UIDNext {
			t.Errorf("%q: UIDVALIDITY %d, UIDNEXT %d, want %+v", want.folder.Name, s.UIDValidity, s.UIDNext, want.folder)
		}
		var got []string
		must(t, c.Summaries(t.Context(), "1:*", false, func(m imap.Message) error {
			got = append(got, fmt.Sprint(m.UID, m.Flags, m.Size, m.Date))
			return nil
		}))
		var marks []string
		for _, m := range want.marks {
			flags := slices.Clone(m.Flags)
			slices.Sort(flags)
			marks = append(marks, fmt.Sprint(m.UID, append([]string{}, flags...), m.Octets, m.Date.Format("02-Jan-2006 15:04:05 -0700")))
		}
		if !reflect.DeepEqual(got, marks) {
			t.Errorf("%q:\n%v\nwant\n%v", want.folder.Name, got, marks)
		}
		var read []string
		must(t, c.Texts(t.Context(), []uint32{2, 5, 8}, func(_ uint32, _ int64, r io.Reader) error {
			text, err := io.ReadAll(r)
			read = append(read, string(text))
			return err
		}))
		if !slices.Equal(read, want.texts) {
			t.Errorf("%q: texts differ", want.folder.Name)
		}
	}
}

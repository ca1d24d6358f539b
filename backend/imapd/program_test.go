package imapd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
)

var programNow = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)

// TestPrograms: operators' programs find what they say, in words of a shell or
// in one piece.
func TestPrograms(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	account, err := store.Account(t.Context(), mail.Account{Name: "kim"})
	noError(t, err)
	defer account.Close()
	_, err = account.Create(t.Context(), "Müll & Co", "")
	noError(t, err)
	box, err := account.Mailbox(t.Context(), "Müll & Co")
	noError(t, err)
	defer box.Close()
	for _, m := range []struct {
		text string
		ago  time.Duration
	}{{"Subject: old (one)\r\n\r\nbody", 15 * 24 * time.Hour}, {"Subject: Grüße\r\n\r\n" + strings.Repeat("x", 3000), 3 * time.Hour}, {"Subject: new\r\n\r\nthe seen", 0}} {
		content, err := store.Stage(t.Context(), strings.NewReader(m.text))
		noError(t, err)
		_, err = box.Append(t.Context(), []mailstore.Append{{Content: content, InternalDate: programNow.Add(-m.ago)}})
		content.Discard()
		noError(t, err)
	}
	_, err = box.StoreFlags(t.Context(), []imap.UID{3}, mailstore.FlagsChange{Op: mailstore.FlagsAdd, Flags: mailstore.FlagSeen})
	noError(t, err)
	for _, test := range []struct {
		words []string
		want  []imap.UID
	}{
		{[]string{"ALL"}, []imap.UID{1, 2, 3}},
		{[]string{"since", "2weeks"}, []imap.UID{2, 3}},
		{[]string{"before", "2weeks"}, []imap.UID{1}},
		{[]string{"since 4hours before 1h30m"}, []imap.UID{2}},
		{[]string{"before", "2 hours ago"}, []imap.UID{1, 2}},
		{[]string{"on", "today"}, []imap.UID{2, 3}},
		{[]string{"ON", "2026-03-16"}, []imap.UID{1}},
		{[]string{"since", "2026-03-31T09:00:00Z"}, []imap.UID{2, 3}},
		{[]string{"since", "2026-03-31T09:00:01Z"}, []imap.UID{3}},
		{[]string{"older", "1month"}, nil},
		{[]string{"younger", "7200"}, []imap.UID{3}},
		{[]string{"savedbefore", "1day"}, nil}, // saved now, which is later
		{[]string{"larger", "2k"}, []imap.UID{2}},
		{[]string{"smaller", "1MiB", "not", "seen"}, []imap.UID{1, 2}},
		{[]string{"subject", "old (one)"}, []imap.UID{1}},
		{[]string{"subject", "Grüße"}, []imap.UID{2}},
		{[]string{"body", "seen"}, []imap.UID{3}},
		{[]string{"or", "seen", "(subject old)"}, []imap.UID{1, 3}},
		{[]string{"(", "or", "seen", "subject", "old", ")", "uid", "2:*"}, []imap.UID{3}},
		{[]string{`( or seen  subject "old (one)" )`}, []imap.UID{1, 3}},
		{[]string{"mailbox", "Müll & Co", "seen"}, []imap.UID{3}},
		{[]string{"mailbox", "M*", "seen"}, []imap.UID{3}},
		{[]string{"mailbox", "INBOX"}, nil},
		{[]string{"or", "mailbox", "inbox", "uid", "1"}, []imap.UID{1}},
		{[]string{"mailboxid", MailboxID(box.Info().GUID), "seen"}, []imap.UID{3}},
		{[]string{"mailboxid", "F00000000000000000000000000000000"}, nil},
		{[]string{"not", "mailbox", "INBOX", "fuzzy", "subject", "gruße"}, []imap.UID{2}},
	} {
		p, err := ParseProgram(test.words, programNow)
		if err != nil {
			t.Errorf("%q: %v", test.words, err)
			continue
		}
		found, err := NewSearches(store).Search(t.Context(), p, box, box.View())
		noError(t, err)
		var got []imap.UID
		for _, m := range found {
			got = append(got, m.UID)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q finds %v, want %v", test.words, got, test.want)
		}
		if len(got) > 0 && !p.MayMatch(box.Info()) {
			t.Errorf("%q cannot match, and does", test.words)
		}
	}
}

// TestProgramsRefused: what is wrong is told with its place.
func TestProgramsRefused(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"":                       "say which messages",
		"since|tomorrowish":      "a date is such as",
		"larger|10X":             "a size is a number",
		"larger|99999999999999T": "a size is a number",
		"older|soon":             "an age is",
		"mailbox":                "at its end",
		"mailboxid|F12":          "not an identifier",
		"wibble|seen":            "unknown search key, before seen",
		"$":                      "$ is what a session saved",
		"(|seen":                 "",
		"seen)":                  "",
		"subject|a\nb":           "one line",
	} {
		var list []string
		if words != "" {
			list = strings.Split(words, "|")
		}
		if _, err := ParseProgram(list, programNow); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", words, err, want)
		}
	}
	deep := "seen"
	for range 60 {
		deep = string(appendQuoted(nil, deep))
		if len(deep) > 1<<16 {
			break
		}
	}
	_, _ = ParseProgram([]string{deep}, programNow)
	if p, err := ParseProgram([]string{"or", "mailbox", "a", "mailbox", "b*"}, programNow); err != nil || p.MayMatch(mailstore.MailboxInfo{Name: "c"}) || !p.MayMatch(mailstore.MailboxInfo{Name: "a"}) || !p.MayMatch(mailstore.MailboxInfo{Name: "bc"}) || !slices.Equal(p.Mailboxes(), []string{"a"}) {
		t.Errorf("%+v, %v", p, err)
	}
}

// FuzzProgram: any words are a program or refused; sizes, ages and names do no
// harm.
func FuzzProgram(f *testing.F) {
	for _, seed := range []string{"mailbox|Trash|savedbefore|30d", "(|or|seen|from|a b|)", `"or seen (larger 10M)"`, "since|1y2mo3d", "older|9999999days", "not|mailbox|%/x*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, words string) {
		p, err := ParseProgram(strings.Split(words, "|"), programNow)
		if err != nil {
			return
		}
		p.MayMatch(mailstore.MailboxInfo{Name: "INBOX"})
	})
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

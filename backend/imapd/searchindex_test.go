package imapd

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// startIndexed starts a server whose store has a search index.
func startIndexed(t testing.TB, cfg mailstore.SearchIndex) *server {
	t.Helper()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(context.Background(), mailstore.Config{SearchIndex: &cfg}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return startServerOn(t, testConfig(), st)
}

// vocabulary is what messages and needles are made of.
var vocabulary = []string{"report", "Invoice", "inv", "caf\u00e9", "re\u0301sume\u0301", "\u4e2d\u6587", "\u6587\u5b57\u5316\u3051", "\u041f\u0440\u0438\u0432\u0435\u0442",
	"x", "ab", "zebra", "office", "\uac00\ub098\ub2e4", "\U0001f600\U0001f601", "http://example.net/a?b=c", "12345", "\u1ea1"}

func randomWords(r *rand.Rand, n int) string {
	var words []string
	for range n {
		words = append(words, vocabulary[r.IntN(len(vocabulary))])
	}
	return strings.Join(words, []string{" ", "", ", ", "\r\n"}[r.IntN(4)])
}

// randomMessage is some message with text in several places and encodings.
func randomMessage(r *rand.Rand) string {
	subject := strings.ReplaceAll(randomWords(r, r.IntN(3)), "\r\n", " ")
	header := "From: a@example.com\r\nSubject: =?utf-8?b?" + base64.StdEncoding.EncodeToString([]byte(subject)) + "?=\r\nMIME-Version: 1.0\r\n"
	part := func() string {
		text := randomWords(r, r.IntN(5))
		switch r.IntN(4) {
		case 0:
			return "Content-Type: text/plain; charset=utf-8\r\n\r\n" + text + "\r\n"
		case 1:
			return "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString([]byte(text)) + "\r\n"
		case 2:
			return "Content-Type: text/html; charset=utf-8\r\n\r\n<p>" + strings.ReplaceAll(text, "o", "<b>o</b>") + "</p>\r\n"
		default:
			return "Content-Type: application/octet-stream; name=zebra\r\n\r\n" + text + "\r\n"
		}
	}
	if r.IntN(2) == 0 {
		return header + part()
	}
	text := header + "Content-Type: multipart/mixed; boundary=bb\r\n\r\n"
	for range r.IntN(3) {
		text += "--bb\r\n" + part()
	}
	return text + "--bb\r\nContent-Type: message/rfc822\r\n\r\nSubject: " + strings.ReplaceAll(randomWords(r, 1), "\r\n", " ") + "\r\n" + part() + "\r\n--bb--\r\n"
}

// randomKey is a search key that looks for text.
func randomKey(r *rand.Rand, depth int) string {
	switch n := r.IntN(8); {
	case n == 0 && depth > 0:
		return "NOT " + randomKey(r, depth-1)
	case n == 1 && depth > 0:
		return "OR " + randomKey(r, depth-1) + " " + randomKey(r, depth-1)
	case n == 2 && depth > 0:
		return "(" + randomKey(r, depth-1) + " " + randomKey(r, depth-1) + ")"
	}
	needle := randomWords(r, 1+r.IntN(2))
	if runes := []rune(needle); r.IntN(2) == 0 && len(runes) > 2 {
		from := r.IntN(len(runes) - 1)
		needle = string(runes[from : from+1+r.IntN(len(runes)-from)])
	}
	keys := []string{"TEXT", "BODY", "SUBJECT", "HEADER Content-Type", "FUZZY TEXT", "FUZZY BODY", "SEEN TEXT"}
	return fmt.Sprintf("%s {%d+}\r\n%s", keys[r.IntN(len(keys))], len(needle), needle)
}

// TestIndexedSearch: whatever messages there are and whatever is asked, a search
// with the index finds what one without it finds: with all of them indexed, with
// some, after copies and expunges, and after a rebuild.
func TestIndexedSearch(t *testing.T) {
	t.Parallel()
	seed := testenv.Seed(t)
	r := rand.New(rand.NewPCG(seed, 1))
	with, without := startIndexed(t, mailstore.SearchIndex{MaxOctets: 400}), startServer(t, testConfig())
	indexed, plain := with.login("alice"), without.login("alice")
	both := func(command string) {
		t.Helper()
		indexed.ok(command)
		plain.ok(command)
	}
	both("CREATE other")
	both("SELECT INBOX")
	compare := func(when string, n int) {
		t.Helper()
		both("NOOP")
		for range n {
			command := "UID SEARCH CHARSET UTF-8 " + randomKey(r, 2)
			if got, want := indexed.ok(command), plain.ok(command); !slices.Equal(got, want) {
				t.Fatalf("seed %d, %s, %q:\n with %q\nwithout %q", seed, when, command, got, want)
			}
		}
	}
	add := func(n int) {
		t.Helper()
		for range n {
			m := randomMessage(r)
			both(fmt.Sprintf("APPEND INBOX (%s) {%d+}\r\n%s", []string{"", `\Seen`}[r.IntN(2)], len(m), m))
		}
	}
	build := func() {
		t.Helper()
		if err := with.store.RebuildIndex(t.Context(), "alice", nil); err != nil {
			t.Fatal(err)
		}
	}
	add(60)
	compare("nothing indexed", 20)
	build()
	compare("all indexed", 60)
	add(30)
	compare("some indexed", 30)
	both("UID COPY 1:20 other")
	both(`UID STORE 30:50 +FLAGS.SILENT (\Deleted)`)
	both("EXPUNGE")
	compare("after expunges", 20)
	build()
	compare("built anew", 40)
	both("SELECT other")
	compare("another mailbox", 30)
	stats, err := with.store.AccountIndex(t.Context(), "alice")
	if err != nil || !stats.Current || stats.Documents == 0 || stats.Documents > 90 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// counting counts the bodies that are opened.
type counting struct {
	store.Blobs
	opened atomic.Int64
}

func (c *counting) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	c.opened.Add(1)
	return c.Blobs.Open(ctx, ref)
}

// TestIndexSparesReading: with the index, a search reads only messages that may
// have what is looked for. It is built in the background, as messages come in
// and as searches miss it.
func TestIndexSparesReading(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	bodies := &counting{Blobs: blobs}
	st, err := mailstore.Open(context.Background(), mailstore.Config{SearchIndex: &mailstore.SearchIndex{}}, kv, bodies, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	s := startServerOn(t, testConfig(), st)
	c := s.login("alice")
	const n = 100
	for i := range n {
		c.append("INBOX", "", message(fmt.Sprintf("m%d", i), "some text of the body with a number: "+fmt.Sprint(1000+i*37)))
	}
	c.ok("SELECT INBOX")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	expect(t, "search", c.ok("SEARCH TEXT 4626"), "* SEARCH 99") // which has the index built
	if bodies.opened.Load() < n {
		t.Error("the index was there before it was built")
	}
	go func() { ended <- st.RunIndex(ctx) }()
	testenv.Eventually(t, soon, func() error {
		if at, err := st.AccountIndex(ctx, "alice"); err != nil || at.Documents < n {
			return fmt.Errorf("%d documents, %w", at.Documents, err)
		}
		return nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	before := bodies.opened.Load()
	expect(t, "search", c.ok("SEARCH BODY 4626"), "* SEARCH 99")
	expect(t, "search", c.ok("SEARCH TEXT 4627"), "* SEARCH")
	if read := bodies.opened.Load() - before; read > 2*hintsAfter+10 {
		t.Errorf("%d bodies were read", read)
	}
}

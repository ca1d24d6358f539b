package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/storetest"
)

// site is a store with an audit and a directory, which knows kim, lee and max.
type site struct {
	t     *testing.T
	store *mailstore.Store
	quota int64

	mu     sync.Mutex
	events []mail.Event
}

func newSite(t *testing.T) *site {
	t.Helper()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	must(t, err)
	return &site{t: t, store: st}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) deps() Deps {
	return Deps{
		Store: s.store, Searches: imapd.NewSearches(s.store),
		Owner: func(_ context.Context, user string) (mail.Account, error) {
			name := strings.TrimSuffix(user, "@example.com")
			if !slices.Contains([]string{"kim", "lee", "max"}, name) {
				return mail.Account{}, errors.New("the directory knows no " + user)
			}
			return mail.Account{Name: name, QuotaOctets: s.quota}, nil
		},
		Record: func(e mail.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		},
	}
}

// fill puts messages into a mailbox, the first n days old, the next a day less.
func (s *site) fill(user, mailbox string, texts ...string) {
	s.t.Helper()
	account, err := s.store.Account(s.t.Context(), mail.Account{Name: user})
	must(s.t, err)
	defer account.Close()
	if _, err := account.Create(s.t.Context(), mailbox, ""); err != nil && !errors.Is(err, mailstore.ErrMailboxExists) {
		s.t.Fatal(err)
	}
	m, err := account.Mailbox(s.t.Context(), mailbox)
	must(s.t, err)
	defer m.Close()
	for i, text := range texts {
		content, err := s.store.Stage(s.t.Context(), strings.NewReader(text))
		must(s.t, err)
		_, err = m.Append(s.t.Context(), []mailstore.Append{{Content: content, InternalDate: time.Now().AddDate(0, 0, i-len(texts))}})
		content.Discard()
		must(s.t, err)
	}
}

// over does a request at the other end of a connection.
func (s *site) over(ctx context.Context, q *Request, content io.Reader) (answer, warnings string, err error) {
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.WithoutCancel(ctx), far, s.deps()) }()
	var out, warned bytes.Buffer
	err = Call(ctx, near, q, content, Output{
		Answer: &out, Warn: func(line string) { warned.WriteString(line + "\n") }, Progress: func(string) {},
	})
	_ = near.Close()
	<-served
	return out.String(), warned.String(), err
}

func (s *site) does(q Request) string {
	s.t.Helper()
	answer, warnings, err := s.over(s.t.Context(), &q, nil)
	if err != nil || warnings != "" {
		s.t.Errorf("%+v: %v %s", q, err, warnings)
	}
	return answer
}

func (s *site) refuses(q Request, want string) {
	s.t.Helper()
	answer, _, err := s.over(s.t.Context(), &q, nil)
	if err == nil || !strings.Contains(err.Error(), want) {
		s.t.Errorf("%+v: %v, want %q\n%s", q, err, want, answer)
	}
}

func kim(do string, program ...string) Request {
	return Request{Do: do, Users: []string{"kim"}, Program: program}
}

func letter(subject, body string) string {
	return "Message-ID: <" + subject + "@x>\r\nDate: Sun, 1 Feb 2026 10:00:00 +0100\r\nFrom: =?utf-8?q?J=C3=B6rg?= <j@example.com>\r\nSubject: " + subject + "\r\n\r\n" + body
}

// uids are those that a mailbox holds.
func (s *site) uids(user, mailbox string) string {
	s.t.Helper()
	account, err := s.store.Visit(s.t.Context(), user)
	must(s.t, err)
	defer account.Close()
	m, err := account.Mailbox(s.t.Context(), mailbox)
	must(s.t, err)
	defer m.Close()
	var uids []imap.UID
	for i := range m.View().Len() {
		uids = append(uids, m.View().At(i).UID)
	}
	return uidSet(uids)
}

func TestTree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.refuses(Request{Do: "list", Users: []string{"kim"}}, "no mailboxes yet")
	create := Request{Do: "create", Users: []string{"kim"}, Mailboxes: []string{"Müll & Co", "Work/Plans"}, Subscribe: true}
	if got := s.does(create); got != "kim: Müll & Co created\nkim: Work/Plans created\n" {
		t.Errorf("create: %q", got)
	}
	s.refuses(create, "exists")
	s.does(Request{Do: "rename", Users: []string{"kim@example.com"}, Mailboxes: []string{"Work/Plans"}, To: "Work/Ideas"})
	s.does(Request{Do: "unsubscribe", Users: []string{"kim"}, Mailboxes: []string{"Work/Ideas"}})
	list := s.does(Request{Do: "list", Users: []string{"kim"}, Format: "tab", Mailboxes: []string{"M*", "work/*", "Work/%"}})
	if list != "mailbox\tspecial_use\tsubscribed\texists\nMüll & Co\t\tyes\tyes\nWork/Ideas\t\tno\tyes\n" {
		t.Errorf("list: %q", list)
	}
	s.fill("kim", "Work/Ideas", letter("one", "1"))
	remove := Request{Do: "delete", Users: []string{"kim"}, Mailboxes: []string{"Work/Ideas"}, DryRun: true}
	if got := s.does(remove); got != "kim: Work/Ideas with 1 message(s) would be deleted\n" {
		t.Errorf("delete: %q", got)
	}
	status := s.does(Request{Do: "status", Users: []string{"kim"}, Format: "json", Mailboxes: []string{"Work/Ideas"}})
	var told struct {
		Mailbox          string
		Messages, Unseen int
		UIDNext          uint32
	}
	if err := json.Unmarshal([]byte(status), &told); err != nil || told.Messages != 1 || told.Unseen != 1 || told.UIDNext != 2 {
		t.Errorf("status: %s %+v %v", status, told, err)
	}
	remove.DryRun = false
	s.does(remove)
	s.refuses(remove, "no such mailbox")
	s.refuses(Request{Do: "delete", Users: []string{"kim"}, Mailboxes: []string{"INBOX"}}, "INBOX")
	if !slices.ContainsFunc(s.events, func(e mail.Event) bool {
		return e.Kind == mail.EventMailbox && e.Detail == "delete" && e.Mailbox == "Work/Ideas" && e.Owner == "kim" && e.Result == "ok"
	}) {
		t.Errorf("the audit: %+v", s.events)
	}
}

func TestFetchFormats(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill("kim", "INBOX", letter("one", "first\r\n"), letter("two", "sec\xffond\r\n"))
	s.does(Request{Do: "flags", Change: "add", Flags: []string{`\seen`, "$Work"}, Users: []string{"kim"}, Program: []string{"uid", "1"}})
	fetch := func(format, program string, fields ...string) string {
		q := kim("fetch", program)
		q.Fields, q.Format = fields, format
		return s.does(q)
	}
	if got := fetch("tab", "seen", "uid", "flags", "hdr.from", "date.sent", "mailbox"); got !=
		"uid\tflags\thdr.from\tdate.sent\tmailbox\n1\t\\\\Seen $Work\tJörg <j@example.com>\t2026-02-01T10:00:00+01:00\tINBOX\n" {
		t.Errorf("tab: %q", got)
	}
	if got := fetch("raw", "uid 2", "text"); got != letter("two", "sec\xffond\r\n") {
		t.Errorf("raw: %q", got)
	}
	if got := fetch("raw", "uid 1", "body"); got != "first\r\n" {
		t.Errorf("raw body: %q", got)
	}
	if got := fetch("flow", "uid 1", "uid", "hdr", "preview"); got != "uid: 1\nhdr:\n"+strings.TrimSuffix(letter("one", ""), "")+"preview: first\n\f\n" {
		t.Errorf("flow: %q", got)
	}
	s.fill("kim", "Odd", letter("=?utf-8?Q?=1B]0;title=07=C2=9Bx?=", ""))
	if got := fetch("flow", "mailbox Odd", "hdr.subject"); got != "hdr.subject: \\x1b]0;title\\x07\\x9bx\n\f\n" {
		t.Errorf("flow of a Subject that commands terminals: %q", got)
	}
	if got := visible("{3}\r\na\tb"); got != "{3}\r\na\tb" {
		t.Errorf("a literal becomes %q", got)
	}
	s.does(kim("expunge", "mailbox Odd"))
	lines := strings.Split(fetch("json", "all", "uid", "size", "flags", "body", "imap.envelope", "imap.bodystructure", "guid", "threadid", "modseq", "seq", "date.received", "date.saved", "mailbox-guid"), "\n")
	if len(lines) != 3 {
		t.Fatalf("json: %q", lines)
	}
	for i, want := range []string{`"body":"first\r\n"`, `"body.base64":"c2Vj/29uZA0K"`} {
		var any map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &any); err != nil || !strings.Contains(lines[i], want) || any["uid"] != float64(i+1) {
			t.Errorf("json: %v %s", err, lines[i])
		}
	}
	if got := fetch("table", "all", "uid", "body", "hdr.subject"); got != "UID  BODY         HDR.SUBJECT\n1    first\\r\\n    one\n2    sec\ufffdond\\r\\n  two\n" {
		t.Errorf("table: %q", got)
	}
	ids := s.does(kim("search", "subject", "two"))
	id, uid, _ := strings.Cut(strings.TrimSpace(ids), " ")
	if got := s.does(kim("search", "mailboxid", id, "uid", uid)); got != ids || uid != "2" {
		t.Errorf("search: %q, then %q", ids, got)
	}
	s.refuses(Request{Do: "fetch", Users: []string{"kim"}, Fields: []string{"wibble"}, Program: []string{"all"}}, "no field")
	s.refuses(Request{Do: "fetch", Users: []string{"kim"}, Fields: []string{"uid"}, Format: "xml", Program: []string{"all"}}, "no format")
	s.refuses(kim("search"), "say which messages")
	s.refuses(kim("search", "mailbox", "INBXO"), `no mailbox "INBXO"`)
	s.refuses(Request{Do: "search", Program: []string{"all"}}, "whose mailboxes")
	s.refuses(Request{Do: "wipe", All: true}, "another version")
	if !slices.ContainsFunc(s.events, func(e mail.Event) bool { return e.Detail == "mailbox fetch" && e.Owner == "kim" && e.Count == 2 }) {
		t.Errorf("the audit does not tell whose mail was read: %+v", s.events)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill("kim", "INBOX", letter("a", "1"), letter("b", "2"), letter("a", "1"), letter("c", "3"))
	s.fill("lee", "INBOX")
	dry := kim("expunge", "subject", "b")
	dry.DryRun = true
	if got := s.does(dry); got != "kim: INBOX: 1 message(s) would be expunged\n" || s.uids("kim", "INBOX") != "1:4" {
		t.Errorf("dry run: %q", got)
	}
	repeated := kim("deduplicate", "all")
	if got := s.does(repeated); !strings.Contains(got, "1 repeated") || s.uids("kim", "INBOX") != "1:2,4" {
		t.Errorf("deduplicate: %q leaves %s", got, s.uids("kim", "INBOX"))
	}
	repeated.ByMessageID = true
	if got := s.does(repeated); !strings.Contains(got, "no message is there twice") {
		t.Errorf("deduplicate: %q", got)
	}
	twice := kim("copy", "subject", "c")
	twice.Users, twice.To, twice.Create = []string{"kim", "kim"}, "Twice", true
	if s.does(twice); s.uids("kim", "Twice") != "1" {
		t.Errorf("somebody named twice: %s", s.uids("kim", "Twice"))
	}
	s.does(kim("expunge", "mailbox", "Twice"))
	none := kim("flags", "all")
	none.Change = "add"
	s.refuses(none, "which flags")
	none.Flags = []string{"b("}
	s.refuses(none, "parenthesis")
	move := kim("move", "subject", "c")
	move.To = "Old"
	s.refuses(move, "--create")
	move.Create = true
	s.does(move)
	if s.uids("kim", "INBOX") != "1:2" || s.uids("kim", "Old") != "1" {
		t.Errorf("move leaves %s and %s", s.uids("kim", "INBOX"), s.uids("kim", "Old"))
	}
	if got := s.does(move); !strings.Contains(got, "no message") || s.uids("kim", "Old") != "1" {
		t.Errorf("again: %q", got)
	}
	over := kim("copy", "mailbox", "INBOX")
	over.To, over.ToUser = "INBOX", "lee@example.com"
	if got := s.does(over); got != "kim: INBOX: 2 message(s) copied to lee@example.com's INBOX\n" || s.uids("lee", "INBOX") != "1:2" {
		t.Errorf("copy: %q, %s", got, s.uids("lee", "INBOX"))
	}
	s.does(kim("expunge", "mailbox", "INBOX", "older", "84hours"))
	if s.uids("kim", "INBOX") != "2" {
		t.Errorf("expunge leaves %s", s.uids("kim", "INBOX"))
	}
	if !slices.ContainsFunc(s.events, func(e mail.Event) bool {
		return e.Kind == mail.EventExpunge && e.Mailbox == "INBOX" && e.Owner == "kim" && e.UIDs == "1" && e.Detail == "expunge"
	}) {
		t.Errorf("the audit: %+v", s.events)
	}
	// Quotas count.
	s.quota = 10
	over.Users = []string{"kim"}
	if _, _, err := s.over(t.Context(), &over, nil); err == nil || status.Of(err) == status.NoSuchUser {
		t.Errorf("over quota: %v", err)
	}
	if s.uids("lee", "INBOX") != "1:2" {
		t.Errorf("over quota there is %s", s.uids("lee", "INBOX"))
	}
}

func TestSave(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	text := letter("saved", strings.Repeat("long\r\n", 50_000))
	q := Request{Do: "save", Users: []string{"kim", "lee"}, Mailboxes: []string{"Drafts/New"}, Flags: []string{`\Draft`}, Create: true, Date: time.Unix(1e9, 0)}
	answer, warned, err := s.over(t.Context(), &q, strings.NewReader(text))
	if err != nil || warned != "" || answer != "kim: saved in Drafts/New as UID 1\nlee: saved in Drafts/New as UID 1\n" {
		t.Errorf("%q %s %v", answer, warned, err)
	}
	for _, user := range q.Users {
		fetch := Request{Do: "fetch", Users: []string{user}, Program: []string{"draft on 2001-09-09"}, Fields: []string{"text"}, Format: "raw"}
		if got := s.does(fetch); got != text {
			t.Errorf("%s reads %d octets of %d", user, len(got), len(text))
		}
	}
	q.Flags = []string{`\Wibble`}
	if _, warned, err := s.over(t.Context(), &q, strings.NewReader(text)); err == nil || !strings.Contains(warned, "no flag") {
		t.Errorf("%s %v", warned, err)
	}
	if _, _, err := s.over(t.Context(), &q, io.MultiReader(strings.NewReader(text), &broken{})); err == nil || !strings.Contains(err.Error(), "broken file") {
		t.Errorf("a message that cannot be read: %v", err)
	}
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, errors.New("broken file") }

// TestManyAccounts: what goes wrong with one does not keep the others, and is
// told; people whom the directory does not know are reached by their account.
func TestManyAccounts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, user := range []string{"kim", "lee", "left/long ago"} {
		s.fill(user, "INBOX", letter("x", user))
	}
	s.fill("lee", "Trash", letter("old", "1"))
	answer, warned, err := s.over(t.Context(), &Request{Do: "search", Users: []string{"kim", "nobody", "lee"}, Program: []string{"mailbox", "INBOX"}, Format: "tab"}, nil)
	if err == nil || err.Error() != "1 of 3 accounts failed: nobody" || !strings.HasPrefix(warned, "nobody: ") {
		t.Errorf("%q %v", warned, err)
	}
	if strings.Count(answer, "\n") != 3 || !strings.HasPrefix(answer, "user\t") || !strings.Contains(answer, "\nlee\t") {
		t.Errorf("%q", answer)
	}
	expunge := Request{Do: "expunge", All: true, Program: []string{"mailbox", "Trash"}}
	if got := s.does(expunge); !strings.Contains(got, "lee: Trash: 1 message(s) expunged\n") {
		t.Errorf("%q", got)
	}
	if got := s.does(Request{Do: "fetch", Users: []string{"l*"}, Program: []string{"mailbox INBOX"}, Fields: []string{"user", "body"}, Format: "tab"}); got != "user\tbody\nlee\tlee\nleft/long ago\tleft/long ago\n" {
		t.Errorf("%q", got)
	}
	s.refuses(Request{Do: "list", Users: []string{"z*"}}, "no account is called like")
}

// TestStop: a stopped command has done whole pieces, tells where it was, and
// the same command does the rest.
func TestStop(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var texts []string
	for i := range 3 * pieceMessages {
		texts = append(texts, letter(fmt.Sprint(i), "x"))
	}
	s.fill("kim", "INBOX", texts...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := s.deps()
	record := d.Record
	d.Record = func(e mail.Event) {
		if record(e); e.Kind == mail.EventExpunge {
			cancel() // after the first piece
		}
	}
	q := kim("expunge", "all")
	var answer bytes.Buffer
	err := Run(ctx, d, &q, nil, Output{Answer: &answer})
	if err == nil || !strings.Contains(err.Error(), "stopped at account kim, mailbox INBOX, 200 message(s) done") {
		t.Errorf("%v", err)
	}
	if left := s.uids("kim", "INBOX"); left != fmt.Sprintf("%d:%d", pieceMessages+1, 3*pieceMessages) {
		t.Errorf("left are %s", left)
	}
	if got := s.does(q); !strings.Contains(got, "400 message(s) expunged") {
		t.Errorf("%q", got)
	}
}

// TestHangup: a client that asks to stop, or is gone, stops a command, too.
func TestHangup(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill("kim", "INBOX")
	d := s.deps()
	asked := make(chan struct{}, 2)
	d.Owner = func(ctx context.Context, _ string) (mail.Account, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return mail.Account{}, ctx.Err()
	}
	q := kim("expunge", "all")
	near, far := net.Pipe()
	served, called := make(chan error, 1), make(chan error, 1)
	go func() { served <- Serve(t.Context(), far, d) }()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { called <- Call(ctx, near, &q, nil, Output{Answer: io.Discard}) }()
	<-asked
	stop()
	if err := <-called; err == nil || !strings.Contains(err.Error(), "stopped at account kim") {
		t.Errorf("%v", err)
	}
	must(t, <-served)
	near, far = net.Pipe()
	go func() { served <- Serve(t.Context(), far, d) }()
	go func() { called <- Call(t.Context(), near, &q, nil, Output{Answer: io.Discard}) }()
	<-asked
	_ = near.Close()
	if err := <-called; err == nil {
		t.Error("a lost conversation is no error")
	}
	if err := <-served; err == nil {
		t.Error("a lost client is no error")
	}
}

// TestClientsSee: a handle that was open before sees what was done.
func TestClientsSee(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fill("kim", "INBOX", letter("a", "1"), letter("b", "2"))
	account, err := s.store.Visit(t.Context(), "kim")
	must(t, err)
	defer account.Close()
	m, err := account.Mailbox(t.Context(), "INBOX")
	must(t, err)
	defer m.Close()
	before, changed := m.View().HighestModSeq(), m.Changed()
	s.does(kim("expunge", "uid", "1"))
	<-changed
	if gone, complete := m.ExpungedSince(before); !complete || !slices.Equal(gone, []imap.UID{1}) {
		t.Errorf("vanished: %v, %t", gone, complete)
	}
}

// FuzzServe: whatever comes over the connection does no harm.
func FuzzServe(f *testing.F) {
	frame := func(kind byte, text string) string {
		return string([]byte{kind, 0, 0, byte(len(text) >> 8), byte(len(text))}) + text
	}
	f.Add([]byte(frame(frameRequest, `{"do":"list","users":["kim"]}`) + frame(frameEnds, "") + frame(frameStop, "")))
	f.Add([]byte(frame(frameRequest, `{"do":"save","users":["kim"],"mailboxes":["INBOX"]}`) + frame(frameContent, "a: b\r\n\r\n")))
	f.Add([]byte(frame(frameContent, "x")))
	kv, blobs := storetest.Open(f)
	st, err := mailstore.Open(context.Background(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	must(f, err)
	s := &site{store: st}
	f.Fuzz(func(t *testing.T, octets []byte) {
		near, far := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = Serve(context.Background(), far, s.deps())
		}()
		go func() { _, _ = io.Copy(io.Discard, near) }()
		_, _ = near.Write(octets)
		_ = near.Close()
		<-served
	})
}

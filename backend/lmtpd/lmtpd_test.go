package lmtpd

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/acl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
	"github.com/postern-mail/postern/store/storetest"
)

// directory is a fixed set of accounts by address, with an outage for the
// domain "down.example".
type directory map[string]mail.Account

func (d directory) AccountOf(_ context.Context, a mail.Address) (mail.Account, error) {
	if a.Domain == "down.example" {
		return mail.Account{}, status.Errorf(status.DirectoryDown, "dial tcp: refused")
	}
	if who, ok := d[a.Fold().String()]; ok {
		return who, nil
	}
	return mail.Account{}, status.New(status.NoSuchUser, nil)
}

type recorder struct {
	mu     sync.Mutex
	events []mail.Event
}

func (r *recorder) Record(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// deliveries are the events about mail.
func (r *recorder) deliveries() []mail.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.events), func(e mail.Event) bool { return e.Kind != mail.EventDelivery })
}

// fixture is a handler over a store of the test's own.
type fixture struct {
	*Handler
	store *mailstore.Store
	audit *recorder
}

func newFixture(t *testing.T, cfg Config) *fixture {
	t.Helper()
	kv, blobs := storetest.Open(t)
	return newFixtureOn(t, cfg, kv, blobs)
}

func newFixtureOn(t *testing.T, cfg Config, kv store.Store, blobs store.Blobs) *fixture {
	t.Helper()
	return newFixtureOf(t, cfg, mailstore.Config{}, kv, blobs)
}

func newFixtureOf(t *testing.T, cfg Config, mailboxes mailstore.Config, kv store.Store, blobs store.Blobs) *fixture {
	t.Helper()
	s, err := mailstore.Open(t.Context(), mailboxes, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: s, audit: &recorder{}}
	f.Handler, err = New(cfg, Deps{Store: s, Audit: f.audit, Accounts: directory{
		"kim@example.org":        {Name: "kim"},
		"kim.reader@example.org": {Name: "kim"},
		"pat@example.org":        {Name: "pat"},
		"full@example.org":       {Name: "full", QuotaOctets: 300},
		"a+b@example.org":        {Name: "ab"},
		"a@example.org":          {Name: "a"},
	}}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Check(context.Background()); err != nil {
			t.Errorf("check: %v", err)
		}
	})
	return f
}

func (f *fixture) begin(t *testing.T, from smtp.MailCommand) smtp.Transaction {
	t.Helper()
	s, err := f.NewSession(t.Context(), &mail.Client{Session: "s1", Helo: "gw.example.org (\r\nX: y"})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.Mail(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func rcpt(t *testing.T, tx smtp.Transaction, address string) error {
	t.Helper()
	return tx.Rcpt(t.Context(), smtp.RcptCommand{ForwardPath: mail.MustAddress(address)})
}

func (f *fixture) messages(t *testing.T, account, mailbox string) []string {
	t.Helper()
	a, err := f.store.Account(t.Context(), mail.Account{Name: account})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	m, err := a.Mailbox(t.Context(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	v := m.View()
	texts := make([]string, v.Len())
	for i := range texts {
		body, err := m.Body(t.Context(), v.At(i))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return texts
}

const text = "Subject: x\r\n\r\nhello\r\n"

func TestRecipients(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{})
	for _, row := range []struct {
		address  string
		declared int64
		want     status.Reason
	}{
		{"kim@example.org", 0, status.OK},
		{"KIM@example.org", 0, status.OK},
		{"kim+lists@example.org", 0, status.OK},
		{"a+b@example.org", 0, status.OK},
		{"nobody@example.org", 0, status.NoSuchUser},
		{"nobody+x@example.org", 0, status.NoSuchUser},
		{"kim@down.example", 0, status.DirectoryDown},
		{"kim+x@down.example", 0, status.DirectoryDown},
		{"full@example.org", 301, status.MailboxFull},
		{"full@example.org", 200, status.OK},
	} {
		tx := f.begin(t, smtp.MailCommand{DeclaredOctets: row.declared})
		if err := rcpt(t, tx, row.address); status.Of(err) != row.want {
			t.Errorf("%s: got %v, want %s", row.address, err, row.want)
		}
		tx.Abort()
	}
	for _, e := range f.audit.deliveries() {
		if (e.Reason == "NoSuchUser") != (e.Result == "refused") || e.Kind != mail.EventDelivery {
			t.Errorf("audit %+v", e)
		}
	}
	if len(f.audit.deliveries()) != 5 {
		t.Errorf("%d audit events for 5 refusals", len(f.audit.deliveries()))
	}
}

func TestRepliesComeInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{Hostname: "mail.example.org"})
	tx := f.begin(t, smtp.MailCommand{ReversePath: mail.MustAddress("lee@example.net")})
	for _, address := range []string{"kim@example.org", "full@example.org", "pat@example.org", "kim.reader@example.org", "a@example.org"} {
		if err := rcpt(t, tx, address); err != nil {
			t.Fatal(err)
		}
	}
	replies, err := tx.Content(t.Context(), strings.NewReader(text+strings.Repeat("x", 300)+"\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	var codes []int
	for _, r := range replies {
		codes = append(codes, r.Code)
	}
	want := []int{250, status.MailboxFull.Reply().Code, 250, 250, 250}
	for i := range want {
		if i >= len(codes) || codes[i] != want[i] {
			t.Fatalf("replies %v, want %v", codes, want)
		}
	}
	kim := f.messages(t, "kim", "INBOX")
	if len(kim) != 2 || len(f.messages(t, "pat", "INBOX")) != 1 || len(f.messages(t, "full", "INBOX")) != 0 {
		t.Fatalf("kim has %d messages", len(kim))
	}
	header, body, _ := strings.Cut(kim[1], "Subject")
	for _, line := range []string{
		"Return-Path: <lee@example.net>\r\n", "Delivered-To: kim.reader@example.org\r\n",
		"Received: from gw.example.org????X:?y by mail.example.org with LMTP id s1\r\n\tfor <kim.reader@example.org>; ",
	} {
		if !strings.Contains(header, line) {
			t.Errorf("header %q lacks %q", header, line)
		}
	}
	if !strings.HasPrefix(body, ": x\r\n\r\nhello\r\n") {
		t.Errorf("body %q", body)
	}
	if n := len(f.audit.deliveries()); n != 5 {
		t.Errorf("%d audit events", n)
	}
}

func TestRepeatedDeliveryIsStoredOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{})
	for range 3 {
		tx := f.begin(t, smtp.MailCommand{DeliveryID: "q1"})
		for _, address := range []string{"kim@example.org", "kim.reader@example.org"} {
			if err := rcpt(t, tx, address); err != nil {
				t.Fatal(err)
			}
		}
		replies, err := tx.Content(t.Context(), strings.NewReader(text))
		if err != nil || !replies[0].Positive() || !replies[1].Positive() {
			t.Fatalf("%v, %v", replies, err)
		}
	}
	if n := len(f.messages(t, "kim", "INBOX")); n != 2 {
		t.Errorf("%d messages, want one for each address", n)
	}
}

func TestDetailMailbox(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{DetailMailboxes: true})
	tx := f.begin(t, smtp.MailCommand{})
	for _, address := range []string{"kim+Junk@example.org", "kim+nowhere@example.org"} {
		if err := rcpt(t, tx, address); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Content(t.Context(), strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if len(f.messages(t, "kim", "Junk")) != 1 || len(f.messages(t, "kim", "INBOX")) != 1 {
		t.Error("not in Junk and INBOX")
	}
}

func TestLostConnectionKeepsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{})
	tx := f.begin(t, smtp.MailCommand{})
	if err := rcpt(t, tx, "kim@example.org"); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("connection lost")
	_, err := tx.Content(t.Context(), io.MultiReader(strings.NewReader(text), iotest.ErrReader(lost)))
	if !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	if n := len(f.messages(t, "kim", "INBOX")); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// fullBlobs is a body store without room.
type fullBlobs struct{ store.Blobs }

func (fullBlobs) Stage(context.Context, io.Reader) (store.Staged, error) { return nil, store.ErrFull }
func (fullBlobs) CheckSpace(int64) error                                 { return store.ErrFull }

func TestDiskFull(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	f := newFixtureOn(t, Config{}, kv, fullBlobs{blobs})
	tx := f.begin(t, smtp.MailCommand{})
	if err := rcpt(t, tx, "kim@example.org"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Data(t.Context()); status.Of(err) != status.MailSystemFull {
		t.Errorf("before DATA: %v", err)
	}
	if _, err := tx.Content(t.Context(), strings.NewReader(text)); status.Of(err) != status.MailSystemFull {
		t.Errorf("after DATA: %v", err)
	}
}

// TestIndependentClient speaks with a client that shares no code with us.
func TestIndependentClient(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{})
	engine, err := smtp.NewServer(smtp.ServerConfig{Mode: smtp.ModeLMTP, Hostname: "mail.example.org"}, f.Handler, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Serve(ctx, listener) }()
	defer func() {
		cancel()
		<-done
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := gosmtp.NewClientLMTP(conn)
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Mail("", nil); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"kim@example.org", "full@example.org"} {
		if err := c.Rcpt(to, nil); err != nil {
			t.Fatal(err)
		}
	}
	var refused *gosmtp.SMTPError
	if err := c.Rcpt("nobody@example.org", nil); !errors.As(err, &refused) || refused.Code != 550 {
		t.Errorf("unknown: %v", err)
	}
	if err := c.Rcpt("kim@down.example", nil); !errors.As(err, &refused) || refused.Code != 451 {
		t.Errorf("directory down: %v", err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text+strings.Repeat("y", 300)); err != nil {
		t.Fatal(err)
	}
	accepted, err := w.CloseWithLMTPResponse()
	var refusals gosmtp.LMTPDataError
	if !errors.As(err, &refusals) || refusals["full@example.org"] == nil || refusals["full@example.org"].Code != 452 || accepted["kim@example.org"] == nil {
		t.Errorf("replies %v, %v", accepted, err)
	}
	_ = c.Close()
	if got := f.messages(t, "kim", "INBOX"); len(got) != 1 || !strings.HasPrefix(got[0], "Return-Path: <>\r\n") {
		t.Errorf("kim has %q", got)
	}
	if got := f.messages(t, "full", "INBOX"); len(got) != 0 {
		t.Errorf("full has %q", got)
	}
}

// TestConnectionsAreAudited: the session id of a delivery leads to the
// connection it came by.
func TestConnectionsAreAudited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{})
	session, err := f.NewSession(t.Context(), &mail.Client{Session: "s1", TLS: &mail.TLSInfo{Version: "TLSv1.3"}})
	if err != nil {
		t.Fatal(err)
	}
	session.Close(errors.New("connection lost"))
	events := f.audit.events
	if len(events) != 2 || events[0].Kind != mail.EventConnect || events[1].Kind != mail.EventDisconnect ||
		events[0].Session != "s1" || events[1].Session != "s1" || events[1].TLS != "TLSv1.3" || events[1].Detail != "connection lost" {
		t.Errorf("%+v", events)
	}
}

// TestDetailNeedsPost: where it is configured, mail to user+Detail goes into
// mailboxes that anyone may post to, and into INBOX otherwise.
func TestDetailNeedsPost(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Config{DetailMailboxes: true, DetailNeedsPost: true})
	account, err := f.store.Account(t.Context(), mail.Account{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	defer account.Close()
	m, err := account.Create(t.Context(), "Lists", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ identifier, rights, want string }{
		{"bob", "lrp", ""}, {"anyone", "l", ""}, {"anyone", "p", "Lists"}, {"-anyone", "p", ""},
	} {
		rights, _ := acl.Parse(row.rights)
		if err := account.SetAccess(t.Context(), m.GUID, row.identifier, &rights); err != nil {
			t.Fatal(err)
		}
		if got := f.mailbox(account, "Lists"); got != row.want {
			t.Errorf("%s %s: delivered into %q, want %q", row.identifier, row.rights, got, row.want)
		}
	}
}

// TestDetailPostByDefault: what the configuration grants counts until the
// mailbox's own list says otherwise.
func TestDetailPostByDefault(t *testing.T) {
	t.Parallel()
	access := map[string]acl.List{"alice": {{Identifier: acl.Anyone, Rights: acl.Post}}}
	f := newFixture(t, Config{DetailMailboxes: true, DetailNeedsPost: true, Access: access})
	for _, name := range []string{"alice", "bob"} {
		account, err := f.store.Account(t.Context(), mail.Account{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		defer account.Close()
		m, err := account.Create(t.Context(), "Lists", "")
		if err != nil {
			t.Fatal(err)
		}
		if got := f.mailbox(account, "Lists"); (got == "Lists") != (name == "alice") {
			t.Errorf("%s: delivered into %q", name, got)
		}
		if err := account.SetAccess(t.Context(), m.GUID, acl.Anyone, new(acl.Rights)); err != nil {
			t.Fatal(err)
		}
		if got := f.mailbox(account, "Lists"); got != "" {
			t.Errorf("%s: delivered into %q, where nobody may post", name, got)
		}
	}
}

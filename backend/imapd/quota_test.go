package imapd

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store/storetest"
)

// TestQuotaCommands: the commands of RFC 9208, with usage in units of 1024 octets.
func TestQuotaCommands(t *testing.T) {
	t.Parallel()
	s := startServer(t, sharingConfig())
	alice, small := s.login("alice"), s.login("small")
	expect(t, "no limits", alice.ok("GETQUOTAROOT INBOX"), `* QUOTAROOT INBOX`)
	alice.fails(`GETQUOTA "User quota"`, "NO [NONEXISTENT]")
	expect(t, "a limit", small.ok("GETQUOTAROOT INBOX"),
		`* QUOTAROOT INBOX "User quota"`, `* QUOTA "User quota" (STORAGE 0 1)`)
	text := message("one", strings.Repeat("x", 500))
	small.append("INBOX", `\Deleted`, text)
	expect(t, "usage", small.ok(`GETQUOTA "User quota"`), `* QUOTA "User quota" (STORAGE 1 1)`)
	expect(t, "what an expunge frees", small.ok("STATUS INBOX (DELETED DELETED-STORAGE)"),
		fmt.Sprintf("* STATUS INBOX (DELETED 1 DELETED-STORAGE %d)", len(text)))
	small.fails(fmt.Sprintf("APPEND INBOX {%d+}\r\n%s", len(text), text), "NO [OVERQUOTA]")
	small.ok("SELECT INBOX")
	small.fails("COPY 1 Sent", "NO [OVERQUOTA]")
	small.ok("MOVE 1 Sent")
	small.fails("SETQUOTA \"User quota\" (STORAGE 10)", "NO [NOPERM]")
	small.fails("GETQUOTA nothing", "NO [NONEXISTENT]")
	small.fails("GETQUOTAROOT nothing", "NO [NONEXISTENT]")
	small.fails(`GETQUOTA "Other Users/alice"`, "NO [NONEXISTENT]")

	// Who may add to somebody's mailboxes learns how full they are.
	small.ok("SETACL INBOX alice lr")
	expect(t, "a reader", alice.ok(`GETQUOTAROOT "Other Users/small/INBOX"`), `* QUOTAROOT "Other Users/small/INBOX"`)
	alice.fails(`GETQUOTA "Other Users/small"`, "NO [NONEXISTENT]")
	small.ok("SETACL INBOX alice lri")
	expect(t, "who may add", alice.ok(`GETQUOTAROOT "Other Users/small/INBOX"`),
		`* QUOTAROOT "Other Users/small/INBOX" "Other Users/small"`, `* QUOTA "Other Users/small" (STORAGE 1 1)`)
	expect(t, "by root", alice.ok(`GETQUOTA "Other Users/small"`), `* QUOTA "Other Users/small" (STORAGE 1 1)`)
	alice.fails(fmt.Sprintf("APPEND \"Other Users/small/INBOX\" {%d+}\r\n%s", len(text), text), "NO [OVERQUOTA]")
}

// limited is a directory whose limits change while the server runs.
type limited struct {
	auth
	octets, messages atomic.Int64
	down             atomic.Bool
}

func (l *limited) Account(_ context.Context, login string) (mail.Account, error) {
	if l.down.Load() {
		return mail.Account{}, status.New(status.DirectoryDown, nil)
	}
	return mail.Account{Name: login, QuotaOctets: l.octets.Load(), QuotaMessages: l.messages.Load()}, nil
}

// TestLimitsChange: a new limit of the directory acts on clients that are
// logged in, within seconds, and an outage leaves the old one.
func TestLimitsChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := openStore(t)
		people := &limited{}
		srv := newServer(t, testConfig(), st)
		srv.deps.Accounts = people
		account, err := st.Account(t.Context(), mail.Account{Name: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		defer account.Close()
		s := &session{server: srv.Server, account: account, log: hclog.NewNullLogger()}
		p := place{account: account}
		limit := func() int64 {
			s.refreshLimits(t.Context(), &p)
			_, most := account.QuotaMessages()
			return most
		}
		people.messages.Store(7)
		if got := limit(); got != 0 {
			t.Errorf("asked again at once: %d", got)
		}
		time.Sleep(limitsAge)
		if got := limit(); got != 7 {
			t.Errorf("after %v: %d", limitsAge, got)
		}
		people.messages.Store(9)
		people.down.Store(true)
		time.Sleep(limitsAge)
		if got := limit(); got != 7 {
			t.Errorf("in an outage: %d", got)
		}
		people.down.Store(false)
		if got := limit(); got != 9 {
			t.Errorf("after it: %d", got)
		}
	})
}

// TestMessageLimit: numbers of messages are limited, too, and a mailbox may
// have more room than others.
func TestMessageLimit(t *testing.T) {
	t.Parallel()
	kv, blobs := storetest.Open(t)
	st, err := mailstore.Open(t.Context(), mailstore.Config{Mailboxes: []mailstore.ConfiguredMailbox{{Name: "Trash", QuotaExtra: 50}}}, kv, blobs, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	people := &limited{}
	people.messages.Store(2)
	s := newServer(t, testConfig(), st)
	s.deps.Accounts = people
	conn := s.start().dial()
	conn.line()
	conn.ok("LOGIN alice secret")
	conn.append("INBOX", "", message("one", "x"))
	conn.append("INBOX", "", message("two", "x"))
	conn.fails("APPEND INBOX {3+}\r\nabc", "NO [OVERQUOTA]")
	expect(t, "usage", conn.ok("GETQUOTAROOT INBOX"), `* QUOTAROOT INBOX "User quota"`, `* QUOTA "User quota" (MESSAGE 2 2)`)
	conn.ok("SELECT INBOX")
	conn.fails("COPY 1 INBOX", "NO [OVERQUOTA]")
	conn.ok("COPY 1 Trash")
	conn.fails("COPY 2 Trash", "NO [OVERQUOTA]")
}

package delivery_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
)

// TestLMTPCyrus delivers to another real mailbox server: over its socket, and
// over TCP with STARTTLS and a login, without which it takes nothing.
func TestLMTPCyrus(t *testing.T) {
	t.Parallel()
	server := testenv.Cyrus(t, 0, "alice", "bob")
	password := filepath.Join(testenv.TempDir(t), "password")
	if err := os.WriteFile(password, []byte(server.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(server.LMTPAddr)
	// Cyrus adds what is missing of these.
	small := "Date: Sat, 1 Jan 2000 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n" + body
	text := small + strings.Repeat("a line, and one more\r\n", 20000)
	for name, target := range map[string]delivery.Target{
		"alice": {Addresses: []string{"unix:" + server.LMTP}},
		"bob":   {Addresses: []string{"localhost:" + port}, TLS: tlspolicy.Verify, CAFile: server.CAFile, Login: server.Login, PasswordFile: password},
	} {
		target.Timeouts.Greeting = 2 * time.Minute
		tr := newLMTP(t, target)
		for _, sent := range []string{small, text} {
			got := tr.Deliver(t.Context(), messageOf(sent, name+"@example.com", "nobody@example.com"))
			// The second reply has its enhanced code in its last line only.
			if s := sketch(got); s != "delivered by peer 2.1.5, bounced by peer" {
				t.Fatalf("%s: %s %+v", name, s, got)
			}
			if tr.Direct("") {
				t.Error("mail would be cut through to a server that keeps repeats")
			}
		}
		stored := server.Messages(name)
		if len(stored) != 2 {
			t.Fatalf("%d messages stored for %s", len(stored), name)
		}
		for i, want := range []string{small, text} {
			if !bytes.HasSuffix(stored[i], []byte(want)) {
				t.Errorf("stored %.300q (%d octets)", stored[i], len(stored[i]))
			}
		}
	}
	stranger := newLMTP(t, delivery.Target{Addresses: []string{"localhost:" + port}, TLS: tlspolicy.Verify, CAFile: server.CAFile})
	if got := stranger.Deliver(t.Context(), message("bob@example.com")); got[0].Class == mail.Delivered {
		t.Errorf("without a login: %+v", got)
	}
}

// TestLMTPCyrusQuota: who has no room is put off and who has gets the message.
func TestLMTPCyrusQuota(t *testing.T) {
	t.Parallel()
	server := testenv.Cyrus(t, 100, "alice", "bob")
	tr := newLMTP(t, delivery.Target{Addresses: []string{"unix:" + server.LMTP}})
	large := body + strings.Repeat("a line like any other\r\n", 3000)
	// Cyrus takes what begins below the limit.
	for _, want := range []string{"delivered by peer 2.1.5", "delivered by peer 2.1.5", "deferred by peer 4.2.2"} {
		if got := tr.Deliver(t.Context(), messageOf(large, "alice@example.com")); sketch(got) != want {
			t.Fatalf("%s: %+v", sketch(got), got)
		}
	}
	got := tr.Deliver(t.Context(), messageOf(large, "alice@example.com", "bob@example.com"))
	if s := sketch(got); s != "deferred by peer 4.2.2, delivered by peer 2.1.5" {
		t.Errorf("%s: %+v", s, got)
	}
	if alice, bob := len(server.Messages("alice")), len(server.Messages("bob")); alice != 2 || bob != 1 {
		t.Errorf("alice has %d messages, bob %d", alice, bob)
	}
}

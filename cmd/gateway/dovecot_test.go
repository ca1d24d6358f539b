package main

import (
	"regexp"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// newDovecotSite is a gateway before a real Dovecot, which has mailboxes for
// some of the company.
func newDovecotSite(t *testing.T, address string, dovecot *testenv.DovecotServer) *site {
	t.Helper()
	return newSite(t, variant(t, standard,
		backendRole, "",
		`target "lmtp" "backend" { address = ["unix:{{.Socket}}"] }`, `target "lmtp" "backend" {
    address = ["{{.Extra.address}}"]
    tls     = "{{.Extra.tls}}"
    ca_file = "{{.Extra.ca}}"
  }`), map[string]string{"address": address, "ca": dovecot.CAFile, "tls": map[bool]string{true: "verify", false: "none"}[address == dovecot.LMTPAddr]}).start()
}

// dovecotInbox logs in to Dovecot as a mail program does.
func dovecotInbox(d *testenv.DovecotServer, address string) func() (*imapclient.Client, error) {
	return func() (*imapclient.Client, error) {
		c, err := imapclient.DialInsecure(d.IMAP, nil)
		if err != nil {
			return nil, err
		}
		if err := c.Login(address, d.Password).Wait(); err != nil {
			_ = c.Close()
			return nil, err
		}
		return c, nil
	}
}

// TestDovecotAsBackend: Dovecot takes the mail by LMTP, over a socket and over
// verified TLS, and shows it by IMAP; while it is away mail waits.
func TestDovecotAsBackend(t *testing.T) {
	t.Parallel()
	for _, over := range []string{"socket", "TLS"} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			d := testenv.Dovecot(t, "alice@example.com", "bob@example.com", "carol@example.com")
			address := map[string]string{"socket": "unix:" + d.LMTP, "TLS": d.LMTPAddr}[over]
			s := newDovecotSite(t, address, d)
			must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"staff@example.com"}, "to staff"))
			must(t, s.inject("a@elsewhere.example", []string{"anybody@example.net"}, "to the catch-all"))
			for _, name := range []string{"alice", "bob", "carol"} {
				waitForSubject(t, dovecotInbox(d, name+"@example.com"), "to staff", 1)
			}
			waitForSubject(t, dovecotInbox(d, "carol@example.com"), "to the catch-all", 1)

			d.Process().Kill()
			for range 3 {
				must(t, s.inject("a@elsewhere.example", []string{"bob@example.com", "carol@example.com"}, "during the outage"))
			}
			waitForOutput(t, s, `(?m)^QUEUE +4 message`, "status") // and the forward of staff's
			d.Restart()
			for _, name := range []string{"bob", "carol"} {
				waitForSubject(t, dovecotInbox(d, name+"@example.com"), "during the outage", 3)
			}
			waitForOutput(t, s, `erin@elsewhere.example(?s:.*)\n1 message`, "queue", "list")
		})
	}
}

// waitForOutput runs a command on the site until it succeeds and what it
// prints matches.
func waitForOutput(t *testing.T, s *site, pattern string, args ...string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	testenv.Eventually(t, time.Minute, func() error {
		out, err := command(t.Context(), append(args, "-c", s.Config)...)
		if err == nil && !want.MatchString(out) {
			err = &mismatch{pattern, out}
		}
		return err
	})
}

// mismatch is output that is not as wanted.
type mismatch struct{ want, out string }

// Error implements error.
func (m *mismatch) Error() string { return "no match for " + m.want + " in:\n" + m.out }

// TestDovecotRefusesOne: of one message's recipients Dovecot knows one and not
// the other; one gets it, once, and the sender is told of the other.
func TestDovecotRefusesOne(t *testing.T) {
	t.Parallel()
	d := testenv.Dovecot(t, "alice@example.com", "carol@example.com")
	s := newDovecotSite(t, "unix:"+d.LMTP, d)
	must(t, s.submit("alice", ldif.Password("alice"), "alice@example.com", []string{"carol@example.com", "bob@example.com"}, "to two"))
	waitForSubject(t, dovecotInbox(d, "carol@example.com"), "to two", 1)
	waitForSubject(t, dovecotInbox(d, "alice@example.com"), "Undelivered Mail Returned to Sender", 1)
	waitForOutput(t, s, "The queue is empty", "queue", "list")
	waitForSubject(t, dovecotInbox(d, "carol@example.com"), "to two", 1)
	s.waitForAudit(`"event":"delivery","result":"bounced".*bob@example.com.*"reply":"550 5.1.1 `)
}

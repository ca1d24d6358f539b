package main

import (
	stdsql "database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/dns/dnstest"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

const guides = "../../deploy/examples/guides"

// guide is a site that runs an example of the guides: people and tables as they
// are, on ports of its own, whose client says by XCLIENT where it comes from.
// More replacements are old and new in turn, in configuration and tables.
func guide(t *testing.T, name string, replace ...string) *site {
	t.Helper()
	s := newSite(t, "", nil)
	const claims = "\n    xclient_hosts = [\"127.0.0.1/32\"]"
	replace = append(replace,
		`bind = [":25"]`, `bind = ["`+s.address("MX")+`"]`+claims,
		`bind = [":587"]`, `bind = ["`+s.address("Submission")+`"]`+claims,
		`bind = [":993"]`, `bind = ["`+s.address("IMAPS")+`"]`,
		"/run/postern/lmtp.sock", s.Socket, "/var/lib/postern", filepath.Join(s.Dir, "data"),
		"/etc/postern/tls/", s.Dir+"/", "/etc/postern/", s.Dir+"/")
	tables, err := filepath.Glob(guides + "/tables/*")
	must(t, err)
	used := make([]bool, len(replace))
	for _, path := range append(tables, guides+"/people.ldif", guides+"/"+name+".hcl") {
		text := read(t, path)
		for i := 0; i < len(replace); i += 2 {
			used[i] = used[i] || strings.Contains(text, replace[i])
			text = strings.ReplaceAll(text, replace[i], replace[i+1])
		}
		to := filepath.Join(s.Dir, filepath.Base(path))
		if strings.HasSuffix(path, ".hcl") {
			to = s.Config
		}
		must(t, os.WriteFile(to, []byte(text), 0o600))
	}
	for i := 0; i < len(replace)-18; i += 2 {
		if !used[i] {
			t.Fatalf("%s does not hold %q", name, replace[i])
		}
	}
	return s
}

// goesTo are the replacements that let mail for other domains go to a server of
// the test.
func goesTo(outside *outsideServer) []string {
	return []string{"gateway {\n", "gateway {\n  target \"smtp\" \"outside\" { address = [\"" + outside.Address + "\"] }\n  relay = target.outside\n"}
}

// namesFrom are the replacements that let a name server of the test answer.
func namesFrom(names *dnstest.Server) []string {
	return []string{"gateway {\n", "dns { servers = [\"" + names.Addr + "\"] }\n\ngateway {\n"}
}

// stranger opens a session as a client at an address.
func (s *site) stranger(listener, address string) *dialog {
	s.t.Helper()
	d := s.dial(listener)
	d.say("EHLO proxy.example.com", "250", "XCLIENT ADDR="+address+" NAME=[UNAVAILABLE]", "220 ", "EHLO client.example.net", "250")
	return d
}

// brings is the dialogue of a whole message that is taken.
func (d *dialog) brings(from, to, subject string) {
	d.t.Helper()
	d.say("MAIL FROM:<"+from+">", "250 2.1.0", "RCPT TO:<"+to+">", "250 2.1.5", "DATA", "354",
		"From: <"+from+">\r\nSubject: "+subject+"\r\n\r\ntext\r\n.", "250 2.0.0")
}

// refused is the dialogue up to the reply to a recipient, and back to its start.
func (d *dialog) refused(from, to, reply string) {
	d.t.Helper()
	d.say("MAIL FROM:<"+from+">", "250 2.1.0", "RCPT TO:<"+to+">", reply, "RSET", "250")
}

// plain is the line of a login.
func plain(login string) string {
	return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00"+ldif.Password(login)))
}

// reaches waits until the server outside has a message for a recipient, and
// returns it.
func (h *outsideServer) reaches(t *testing.T, to, subject string) (found received) {
	t.Helper()
	testenv.Eventually(t, time.Minute, func() error {
		for _, m := range h.got() {
			if strings.Contains(m.Text, "Subject: "+subject+"\r\n") && len(m.To) == 1 && m.To[0] == to {
				found = m
				return nil
			}
		}
		return fmt.Errorf("no %q for %s in %+v", subject, to, h.got())
	})
	return found
}

// TestGuidesAccess: clients, senders and recipients are refused by tables, those
// of our own network, too, as long as the check stands before the permission.
func TestGuidesAccess(t *testing.T) {
	t.Parallel()
	s := guide(t, "access").start()
	s.stranger("MX", "192.0.2.87").refused("a@far.example", "python@example.com", "554 5.7.1 <unknown[192.0.2.87]>: Client host rejected: Access denied")
	d := s.stranger("MX", "192.0.2.88")
	d.refused("a@unwanted.example", "python@example.com", "554 5.7.1 <a@unwanted.example>: Sender address rejected: Access denied")
	d.refused("a@far.example", "tuchao@example.com", "554 5.7.1 <tuchao@example.com>: Recipient address rejected: Access denied")
	d.refused("a@far.example", "x@far.example", "554 5.7.1 <x@far.example>: Relay access denied")
	d.brings("a@far.example", "python@example.com", "welcome")
	s.waitFor("python", "welcome", 1)
	ours := s.dial("MX")
	ours.say("EHLO pc.example.com", "250")
	ours.refused("python@example.com", "x@forbidden.example", "554 5.7.1 <x@forbidden.example>: Recipient address rejected: Access denied")
	ours.say("MAIL FROM:<python@example.com>", "250", "RCPT TO:<x@far.example>", "250 2.1.5")
	// A line that is added counts without a reload.
	must(t, os.WriteFile(filepath.Join(s.Dir, "mailhostdeny"), []byte("tuchao@ REJECT\npython@ REJECT gone\n"), 0o600))
	testenv.Eventually(t, time.Minute, func() error {
		if got := replyText(s.inject("a@far.example", []string{"python@example.com"}, "x")); !strings.HasPrefix(got, "554 5.7.1 <python@example.com>: Recipient address rejected: gone") {
			return errors.New(got)
		}
		return nil
	})
}

// TestGuidesAliases: names of the aliases file lead to people, and elsewhere.
func TestGuidesAliases(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := guide(t, "aliases", goesTo(outside)...).start()
	d := s.stranger("MX", "192.0.2.88")
	d.brings("a@far.example", "a@example.com", "to a")
	d.brings("a@far.example", "jsmith@example.com", "to jsmith")
	d.brings("a@far.example", "tuchao@example.com", "to tuchao")
	d.refused("a@far.example", "b@example.com", "550 5.1.1 <b@example.com>: Recipient address rejected: User unknown")
	s.waitFor("python", "to a", 1)
	s.waitFor("john", "to jsmith", 1)
	outside.reaches(t, "tuchao@mail.example.net", "to tuchao")
}

// TestGuidesSASL: a login opens the way out, for everybody else the list of
// restrictions holds.
func TestGuidesSASL(t *testing.T) {
	t.Parallel()
	outside, names := startOutside(t), dnstest.New(t)
	names.Add("far.example. 60 A 192.0.2.1")
	s := guide(t, "sasl", append(goesTo(outside), namesFrom(names)...)...).start()
	d := s.dial("MX")
	d.send("EHLO client.example.net\r\n")
	var offered []string
	for {
		line, err := d.text.ReadLine()
		must(t, err)
		offered = append(offered, line)
		if strings.HasPrefix(line, "250 ") {
			break
		}
	}
	if all := strings.Join(offered, "\n"); !strings.Contains(all, "AUTH PLAIN LOGIN") {
		t.Errorf("offered: %s", all)
	}
	d = s.stranger("MX", "198.51.100.7")
	d.refused("a@far.example", "x@far.example", "554 5.7.1 <x@far.example>: Relay access denied")
	d.refused("a@nowhere.example", "python@example.com", "450 4.1.8 <a@nowhere.example>: Sender address rejected: Domain not found")
	d.say("HELO client", "250")
	d.refused("a@far.example", "python@example.com", "504 5.5.2 <client>: Helo command rejected: need fully-qualified hostname")
	d.say("HELO cli_?ent.example", "250")
	d.refused("a@far.example", "python@example.com", "501 5.5.2 <cli_?ent.example>: Helo command rejected: Invalid name")
	d.say("EHLO client.example.net", "250", plain("nobody"), "535 5.7.8", plain("python"), "235 2.7.0")
	d.brings("python@example.com", "x@far.example", "from python")
	outside.reaches(t, "x@far.example", "from python")
}

// spammers are the names that the lists of TestGuidesSpam have.
func spammers(t *testing.T) *dnstest.Server {
	names := dnstest.New(t)
	names.Add("example.com. 60 A 192.0.2.1", "far.example. 60 A 192.0.2.1", "spam.example. 60 A 192.0.2.1", "somedomain.example. 60 A 192.0.2.1",
		"deals.marketing.example. 60 A 192.0.2.1",
		"2.0.0.127.zen.spamhaus.org. 60 A 127.0.0.2", "2.0.0.127.bl.spamcop.net. 60 A 127.0.0.2", // that the lists are alive
		"7.100.51.198.zen.spamhaus.org. 60 A 127.0.0.2", `7.100.51.198.zen.spamhaus.org. 60 TXT "listed for this test"`,
		"8.100.51.198.bl.spamcop.net. 60 A 127.0.0.2")
	return names
}

// TestGuidesSpam: each restriction of the guide refuses what it is there for,
// and who passes all of them waits for postgrey, ours or the real one.
func TestGuidesSpam(t *testing.T) {
	t.Parallel()
	t.Run("postgrey", func(t *testing.T) {
		t.Parallel()
		s := guide(t, "spam", append(namesFrom(spammers(t)), "unix:/var/spool/postfix/postgrey/socket", "inet:"+testenv.Postgrey(t, 1))...).start()
		refusesSpam(t, s)
	})
	t.Run("check_greylist", func(t *testing.T) {
		t.Parallel()
		s := guide(t, "spam", append(namesFrom(spammers(t)), `check_policy_service { address = "unix:/var/spool/postfix/postgrey/socket" }`, `check_greylist { delay = "1s" }`)...).start()
		refusesSpam(t, s)
	})
}

func refusesSpam(t *testing.T, s *site) {
	t.Helper()
	silent := s.dial("MX")
	silent.say("MAIL FROM:<a@far.example>", "503 5.5.1")
	const to = "john@example.com"
	d := s.stranger("MX", "198.51.100.9")
	for _, helo := range []struct{ name, reply string }{
		{"client", "504 5.5.2 <client>: Helo command rejected: need fully-qualified hostname"},
		{"cli_?ent.example", "504 5.5.2 <cli_?ent.example>: Helo command rejected: need fully-qualified hostname"},
	} {
		d.say("EHLO "+helo.name, "250")
		d.refused("a@far.example", to, helo.reply)
	}
	d.say("EHLO client.example.net", "250")
	for _, row := range []struct{ from, to, reply string }{
		{"a@far", to, "504 5.5.2 <a@far>: Sender address rejected: need fully-qualified address"},
		{"a@nowhere.example", to, "450 4.1.8 <a@nowhere.example>: Sender address rejected: Domain not found"},
		{"a@far.example", "x@far.example", "554 5.7.1 <x@far.example>: Relay access denied"},
		{"junk@spam.example", to, "554 5.7.1 <junk@spam.example>: Sender address rejected: Access denied"},
		{"marketing@far.example", to, "554 5.7.1 <marketing@far.example>: Sender address rejected: Access denied"},
		{"a@deals.marketing.example", to, "554 5.7.1 <a@deals.marketing.example>: Sender address rejected: Access denied"},
	} {
		d.refused(row.from, row.to, row.reply)
	}
	// Who is known passes by the lists and the greylist.
	listed := s.stranger("MX", "198.51.100.7")
	listed.refused("a@far.example", to, "554 5.7.1 Service unavailable; Client host [198.51.100.7] blocked using zen.spamhaus.org; listed for this test")
	listed.brings("theboss@far.example", to, "from the boss")
	listed.brings("a@somedomain.example", to, "from somedomain")
	s.waitFor("john", "from the boss", 1)
	s.waitFor("john", "from somedomain", 1)
	s.stranger("MX", "198.51.100.8").refused("a@far.example", to, "554 5.7.1 Service unavailable; Client host [198.51.100.8] blocked using bl.spamcop.net")
	d.refused("a@far.example", to, "450 4.2.0 <john@example.com>: Recipient address rejected: Greylisted")
	testenv.Eventually(t, time.Minute, func() error {
		d.say("MAIL FROM:<a@far.example>", "250")
		d.send("RCPT TO:<" + to + ">\r\n")
		line, err := d.reply()
		d.say("RSET", "250")
		if err == nil && !strings.HasPrefix(line, "250 ") {
			err = errors.New(line)
		}
		return err
	})
	d.brings("a@far.example", to, "the second attempt")
	s.waitFor("john", "the second attempt", 1)
	// Our own network is not asked any of this but what stands before it.
	ours := s.stranger("MX", "192.168.0.2")
	ours.say("EHLO pc", "250")
	ours.refused("john@example.com", "john@example", "504 5.5.2 <john@example>: Recipient address rejected: need fully-qualified address")
	ours.brings("john@example.com", to, "to myself")
	s.waitFor("john", "to myself", 1)
}

// TestGuidesSubmission: nobody sends under another's address, and the submission
// port has settings of its own.
func TestGuidesSubmission(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := guide(t, "submission", goesTo(outside)...)
	db, err := stdsql.Open("sqlite", filepath.Join(s.Dir, "mail.db"))
	must(t, err)
	_, err = db.Exec(`CREATE TABLE mailbox (username TEXT, login TEXT, enablesmtp INT, active INT);
INSERT INTO mailbox VALUES ('john@example.com', 'john', 1, 1), ('alice@example.com', 'alice', 1, 1)`)
	must(t, errors.Join(err, db.Close()))
	s.start()

	const notIn, notOwned = "553 5.7.1 <john@example.com>: Sender address rejected: not logged in", "553 5.7.1 <john@example.com>: Sender address rejected: not owned by user alice"
	mx := s.stranger("MX", "198.51.100.7")
	mx.refused("john@example.com", "alice@example.com", notIn)
	mx.refused("ghost@example.com", "alice@example.com", "550 5.1.0 <ghost@example.com>: Sender address rejected: User unknown")
	mx.say("EHLO client", "250")
	mx.refused("a@far.example", "alice@example.com", "504 5.5.2 <client>: Helo command rejected")
	mx.say("EHLO client.example.net", "250", "MAIL FROM:<a@far.example>", "250", "RCPT TO:<alice@example.com>", "250", "DATA", "354",
		"Subject: a lottery\r\n\r\ntext\r\n.", "550 5.7.1 We do not play")
	s.stranger("MX", "192.0.2.25").brings("john@example.com", "alice@example.com", "from the scanner")
	s.waitFor("alice", "from the scanner", 1)

	out := s.stranger("Submission", "198.51.100.7")
	out.say("EHLO client", "250") // the list for HELO is empty here
	out.refused("a@far.example", "x@far.example", "554 5.7.1 <x@far.example>: Recipient address rejected: Access denied")
	out.refused("a@far.example", "alice@example.com", "554 5.7.1 <alice@example.com>: Recipient address rejected: Access denied")
	out.say(plain("alice"), "235 2.7.0")
	out.refused("john@example.com", "x@far.example", notOwned)
	out.brings("alice@example.com", "x@far.example", "a lottery") // no header checks here
	if got := outside.reaches(t, "x@far.example", "a lottery"); !strings.Contains(got.Text, "(Authenticated sender: alice") {
		t.Errorf("the header does not name who logged in:\n%s", got.Text)
	}
	ours := s.dial("Submission")
	ours.say("EHLO pc", "250")
	ours.brings("john@example.com", "x@far.example", "from this machine")
	outside.reaches(t, "x@far.example", "from this machine")
}

// TestGuidesVirtual: addresses of several domains lead to people of one, and
// some domains go to other hosts.
func TestGuidesVirtual(t *testing.T) {
	t.Parallel()
	partner := startOutside(t)
	_, port, err := net.SplitHostPort(partner.Address)
	must(t, err)
	s := guide(t, "virtual", "[mail.partner.example]:25", "[127.0.0.1]:"+port).start()
	d := s.stranger("MX", "198.51.100.7")
	d.brings("a@far.example", "info@example.org", "to info")
	d.brings("a@far.example", "sales@example.net", "to sales")
	d.refused("a@far.example", "x@partner.example", "554 5.7.1 <x@partner.example>: Relay access denied")
	d.refused("a@far.example", "alice@example.org", "550 5.1.1 <alice@example.org>: Recipient address rejected: User unknown")
	s.waitFor("alice", "to info", 1)
	s.waitFor("john", "to sales", 1)
	ours := s.stranger("MX", "192.0.2.9")
	ours.brings("alice@example.com", "x@partner.example", "to partner")
	ours.brings("alice@example.com", "x@sub.partner.example", "to sub")
	partner.reaches(t, "x@partner.example", "to partner")
	partner.reaches(t, "x@sub.partner.example", "to sub")
	ours.refused("alice@example.com", "x@closed.example", "550 5.1.2 This domain is closed")
}

// TestGuidesLDAPAliases: the file that Postfix reads asks a real slapd.
func TestGuidesLDAPAliases(t *testing.T) {
	t.Parallel()
	slapd := testenv.Slapd(t, testenv.SlapdOptions{})
	secret := strings.TrimSpace(read(t, slapd.ServicePasswordFile))
	s := guide(t, "ldap-aliases", "ldaps://ldap.example.com", slapd.LDAPS, "/etc/postern/ldap-ca.pem", slapd.CAFile, "bind_pw          = secret", "bind_pw          = "+secret).start()
	slapd.Modify(t, "dn: cn=desk,ou=aliases,dc=example,dc=com\nchangetype: add\nobjectClass: nisMailAlias\ncn: desk\nrfc822MailMember: john@example.com\nrfc822MailMember: alice@example.com\n")
	if out := s.run("lookup", "desk@example.com"); !strings.Contains(out, "john@example.com") {
		t.Errorf("lookup says %s", out)
	}
	d := s.stranger("MX", "198.51.100.7")
	d.brings("a@far.example", "desk@example.com", "to the desk")
	d.refused("a@far.example", "nodesk@example.com", "550 5.1.1 <nodesk@example.com>: Recipient address rejected: User unknown")
	s.waitFor("john", "to the desk", 1)
	s.waitFor("alice", "to the desk", 1)
}

// TestGuidesOutgoing: only who logged in, over TLS, sends anywhere, under his own
// address, and not without end.
func TestGuidesOutgoing(t *testing.T) {
	t.Parallel()
	outside := startOutside(t)
	s := guide(t, "outgoing", append(goesTo(outside), "client_message_rate_limit     = 100", "client_message_rate_limit     = 3")...).start()
	d := s.stranger("MX", "198.51.100.7")
	d.refused("a@far.example", "x@far.example", "454 4.7.1 <x@far.example>: Relay access denied")
	d.say(plain("alice"), "5", "STARTTLS", "220")
	d.startTLS(s.trust)
	d.say("EHLO client.example.net", "250", plain("alice"), "235 2.7.0")
	d.refused("john@example.com", "x@far.example", "553 5.7.1 <john@example.com>: Sender address rejected: not owned by user alice")
	d.brings("alice@example.com", "x@far.example", "from alice")
	outside.reaches(t, "x@far.example", "from alice")
	d.send("MAIL FROM:<alice@example.com>\r\n")
	if line, err := d.reply(); err != nil || !strings.HasPrefix(line, "4") {
		t.Errorf("a message more than may be: %q, %v", line, err)
	}
	c, err := gosmtp.DialStartTLS(s.address("MX"), s.trust)
	must(t, err)
	defer func() { _ = c.Close() }()
	wantAnswer(t, "a wrong password", c.Auth(sasl.NewPlainClient("", "alice", "wrong")), "535 5.7.8")
}

// TestGuidesDovecot: Dovecot takes the mail over the network and by its socket.
func TestGuidesDovecot(t *testing.T) {
	t.Parallel()
	dovecot := testenv.Dovecot(t, "alice@example.com", "john@example.com")
	network := []string{"dovecot.example.com:24", dovecot.LMTPAddr, "/etc/postern/dovecot-ca.pem", dovecot.CAFile}
	socket := []string{"\"dovecot.example.com:24\"]\n    tls     = \"verify\"\n    ca_file = \"/etc/postern/dovecot-ca.pem\"", strconv.Quote("unix:"+dovecot.LMTP) + "]"}
	for over, replace := range map[string][]string{"network": network, "socket": socket} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			s := guide(t, "dovecot-network", replace...).start()
			s.stranger("MX", "198.51.100.7").brings("a@far.example", "alice@example.com", "over "+over)
			waitForSubject(t, dovecotInbox(dovecot, "alice@example.com"), "over "+over, 1)
		})
	}
}

// TestGuidesAreTold: the page of the examples names each of them.
func TestGuidesAreTold(t *testing.T) {
	t.Parallel()
	page := read(t, "../../docs/guides.md")
	examples, err := filepath.Glob(guides + "/*.hcl")
	must(t, err)
	if len(examples) < 8 {
		t.Fatalf("only %q found", examples)
	}
	for _, path := range examples {
		if name := "guides/" + filepath.Base(path); !strings.Contains(page, name) {
			t.Errorf("docs/guides.md does not name %s", name)
		}
	}
}

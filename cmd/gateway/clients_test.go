package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// newClientSite is a site with every kind of listener.
func newClientSite(t *testing.T) *site {
	t.Helper()
	return newSite(t, variant(t, standard,
		mxListener, mxListener+`
  listener "submissions" { bind = ["127.0.0.1:{{.Port.Submissions}}"] }`,
		`  listener "imaps"`, `  listener "imap" { bind = ["127.0.0.1:{{.Port.IMAP}}"] }
  listener "imaps"`), nil).start()
}

// runClient runs a program that must end well, and returns what it said.
func runClient(t *testing.T, path string, args ...string) string {
	t.Helper()
	return testenv.Run(t, path, args...)
}

func (s *site) port(name string) string { return strconv.Itoa(s.Port[name]) }

func TestSwaks(t *testing.T) {
	t.Parallel()
	swaks := testenv.Program(t, "swaks")
	s := newClientSite(t)
	common := []string{"--from", "bob@example.com", "--to", "carol@example.com", "--auth-user", "bob", "--tls-ca-path", filepath.Join(s.Dir, "cert.pem"), "--tls-verify", "--server", "localhost"}
	for subject, args := range map[string][]string{
		"swaks, STARTTLS, PLAIN": {"--port", s.port("Submission"), "--tls", "--auth", "PLAIN"},
		"swaks, STARTTLS, LOGIN": {"--port", s.port("Submission"), "--tls", "--auth", "LOGIN"},
		"swaks, TLS":             {"--port", s.port("Submissions"), "--tls-on-connect", "--auth", "PLAIN"},
	} {
		args = append(append(args, common...), "--header", "Subject: "+subject)
		out := runClient(t, swaks, append(args, "--auth-password", ldif.Password("bob"))...)
		if !strings.Contains(out, "250 2.0.0") {
			t.Errorf("%s:\n%s", subject, out)
		}
		s.waitFor("carol", subject, 1)
		refused, err := exec.Command(swaks, append(args, "--auth-password", "wrong")...).CombinedOutput()
		if err == nil || !strings.Contains(string(refused), "535 5.7.8") {
			t.Errorf("%s with a wrong password: %v\n%s", subject, err, refused)
		}
	}
	plain, err := exec.Command(swaks, "--server", "localhost", "--port", s.port("Submission"), "--auth", "PLAIN",
		"--auth-user", "bob", "--auth-password", ldif.Password("bob"), "--to", "carol@example.com").CombinedOutput()
	if err == nil || strings.Contains(string(plain), "AUTH PLAIN") {
		t.Errorf("a login in the clear: %v\n%s", err, plain)
	}
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl := testenv.Program(t, "curl")
	s := newClientSite(t)
	letter := filepath.Join(s.Dir, "letter")
	must(t, os.WriteFile(letter, []byte("From: bob@example.com\r\nTo: carol@example.com\r\nSubject: by curl\r\n\r\n.dots.\r\n..\r\n"), 0o600))
	common := []string{"-sS", "--max-time", "120", "--cacert", filepath.Join(s.Dir, "cert.pem")}
	for _, url := range []string{"smtps://localhost:" + s.port("Submissions"), "smtp://localhost:" + s.port("Submission")} {
		runClient(t, curl, append(common, "--ssl-reqd", url, "--user", "bob:"+ldif.Password("bob"),
			"--mail-from", "bob@example.com", "--mail-rcpt", "carol@example.com", "--upload-file", letter)...)
	}
	s.waitFor("carol", "by curl", 2)
	user := []string{"--ssl-reqd", "--user", "carol:" + ldif.Password("carol")}
	for _, base := range []string{"imaps://localhost:" + s.port("IMAPS"), "imap://localhost:" + s.port("IMAP")} {
		run := func(args ...string) string { return runClient(t, curl, append(append(common, user...), args...)...) }
		if out := run(base + "/"); !strings.Contains(out, "INBOX") || !strings.Contains(out, "Trash") {
			t.Errorf("list at %s:\n%s", base, out)
		}
		if out := run(base + "/INBOX;UID=2"); !strings.Contains(out, "Subject: by curl\r\n") || !strings.HasSuffix(out, "\r\n\r\n.dots.\r\n..\r\n") {
			t.Errorf("fetch at %s:\n%s", base, out)
		}
		if out := run(base+"/INBOX", "-X", "SEARCH SUBJECT curl"); !strings.Contains(out, "* SEARCH 1 2") {
			t.Errorf("search at %s:\n%s", base, out)
		}
	}
}

// TestPython has the standard library of another language send and read.
func TestPython(t *testing.T) {
	t.Parallel()
	python := testenv.Program(t, "python3")
	s := newClientSite(t)
	cert := filepath.Join(s.Dir, "cert.pem")
	runClient(t, python, "testdata/clients/submit.py", s.port("Submission"), s.port("Submissions"), cert)
	subjects := []string{"smtplib with STARTTLS", "smtplib over TLS", "smtplib again"}
	for _, subject := range subjects {
		s.waitFor("bob", subject, 1)
	}
	runClient(t, python, append([]string{"testdata/clients/read.py", s.port("IMAP"), s.port("IMAPS"), cert}, subjects...)...)
}

// TestGoClients: go-smtp sends with every extension it knows, go-imap reads
// while it waits.
func TestGoClients(t *testing.T) {
	t.Parallel()
	s := newClientSite(t)
	arrived := make(chan struct{}, 100)
	reader, err := imapclient.DialStartTLS(s.address("IMAP"), &imapclient.Options{
		TLSConfig: s.trust,
		UnilateralDataHandler: &imapclient.UnilateralDataHandler{Mailbox: func(m *imapclient.UnilateralDataMailbox) {
			if m.NumMessages != nil {
				arrived <- struct{}{}
			}
		}},
	})
	must(t, err)
	defer func() { _ = reader.Close() }()
	must(t, reader.Login("bob", ldif.Password("bob")).Wait())
	_, err = reader.Select("INBOX", nil).Wait()
	must(t, err)
	idle, err := reader.Idle()
	must(t, err)

	sender, err := gosmtp.DialTLS(s.address("Submissions"), s.trust)
	must(t, err)
	defer func() { _ = sender.Close() }()
	must(t, sender.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))))
	must(t, sender.Mail("alice@example.com", &gosmtp.MailOptions{Body: gosmtp.Body8BitMIME, UTF8: true, Size: 100, Return: gosmtp.DSNReturnHeaders, EnvelopeID: "an+id"}))
	must(t, sender.Rcpt("bob@example.com", &gosmtp.RcptOptions{Notify: []gosmtp.DSNNotify{gosmtp.DSNNotifyNever}}))
	w, err := sender.Data()
	must(t, err)
	_, err = fmt.Fprint(w, "Subject: Grüße\r\n\r\nhällo\r\n")
	must(t, err)
	must(t, w.Close())
	must(t, sender.Quit())

	<-arrived // or the test's own time limit ends it
	must(t, idle.Close())
	must(t, idle.Wait())
	messages, err := reader.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{
		UID: true, Flags: true, Envelope: true, BodyStructure: &imap.FetchItemBodyStructure{}, BodySection: []*imap.FetchItemBodySection{{}},
	}).Collect()
	must(t, err)
	if len(messages) != 1 || len(messages[0].BodySection) != 1 || !strings.HasSuffix(string(messages[0].BodySection[0].Bytes), "\r\n\r\nhällo\r\n") {
		t.Errorf("fetched %+v", messages)
	}
	_, err = reader.Move(imap.SeqSetNum(1), "Trash").Wait()
	must(t, err)
	box, err := reader.Status("Trash", &imap.StatusOptions{NumMessages: true, UIDNext: true}).Wait()
	if err != nil || *box.NumMessages != 1 {
		t.Errorf("Trash: %+v, %v", box, err)
	}
	must(t, reader.Logout().Wait())
}

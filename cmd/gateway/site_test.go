package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/testdata/ldif"
)

// site is one Postern of a test: a folder, ports, and the running program.
type site struct {
	t       testing.TB
	Dir     string
	Config  string
	Socket  string // where the backend takes LMTP
	Port    map[string]int
	Extra   map[string]string // what a test's own template speaks of
	outside *outsideServer    // where mail for other domains goes; nil: nobody is there
	trust   *tls.Config
	proc    *testenv.Process
}

// nobodyListens is a well-known port on which nothing listens.
const nobodyListens = "127.0.0.1:9"

// standard is the configuration most tests run: both roles on the embedded
// company.
const standard = `
hostname = "mail.example.com"
data_dir = "{{.Dir}}/data"
audit { file = "{{.Dir}}/audit.log" }
control { socket = "{{.Dir}}/control.sock" }
tls {
  cert_file = "{{.Dir}}/cert.pem"
  key_file  = "{{.Dir}}/key.pem"
}
directory "ldif" "company" {
  file = "{{.Dir}}/company.ldif"
  base = "dc=example,dc=com"
}
authn "ldif" { directory = directory.company }
gateway {
  listener "mx" { bind = ["127.0.0.1:{{.Port.MX}}"] }
  listener "submission" { bind = ["127.0.0.1:{{.Port.Submission}}"] }
  domains "local" {
    names      = ["example.com", "example.net"]
    recipients = directory.company
    deliver    = target.backend
  }
  target "lmtp" "backend" { address = ["unix:{{.Socket}}"] }
  target "smtp" "outside" { address = ["127.0.0.1:9"] }
  relay      = target.outside
  mynetworks = []
}
backend {
  listener "lmtp" { bind = ["unix:{{.Socket}}"] }
  listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }
}
`

// newSite lays out a folder with certificate, company and configuration.
func newSite(t testing.TB, text string, extra map[string]string) *site {
	t.Helper()
	s := &site{t: t, Dir: testenv.TempDir(t), Port: make(map[string]int), Extra: extra}
	s.Config = filepath.Join(s.Dir, "postern.hcl")
	s.Socket = filepath.Join(s.Dir, "lmtp.sock")
	for _, name := range []string{"MX", "Submission", "Submissions", "IMAP", "IMAPS", "POP3", "POP3S", "Metrics"} {
		s.Port[name] = testenv.FreePort(t)
	}
	must(t, os.WriteFile(filepath.Join(s.Dir, "company.ldif"), ldif.OpenLDAP().LDIF, 0o600))
	cert := filepath.Join(s.Dir, "cert.pem")
	must(t, selfSigned(cert, filepath.Join(s.Dir, "key.pem")))
	var err error
	s.trust, err = trustOf(cert)
	must(t, err)
	s.configure(text)
	return s
}

// configure writes the configuration.
func (s *site) configure(text string) {
	s.t.Helper()
	var out bytes.Buffer
	must(s.t, template.Must(template.New("").Parse(text)).Execute(&out, s))
	must(s.t, os.WriteFile(s.Config, out.Bytes(), 0o600))
}

// start runs the program until it answers.
func (s *site) start() *site {
	s.t.Helper()
	s.proc = testenv.Start(s.t, testenv.Command{
		Path: program, Args: []string{"serve", "-c", s.Config}, StartTimeout: time.Minute,
		Ready: func(ctx context.Context) error {
			_, err := command(ctx, "status", "-c", s.Config)
			return err
		},
	})
	return s
}

// command runs a command in this process and returns what it prints: the code
// that the program runs, without the cost of starting it for every look at what
// is not so yet.
func command(ctx context.Context, args ...string) (string, error) {
	var out lockedText
	c := root()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(ctx)
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.text.String(), err
}

// lockedText is what a command and the line that tells of its progress write.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// waitForLog waits until the server's log matches a pattern.
func (s *site) waitForLog(pattern string) {
	s.t.Helper()
	want := regexp.MustCompile(pattern)
	testenv.Eventually(s.t, time.Minute, func() error {
		if !want.MatchString(s.proc.Log()) {
			return fmt.Errorf("the log does not match %q", pattern)
		}
		return nil
	})
}

// waitForAudit waits until the server's audit matches all patterns: its records
// are written a moment after what they tell of.
func (s *site) waitForAudit(patterns ...string) {
	s.t.Helper()
	file := filepath.Join(s.Dir, "audit.log")
	for _, pattern := range patterns {
		want := regexp.MustCompile(pattern)
		testenv.Eventually(s.t, time.Minute, func() error {
			text, err := os.ReadFile(file)
			if err == nil && !want.Match(text) {
				err = fmt.Errorf("the audit does not match %q:\n%s", pattern, text)
			}
			return err
		})
	}
}

// run runs another command of the program on this site.
func (s *site) run(args ...string) string {
	s.t.Helper()
	return testenv.Run(s.t, program, append(args, "-c", s.Config)...)
}

func (s *site) address(name string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port[name]))
}

// submit sends a message as somebody.
func (s *site) submit(login, password, from string, to []string, subject string) error {
	c, err := gosmtp.DialStartTLS(s.address("Submission"), s.trust)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.Auth(sasl.NewPlainClient("", login, password)); err != nil {
		return err
	}
	return c.SendMail(from, to, letter(from, to, subject))
}

// inject sends a message as another server would.
func (s *site) inject(from string, to []string, subject string) error {
	c, err := gosmtp.Dial(s.address("MX"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.SendMail(from, to, letter(from, to, subject))
}

func letter(from string, to []string, subject string) io.Reader {
	return strings.NewReader(fmt.Sprintf("From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\n\r\nDear reader,\r\n.a line with a dot\r\n", from, strings.Join(to, ">, <"), subject))
}

// imap logs somebody in.
func (s *site) imap(login, password string) (*imapclient.Client, error) {
	c, err := imapclient.DialTLS(s.address("IMAPS"), &imapclient.Options{TLSConfig: s.trust})
	if err != nil {
		return nil, err
	}
	if err := c.Login(login, password).Wait(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// subjects lists what is in somebody's INBOX.
func (s *site) subjects(login string) ([]string, error) {
	c, err := s.imap(login, ldif.Password(login))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return inbox(c)
}

// inbox lists the subjects in the INBOX of whoever is logged in.
func inbox(c *imapclient.Client) ([]string, error) {
	box, err := c.Select("INBOX", nil).Wait()
	if err != nil || box.NumMessages == 0 {
		return nil, err
	}
	var all imap.SeqSet
	all.AddRange(1, box.NumMessages)
	messages, err := c.Fetch(all, &imap.FetchOptions{Envelope: true}).Collect()
	var found []string
	for _, m := range messages {
		if m.Envelope != nil { // else the server told of flags that changed meanwhile
			found = append(found, m.Envelope.Subject)
		}
	}
	return found, err
}

// fetchText fetches a whole message out of the INBOX.
func fetchText(c *imapclient.Client, number uint32) (string, error) {
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		return "", err
	}
	messages, err := c.Fetch(imap.SeqSetNum(number), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil || len(messages) != 1 || len(messages[0].BodySection) != 1 {
		return "", fmt.Errorf("fetched %d messages, %w", len(messages), err)
	}
	return string(messages[0].BodySection[0].Bytes), nil
}

// runFailing runs a command of the program that must end with exit status 1,
// and returns what it said.
func runFailing(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return string(out), fmt.Errorf("ended with %w, want exit status 1", err)
	}
	return string(out), nil
}

// waitFor waits until a subject is exactly n times in somebody's INBOX.
func (s *site) waitFor(login, subject string, n int) {
	s.t.Helper()
	waitForSubject(s.t, func() (*imapclient.Client, error) { return s.imap(login, ldif.Password(login)) }, subject, n)
}

// waitForSubject waits until a subject is exactly n times in the INBOX that
// connect logs in to; it connects again where a session broke.
func waitForSubject(t testing.TB, connect func() (*imapclient.Client, error), subject string, n int) {
	t.Helper()
	var c *imapclient.Client
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	testenv.Eventually(t, time.Minute, func() (err error) {
		if c == nil {
			if c, err = connect(); err != nil {
				return err
			}
		}
		all, err := inbox(c)
		if err != nil {
			_ = c.Close()
			c = nil
			return err
		}
		count := 0
		for _, one := range all {
			if one == subject {
				count++
			}
		}
		if count != n {
			return fmt.Errorf("%q is %d times in the INBOX, want %d; there is %q", subject, count, n, all)
		}
		return nil
	})
}

// code returns the reply code of an SMTP client's error, 0 for nil.
func code(err error) int {
	var reply *gosmtp.SMTPError
	if errors.As(err, &reply) {
		return reply.Code
	}
	if err != nil {
		return -1
	}
	return 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package remote_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/foreign/imap"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store/storetest"
	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/remote"
)

const person = "anna@example.com"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// target is an account in an empty store.
func target(t *testing.T) *transfer.Client {
	t.Helper()
	kv, blobs := storetest.Open(t)
	s, err := mailstore.Open(t.Context(), mailstore.Config{}, kv, blobs, hclog.NewNullLogger())
	must(t, err)
	account, err := s.Account(t.Context(), mail.Account{Name: "anna"})
	must(t, err)
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		_ = transfer.Serve(context.WithoutCancel(t.Context()), there, s, account) // it ends with its client
		close(ended)
	}()
	t.Cleanup(func() { _ = here.Close(); <-ended; account.Close() })
	return transfer.NewClient(here)
}

// fill puts mail into a Dovecot.
func fill(t *testing.T, d *testenv.DovecotServer, n int) {
	t.Helper()
	c, err := imap.Dial(t.Context(), d.IMAP, nil, time.Minute)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.Login(t.Context(), person, "", d.Password))
	_, delimiter, err := c.Namespace(t.Context())
	must(t, err)
	plans := "Arbeit" + delimiter + "Pl&AOQ-ne"
	for _, name := range []string{plans, "Sent"} {
		must(t, c.Create(t.Context(), name))
	}
	must(t, c.Subscribe(t.Context(), plans, true))
	for _, name := range []string{"INBOX", plans} {
		for i := range n {
			text := fmt.Sprintf("Message-ID: <%s-%d@example.com>\r\nSubject: %d\r\n\r\n%s\r\n", strings.TrimPrefix(name, "Arbeit"+delimiter), i, i, strings.Repeat("x", i*37))
			_, _, err := c.Append(t.Context(), name, []string{`\Seen`, "Projekt"}, "29-Feb-2020 12:30:00 +0100", int64(len(text)), strings.NewReader(text))
			must(t, err)
		}
	}
}

func trust(t *testing.T, d *testenv.DovecotServer) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(d.CAFile)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

func bring(t *testing.T, c *transfer.Client, cfg remote.Config, dir string, o transfer.Options) (*transfer.Summary, error) {
	t.Helper()
	cfg.Keys = o.Dedupe
	s, err := remote.Open(t.Context(), cfg)
	if err != nil {
		return nil, err
	}
	defer s.Close(t.Context())
	return transfer.Import(t.Context(), c, s, transfer.NewState(dir, "anna", s.Name()), o, nil)
}

// TestFromDovecot: a master user brings everything of a person by STARTTLS,
// with flags, dates, UIDs and subscriptions; another run brings changes only.
func TestFromDovecot(t *testing.T) {
	t.Parallel()
	d := testenv.Dovecot(t, person)
	fill(t, d, 40)
	c, dir := target(t), t.TempDir()
	cfg := remote.Config{Address: d.IMAP, TLS: trust(t, d), StartTLS: true, User: d.Master, Account: person, Password: d.MasterPassword, Tell: func(s string) { t.Error(s) }}
	sum, err := bring(t, c, cfg, dir, transfer.Options{KeepUIDs: true})
	must(t, err)
	if sum.Copied != 80 || sum.Skipped != 0 || len(sum.Notes) != 0 || sum.Expected != 80 {
		t.Fatalf("%+v", sum)
	}
	folders, err := c.Picture(t.Context())
	must(t, err)
	i := slices.IndexFunc(folders, func(f transfer.Folder) bool { return f.Name == "Arbeit/Pläne" })
	if i < 0 || !folders[i].Subscribed || folders[i].Messages != 40 || folders[i].UIDNext != 41 {
		t.Fatalf("%+v", folders)
	}
	n := 0
	must(t, c.Texts(t.Context(), "Arbeit/Pläne", []uint32{3, 40}, func(m transfer.Message, r io.Reader) error {
		n++
		text, err := io.ReadAll(r)
		if want := fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", m.UID-1, strings.Repeat("x", int(m.UID-1)*37)); !strings.HasSuffix(string(text), want) {
			t.Errorf("UID %d: %q", m.UID, text)
		}
		if !slices.Equal(m.Flags, []string{"Projekt", `\Seen`}) || !m.Date.Equal(time.Date(2020, 2, 29, 11, 30, 0, 0, time.UTC)) {
			t.Errorf("%+v", m)
		}
		return err
	}))
	if n != 2 {
		t.Errorf("%d texts", n)
	}
	other, err := imap.Dial(t.Context(), d.IMAP, nil, time.Minute)
	must(t, err)
	defer func() { _ = other.Close() }()
	must(t, other.Login(t.Context(), person, "", d.Password))
	_, err = other.Select(t.Context(), "INBOX", nil)
	must(t, err)
	_, err = other.Store(t.Context(), imap.SetOf([]uint32{2}), 0, true, []string{`\Flagged`})
	must(t, err)
	if sum, err = bring(t, c, cfg, dir, transfer.Options{KeepUIDs: true}); err != nil || sum.Copied != 0 || sum.Known != 80 || sum.Flags != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	if sum, err = bring(t, c, cfg, t.TempDir(), transfer.Options{Nonce: "x", Dedupe: true}); err != nil || sum.Copied != 0 || sum.Present != 80 {
		t.Errorf("dedupe: %+v, %v", sum, err)
	}
	cfg.Password = "wrong"
	if _, err = bring(t, c, cfg, dir, transfer.Options{}); err == nil || !strings.Contains(err.Error(), "login") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// cutting is a door to a server that shuts in the middle, each time after more
// octets.
func cutting(t *testing.T, server string, first int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for limit := first; ; limit += first {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				_ = conn.Close()
				return
			}
			go func() { _, _ = io.Copy(far, conn); _ = far.Close() }()
			go func() { _, _ = io.CopyN(conn, far, limit); _, _ = conn.Close(), far.Close() }()
		}
	}()
	return l.Addr().String()
}

// TestLostConnections: what a connection that breaks again and again brought is
// kept, and nothing comes twice or in part.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	d := testenv.Dovecot(t, person)
	fill(t, d, 60)
	c := target(t)
	lost := 0
	cfg := remote.Config{
		Address: cutting(t, d.IMAP, 12_000), User: person, Password: d.Password, FirstPause: time.Millisecond, Attempts: 30,
		Tell: func(string) { lost++ },
	}
	sum, err := bring(t, c, cfg, t.TempDir(), transfer.Options{})
	must(t, err)
	if sum.Copied != 120 || lost < 3 {
		t.Errorf("%+v, lost %d times", sum, lost)
	}
	folders, err := c.Picture(t.Context())
	must(t, err)
	for _, f := range folders {
		if (f.Name == "INBOX" || f.Name == "Arbeit/Pläne") && f.Messages != 60 {
			t.Errorf("%+v", f)
		}
	}
}

// TestHostileServer: a server that sends what nobody asked for brings the
// import to an error, not to its knees.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]map[string]string{
		"no UIDVALIDITY changes": {"EXAMINE": "* 1 EXISTS\r\n", "SEARCH": "* SEARCH 1 2 3\r\n"},
		"text without end":       {"BODY.PEEK": "* 1 FETCH (UID 1 BODY[] {99999999999}\r\nabc"},
		"negative literal":       {"BODY.PEEK": "* 1 FETCH (UID 1 BODY[] {-1}\r\nabc"},
		"another UID":            {"BODY.PEEK": "* 1 FETCH (BODY[] {3}\r\nabc UID 9)\r\n"},
		"two texts":              {"BODY.PEEK": "* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n"},
		"deep lists":             {"LIST": "* LIST " + strings.Repeat("(", 5000) + "\r\n"},
		"bad names":              {"LIST": "* LIST () \"/\" \"../../etc/passwd\"\r\n* LIST () \"/\" \"a//b\"\r\n* LIST () \"/\" \"&bad\"\r\n"},
		"bye":                    {"SUMMARY": "* BYE go away\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := remote.Config{
				Address: pretend(t, answers), User: "kim", Password: "x", Timeout: 5 * time.Second, Attempts: 2, FirstPause: time.Millisecond,
			}
			sum, err := bring(t, target(t), cfg, t.TempDir(), transfer.Options{})
			t.Logf("%+v, %v", sum, err)
			if sum != nil && sum.Copied > 3 {
				t.Errorf("%+v", sum)
			}
		})
	}
}

// pretend is a server that answers commands with what stands beside a word in
// them, and else as one with a single message.
func pretend(t *testing.T, answers map[string]string) string {
	t.Helper()
	standard := map[string]string{
		"CAPABILITY": "* CAPABILITY IMAP4rev1\r\n", "LIST \"\" \"\"": "* LIST (\\Noselect) \"/\" \"\"\r\n",
		"LIST": "* LIST () \"/\" INBOX\r\n", "STATUS": "* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 5)\r\n",
		"EXAMINE": "* 1 EXISTS\r\n* OK [UIDVALIDITY 5] x\r\n* OK [UIDNEXT 2] x\r\n", "SEARCH": "* SEARCH 1\r\n",
		"SUMMARY":   "* 1 FETCH (UID 1 FLAGS (\\Seen \\Recent) INTERNALDATE \"29-Feb-2020 12:30:00 +0100\" RFC822.SIZE 3)\r\n",
		"BODY.PEEK": "* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n",
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				fmt.Fprint(conn, "* OK ready\r\n")
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					tag, command, _ := strings.Cut(lines.Text(), " ")
					if strings.Contains(command, "RFC822.SIZE") {
						command = "SUMMARY"
					}
					for _, word := range []string{"CAPABILITY", "LIST \"\" \"\"", "LIST", "STATUS", "EXAMINE", "SEARCH", "SUMMARY", "BODY.PEEK"} {
						if !strings.Contains(command, word) {
							continue
						}
						text, ok := answers[word]
						if !ok {
							text = standard[word]
						}
						fmt.Fprint(conn, text)
						break
					}
					fmt.Fprintf(conn, "%s OK done\r\n", tag)
				}
			}()
		}
	}()
	return l.Addr().String()
}

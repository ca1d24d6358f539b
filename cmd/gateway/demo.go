package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/logs"
	"github.com/postern-mail/postern/testdata/ldif"
)

//go:embed demo.hcl.tmpl
var demoConfig string

//go:embed demo.txt.tmpl
var demoText string

// demoPorts are the demo's ports where they are free.
var demoPorts = map[string]int{"MX": 2525, "Submission": 2587, "Submissions": 2465, "IMAP": 2143, "IMAPS": 2993}

func demoCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "demo", Short: "Run a whole small company on this machine, and send it a mail", Args: cobra.NoArgs,
		Long: "Needs nothing: starts gateway and backend on loopback with a directory of its own and a\n" +
			"self-signed certificate, sends a message by authenticated submission, shows it in IMAP,\n" +
			"and stays up until Ctrl-C. What it keeps lies in one folder and is there again next time.",
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := c.Flags().GetString("dir")
			if err != nil {
				return err
			}
			return demo(c.Context(), dir, c.OutOrStdout())
		},
	}
	c.Flags().String("dir", ".postern", "`FOLDER` for data, certificate and configuration")
	return c
}

// demoSite is what the demo's templates speak of.
type demoSite struct {
	Dir, Config, Socket, Program string
	Port                         map[string]int
}

func demo(ctx context.Context, dir string, out io.Writer) error {
	site, err := layDemo(dir)
	if err != nil {
		return fmt.Errorf("prepare the demo: %w", err)
	}
	f, err := config.Load(site.Config)
	if err != nil {
		return err
	}
	logFile, err := openLog(f.Log.File)
	if err != nil {
		return err
	}
	s, err := newServer(ctx, site.Config, f, logs.New(f.Log.Room(), logFile), logFile)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()

	fmt.Fprintf(out, "Postern runs in %s: a gateway and a backend, LMTP over a socket between them.\n", site.Dir)
	if err := demoMail(ctx, site, out); err != nil {
		stop()
		return errors.Join(fmt.Errorf("the demo's own mail: %w", err), <-ended)
	}
	if err := template.Must(template.New("").Parse(demoText)).Execute(out, site); err != nil {
		stop()
		return errors.Join(err, <-ended)
	}
	err = <-ended
	fmt.Fprintln(out, "\nStopped. The next start finds what is there now.")
	return err
}

// layDemo writes what is not there yet into the demo's folder.
func layDemo(dir string) (*demoSite, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	site := &demoSite{Dir: dir, Config: filepath.Join(dir, "postern.hcl"), Socket: filepath.Join(dir, "lmtp.sock"), Program: relative(program), Port: make(map[string]int)}
	if len(site.Socket) > 100 { // sun_path ends at 108 octets
		short, err := os.MkdirTemp("", "postern")
		if err != nil {
			return nil, err
		}
		site.Socket = filepath.Join(short, "lmtp.sock")
	}
	for name, port := range demoPorts {
		if site.Port[name], err = freePort(port); err != nil {
			return nil, err
		}
	}
	if err := writeAbsent(filepath.Join(dir, "company.ldif"), ldif.OpenLDAP().LDIF); err != nil {
		return nil, err
	}
	if err := selfSigned(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		return nil, err
	}
	file, err := os.Create(site.Config)
	if err != nil {
		return nil, err
	}
	err = template.Must(template.New("").Parse(demoConfig)).Execute(file, site)
	return site, errors.Join(err, file.Close())
}

// relative shortens a path below the working directory.
func relative(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

// freePort returns the wanted port, or another one where it is taken.
func freePort(wanted int) (int, error) {
	for _, port := range []int{wanted, 0} {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			port = l.Addr().(*net.TCPAddr).Port
			return port, l.Close()
		}
		if port == 0 {
			return 0, err
		}
	}
	return 0, nil
}

func writeAbsent(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

func (d *demoSite) address(name string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Port[name]))
}

// demoMail sends a message as Alice and waits until Bob sees it, with clients
// that share no code with the server.
func demoMail(ctx context.Context, site *demoSite, out io.Writer) error {
	trust, err := trustOf(filepath.Join(site.Dir, "cert.pem"))
	if err != nil {
		return err
	}
	id := fmt.Sprintf("<%d@demo.example.com>", time.Now().UnixNano())
	if err := submit(site, trust, id); err != nil {
		return fmt.Errorf("submission as alice: %w", err)
	}
	fmt.Fprintf(out, "Alice wrote to info@example.com (a group of two) by submission with login and TLS.\n")
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return readBack(ctx, site, trust, id, out)
}

func submit(site *demoSite, trust *tls.Config, id string) error {
	c, err := gosmtp.DialStartTLS(site.address("Submission"), trust)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // after QUIT
	if err := c.Auth(sasl.NewPlainClient("", "alice", ldif.Password("alice"))); err != nil {
		return err
	}
	text := "From: Alice Anders <alice@example.com>\r\nTo: Info <info@example.com>\r\nMessage-ID: " + id +
		"\r\nSubject: Hello from Postern, " + time.Now().Format("15:04:05") + "\r\n\r\n" +
		"This message came in by authenticated submission, was resolved in the\r\ndirectory, and handed to the backend by LMTP.\r\n"
	if err := c.SendMail("alice@example.com", []string{"info@example.com"}, strings.NewReader(text)); err != nil {
		return err
	}
	return c.Quit()
}

func readBack(ctx context.Context, site *demoSite, trust *tls.Config, id string, out io.Writer) error {
	c, err := imapclient.DialTLS(site.address("IMAPS"), &imapclient.Options{TLSConfig: trust})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // after LOGOUT
	if err := c.Login("bob", ldif.Password("bob")).Wait(); err != nil {
		return fmt.Errorf("IMAP login as bob: %w", err)
	}
	for {
		if _, err := c.Select("INBOX", nil).Wait(); err != nil {
			return err
		}
		found, err := c.Search(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Message-ID", Value: id}}}, nil).Wait()
		if err != nil {
			return err
		}
		if len(found.AllSeqNums()) > 0 {
			// It may have come after the SELECT that found it.
			box, err := c.Select("INBOX", nil).Wait()
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "Bob sees it in IMAP:\n\n")
			if err := printInbox(c, box.NumMessages, out); err != nil {
				return err
			}
			return c.Logout().Wait()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the message is not in bob's INBOX after 30 s; see %s", filepath.Join(site.Dir, "postern.log"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// printInbox prints the newest messages.
func printInbox(c *imapclient.Client, n uint32, out io.Writer) error {
	var set imap.SeqSet
	set.AddRange(max(n, 5)-4, n)
	messages, err := c.Fetch(set, &imap.FetchOptions{Envelope: true, RFC822Size: true, UID: true}).Collect()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  INBOX of bob, %d message(s)\n", n)
	for _, m := range messages {
		from := ""
		if len(m.Envelope.From) > 0 {
			from = m.Envelope.From[0].Addr()
		}
		fmt.Fprintf(out, "  %4d  %-22s %-36s %6d octets\n", m.UID, from, m.Envelope.Subject, m.RFC822Size)
	}
	return nil
}

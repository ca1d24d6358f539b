package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/transfer"
	"github.com/postern-mail/postern/transfer/maildir"
	"github.com/postern-mail/postern/transfer/mbox"
	"github.com/postern-mail/postern/transfer/remote"
)

// Exit statuses of import, export, backup and restore beside 0 and 1.
const (
	// notWhole: everything else is done, but something was skipped.
	notWhole = 3
)

func importCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "import", Short: "Bring mail of a Maildir, an mbox or another IMAP server into mailboxes",
		Long: "Works beside the running server, whose users may be connected, or on the mailboxes of a stopped one. What was\n" +
			"brought is remembered: another run brings the rest, and takes over changes of flags. Nothing here is removed or\n" +
			"overwritten. Exits with 0 when all came, 3 when some was skipped, which is told, and 1 on an error.\n\n" +
			"See docs/migration.md for a move step by step.",
	}
	c.AddCommand(importMaildirCommand(), importMboxCommand(), importIMAPCommand())
	return c
}

// importFlags are those that all kinds have.
func importFlags(c *cobra.Command) {
	c.Flags().String("into", "", "put everything into and below `MAILBOX`")
	c.Flags().StringArray("folder", nil, "only mailboxes like `PATTERN`, and those below them; may be repeated")
	c.Flags().StringArray("exclude", nil, "not mailboxes like `PATTERN`, nor those below them; may be repeated")
	c.Flags().Bool("uids", false, "keep UIDVALIDITY and UIDs in mailboxes that never held a message")
	c.Flags().Bool("dedupe", false, "leave out messages that the mailbox holds already, by Message-ID, size and date")
	c.Flags().Bool("dry-run", false, "only tell what there is to bring")
	c.Flags().Bool("again", false, "bring also what was brought before")
	c.Flags().Bool("json", false, "the summary as JSON")
	c.Flags().Int("parallel", 1, "bring so many people at a time")
	c.Flags().String("state", "", "remember what was brought in `DIR`; import in data_dir by default")
}

func importOptions(c *cobra.Command) (o transfer.Options) {
	o.Into, _ = c.Flags().GetString("into")
	o.Only, _ = c.Flags().GetStringArray("folder")
	o.Exclude, _ = c.Flags().GetStringArray("exclude")
	o.KeepUIDs, _ = c.Flags().GetBool("uids")
	o.Dedupe, _ = c.Flags().GetBool("dedupe")
	o.DryRun, _ = c.Flags().GetBool("dry-run")
	o.Into = strings.TrimSuffix(o.Into, "/")
	return o
}

func importMaildirCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "maildir DIR", Short: "Bring a Maildir in", Args: cobra.ExactArgs(1),
		Long: "DIR is a Maildir with its folders (.Sent, .Work.Plans), as Dovecot and Courier keep them, or a tree of Maildirs.\n" +
			"Flags, keywords, subscriptions, and with --uids the UIDs of Dovecot are taken from it. It is read as the user\n" +
			"who calls this, and not changed.\n\n" + manyPlaces,
		Example: "  postern import maildir /var/vmail/kim/Maildir --user kim\n" +
			"  postern import maildir '/var/vmail/%d/%n/Maildir' --users people --parallel 4",
		RunE: func(c *cobra.Command, args []string) error {
			return importPlaces(c, "maildir", args[0], func(path string, o transfer.Options) (transfer.Source, error) {
				return maildir.Open(path, o.Dedupe)
			})
		},
	}
	importFlags(c)
	c.Flags().String("user", "", "whose mailboxes, by login or address")
	c.Flags().String("users", "", "bring all in `FILE`, lines of user,path")
	return c
}

func importMboxCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "mbox FILE|DIR", Short: "Bring an mbox, or a folder of them, in", Args: cobra.ExactArgs(1),
		Long: "A FILE goes to INBOX, or with --into elsewhere; in a DIR each file is a mailbox. mboxrd, mboxo and mboxcl2 are\n" +
			"understood, flags are read from Status, X-Status and X-Keywords. It is read as the user who calls this, and not\n" +
			"changed; no mail should be delivered into it meanwhile.\n\n" + manyPlaces,
		Example: "  postern import mbox /var/mail/kim --user kim",
		RunE: func(c *cobra.Command, args []string) error {
			return importPlaces(c, "mbox", args[0], func(path string, o transfer.Options) (transfer.Source, error) {
				return mbox.Open(path, o.Dedupe)
			})
		},
	}
	importFlags(c)
	c.Flags().String("user", "", "whose mailboxes, by login or address")
	c.Flags().String("users", "", "bring all in `FILE`, lines of user,path")
	return c
}

// imported is the summary in JSON.
type imported struct {
	User string `json:"user"`
	*transfer.Summary
	DryRun bool   `json:"dry_run,omitempty"`
	Error  string `json:"error,omitempty"`
}

func tellImport(c *cobra.Command, out io.Writer, user string, s *transfer.Summary, dry bool, failed error) error {
	if asJSON, _ := c.Flags().GetBool("json"); asJSON {
		line := imported{User: user, Summary: s, DryRun: dry}
		if failed != nil {
			line.Error = failed.Error()
		}
		return json.NewEncoder(out).Encode(line)
	}
	for _, k := range s.Skips {
		what := k.Folder
		if k.Message != "" {
			what += ", message " + k.Message
		}
		fmt.Fprintf(out, "%s: skipped %s: %s\n", user, oneLine(what), oneLine(k.Why))
	}
	if more := s.Skipped - int64(len(s.Skips)); more > 0 {
		fmt.Fprintf(out, "%s: skipped %d more\n", user, more)
	}
	for _, n := range s.Notes {
		fmt.Fprintf(out, "%s: %s\n", user, oneLine(n))
	}
	verb := "copied"
	if dry {
		verb = "to copy (less what is here already)"
	}
	_, err := fmt.Fprintf(out, "%s: %d mailbox(es), %d message(s): %d %s (%s), %d known from before, %d present, %d with new flags, %d skipped\n",
		user, s.Folders, s.Seen, s.Copied, verb, octets(uint64(s.Octets)), s.Known, s.Present, s.Flags, s.Skipped)
	return err
}

func importIMAPCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "imap", Short: "Bring mailboxes of another IMAP server in", Args: cobra.NoArgs,
		Long: "Logs in to the server as --remote-user, which is --user where it is not given, with the password in the first\n" +
			"line of --password-file; with --master a master user logs in for them. The connection is TLS from its first octet\n" +
			"(port 993) unless --starttls or --plaintext (port 143) says otherwise. All mailboxes of the personal namespace are\n" +
			"read, nothing there is changed. A lost connection is made anew.\n\n" +
			"With --users many people are brought in, --parallel of them at a time: a file of lines\n" +
			"user,remote-user,password, the second and third of which may be missing. What fails for one does not keep the\n" +
			"others.",
		Example: "  postern import imap --host old.example.com --user kim --password-file kim.password\n" +
			"  postern import imap --host old.example.com --users people.csv --parallel 4 --master admin \\\n" +
			"    --password-file master.password",
		RunE: func(c *cobra.Command, _ []string) error { return importIMAP(c) },
	}
	importFlags(c)
	c.Flags().String("user", "", "whose mailboxes, by login or address")
	c.Flags().String("users", "", "bring all in `FILE`, lines of user,remote-user,password")
	c.Flags().String("host", "", "the other server, `HOST` or HOST:PORT")
	c.Flags().String("remote-user", "", "the `LOGIN` there")
	c.Flags().String("password-file", "", "`FILE` with the password in its first line")
	c.Flags().String("master", "", "`LOGIN` of a master user there")
	c.Flags().String("master-separator", "", "log a master user in as LOGIN, `SEPARATOR`, MASTER; without it by SASL PLAIN's own way")
	c.Flags().Bool("starttls", false, "STARTTLS on port 143 in the place of TLS")
	c.Flags().Bool("plaintext", false, "no TLS at all: passwords and mail can be read on the way")
	c.Flags().String("ca-file", "", "trust the certificates in `FILE` in the place of the system's")
	c.Flags().Bool("insecure-skip-verify", false, "do not verify the other server's certificate")
	return c
}

func importIMAP(c *cobra.Command) error {
	cfg, err := remoteConfig(c)
	if err != nil {
		return err
	}
	people, err := remotePeople(c)
	if err != nil {
		return err
	}
	for _, p := range people {
		if p.password == "" && cfg.Password == "" {
			return fmt.Errorf("the password for %s is missing: --password-file FILE", p.user)
		}
	}
	all := make([]arrival, len(people))
	for i, p := range people {
		all[i] = arrival{p.user, p.opening(cfg)}
	}
	return importAll(c, "import imap from "+cfg.Address, all)
}

// remotePerson is one who is brought in.
type remotePerson struct{ user, login, password string }

func (p remotePerson) opening(cfg remote.Config) opening {
	return func(ctx context.Context, o transfer.Options, warn func(string)) (transfer.Source, func(), error) {
		cfg := cfg
		cfg.Keys = o.Dedupe
		if cfg.User == "" {
			cfg.User = p.login
		} else {
			cfg.Account = p.login
		}
		if p.password != "" {
			cfg.Password = p.password
		}
		cfg.Tell = warn
		s, err := remote.Open(ctx, cfg)
		if err != nil {
			return nil, nil, fmt.Errorf("%s, login %s: %w", cfg.Address, p.login, err)
		}
		return s, func() { s.Close(ctx) }, nil
	}
}

// remoteConfig reads where the other server is. User is the master user's, or "".
func remoteConfig(c *cobra.Command) (cfg remote.Config, err error) {
	host, _ := c.Flags().GetString("host")
	startTLS, _ := c.Flags().GetBool("starttls")
	plaintext, _ := c.Flags().GetBool("plaintext")
	if host == "" {
		return cfg, errors.New("the other server is missing: --host HOST")
	}
	if startTLS && plaintext {
		return cfg, errors.New("--starttls and --plaintext exclude each other")
	}
	port := "993"
	if startTLS || plaintext {
		port = "143"
	}
	cfg.Address = host
	if _, _, err := net.SplitHostPort(host); err != nil {
		cfg.Address = net.JoinHostPort(strings.Trim(host, "[]"), port)
	}
	cfg.User, _ = c.Flags().GetString("master")
	cfg.JoinWith, _ = c.Flags().GetString("master-separator")
	if cfg.StartTLS = startTLS; !plaintext {
		if cfg.TLS, err = remoteTLS(c, cfg.Address); err != nil {
			return cfg, err
		}
	}
	if path, _ := c.Flags().GetString("password-file"); path != "" {
		cfg.Password, err = firstLine(path)
	}
	return cfg, err
}

func remoteTLS(c *cobra.Command, address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	cfg.InsecureSkipVerify, _ = c.Flags().GetBool("insecure-skip-verify")
	if path, _ := c.Flags().GetString("ca-file"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", path)
		}
	}
	return cfg, nil
}

// firstLine reads a password.
func firstLine(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, 1<<12)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("%s: its first line is empty", path)
	}
	return line, nil
}

// remotePeople reads who is to be brought in.
func remotePeople(c *cobra.Command) ([]remotePerson, error) {
	user, _ := c.Flags().GetString("user")
	login, _ := c.Flags().GetString("remote-user")
	path, _ := c.Flags().GetString("users")
	switch {
	case (user == "") == (path == ""):
		return nil, errors.New("whose mailboxes is missing: --user LOGIN for one, --users FILE for many")
	case path == "":
		if login == "" {
			login = user
		}
		return []remotePerson{{user: user, login: login}}, nil
	case login != "":
		return nil, errors.New("--remote-user goes with --user; in --users it is the second column")
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readPeople(f, path)
}

func readPeople(r io.Reader, path string) (all []remotePerson, err error) {
	lines := csv.NewReader(r)
	lines.FieldsPerRecord, lines.TrimLeadingSpace, lines.Comment = -1, true, '#'
	seen := make(map[string]bool)
	for {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		line, _ := lines.FieldPos(0)
		p := remotePerson{user: strings.TrimSpace(fields[0])}
		p.login = p.user
		if len(fields) > 1 && fields[1] != "" {
			p.login = strings.TrimSpace(fields[1])
		}
		if len(fields) > 2 {
			p.password = fields[2]
		}
		switch {
		case p.user == "" || len(fields) > 3:
			return nil, fmt.Errorf("%s, line %d: not user,remote-user,password", path, line)
		case seen[p.user+"\x00"+p.login]:
			return nil, fmt.Errorf("%s, line %d: %s stands there twice", path, line, p.user)
		}
		seen[p.user+"\x00"+p.login] = true
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s names nobody", path)
	}
	return all, nil
}

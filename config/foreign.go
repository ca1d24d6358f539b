package config

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/foreign"
)

// Mirror is two IMAP servers that are kept in step.
type Mirror struct {
	block
	Name string `conf:"name,label"`

	Left  *MirrorSide `conf:"left,block" example:"left { uri = \"imaps://old.example.com\" }" doc:"One server; with direction left-to-right the one that people use now."`
	Right *MirrorSide `conf:"right,block" example:"right { uri = \"imaps://new.example.com\" }" doc:"The other server."`

	Direction    string        `conf:"direction" default:"both" oneof:"both left-to-right" doc:"both: what happens on either side happens on the other. left-to-right: the left side is left as it is, and what happens on the right stays there until this becomes both."`
	Accounts     []string      `conf:"accounts" doc:"Names of the accounts, alike on both servers."`
	AccountsFile string        `conf:"accounts_file" doc:"File of accounts, one a line: its name, and where the servers know it by others, its login on the left and on the right behind that. Read again every minute."`
	Exclude      []string      `conf:"exclude" doc:"Mailboxes to leave alone with all below them: names with / between levels, in which * stands for any part of a level and ? for a character."`
	MaxDeletions int           `conf:"max_deletions" default:"30" doc:"Share of an account's messages, in percent, that may be removed on one side at once because the other said they are gone. What is more waits for postern mirror confirm or restore. 0: everything above min_deletions waits. 100: nothing does."`
	MinDeletions int           `conf:"min_deletions" default:"20" doc:"So many messages may be removed at once whatever their share."`
	Interval     time.Duration `conf:"poll_interval" default:"30s" doc:"How often all mailboxes are looked at where a server has no NOTIFY (RFC 5465); with IDLE, INBOX is watched in between. Servers with NOTIFY are looked at in ten times that."`
	MaxAccounts  int           `conf:"max_accounts" default:"100" doc:"Accounts that are connected at a time; each takes one connection to each side. More accounts take turns."`
}

// MirrorSide is a server of a mirror.
type MirrorSide struct {
	block
	URI              string        `conf:"uri" required:"the server, such as \"imaps://mail.example.com\"" doc:"The server: imaps://HOST[:PORT] for TLS from the first octet, imap://HOST[:PORT] for STARTTLS, or unix:PATH without TLS."`
	CAFile           string        `conf:"ca_file" doc:"CA certificates to trust, PEM. Empty: the system's."`
	ServerName       string        `conf:"server_name" doc:"Name the server's certificate must hold. Empty: the host of the URI."`
	InsecureNoVerify bool          `conf:"insecure_skip_verify" default:"false" doc:"Do not verify the server's certificate: whoever is in between then reads every password and all mail."`
	AllowPlaintext   bool          `conf:"allow_plaintext" default:"false" doc:"Speak imap:// without TLS."`
	User             string        `conf:"user" doc:"Master user who logs in for every account, by the authorization identity of SASL PLAIN."`
	PasswordFile     string        `conf:"password_file" doc:"File that holds the master user's password in its first line."`
	LoginsFile       string        `conf:"logins_file" doc:"File of the accounts' own logins, one LOGIN:PASSWORD a line, for servers without a master user. Read again every minute."`
	Timeout          time.Duration `conf:"timeout" default:"1m" doc:"Longest wait for one answer of the server."`
}

func (c checker) mirrors() {
	seen := make(map[string]hcl.Range)
	for _, m := range c.file.Mirrors {
		if first, ok := seen[m.Name]; ok {
			c.errorf(m.at, "Repeated name", "The mirror %q is defined in %s already.", m.Name, place(first))
		}
		seen[m.Name] = m.at
		c.mirror(m)
	}
}

func (c checker) mirror(m *Mirror) {
	for _, s := range []struct {
		name string
		side *MirrorSide
	}{{"left", m.Left}, {"right", m.Right}} {
		if s.side == nil {
			c.errorf(m.at, "Missing block", "A mirror has two sides: write a block %s { uri = \"imaps://...\" }.", s.name)
			continue
		}
		c.mirrorSide(s.side)
	}
	if len(m.Accounts) == 0 && m.AccountsFile == "" {
		c.errorf(m.at, "Missing setting", "Whose mail is it? Set accounts or accounts_file.")
	}
	c.readable(&m.block, "accounts_file", m.AccountsFile)
	for _, pattern := range m.Exclude {
		if _, err := path.Match(pattern, ""); err != nil {
			c.errorf(m.rangeOf("exclude"), "Wrong value", "exclude: %q is no pattern: %v.", pattern, err)
		}
	}
	for _, n := range []struct {
		name       string
		value, max int
	}{{"max_deletions", m.MaxDeletions, 100}, {"min_deletions", m.MinDeletions, 1 << 30}} {
		if n.value < 0 || n.value > n.max {
			c.errorf(m.rangeOf(n.name), "Wrong value", "%s is between 0 and %d.", n.name, n.max)
		}
	}
	if m.MaxAccounts < 1 {
		c.errorf(m.rangeOf("max_accounts"), "Wrong value", "max_accounts is at least 1.")
	}
	if m.Interval < time.Second {
		c.errorf(m.rangeOf("poll_interval"), "Wrong value", "poll_interval is at least 1s.")
	}
}

func (c checker) mirrorSide(s *MirrorSide) {
	address, protection, host, err := s.server()
	switch {
	case err != nil:
		c.errorf(s.rangeOf("uri"), "Wrong value", "uri: %v.", err)
	case strings.HasPrefix(address, "unix:"):
		c.address(s.rangeOf("uri"), address, true)
	case protection == foreign.Cleartext && !loopback(host) && s.User+s.LoginsFile != "":
		at := s.rangeOf("allow_plaintext")
		c.errorf(at, "Unsafe", "allow_plaintext: passwords and mail would go to %s as they are. This is for servers on this machine.", host)
	}
	switch {
	case s.User == "" && s.LoginsFile == "":
		c.errorf(s.at, "Missing setting", "How does the mirror get into the accounts? Set user and password_file of a master user, or logins_file.")
	case s.User != "" && s.LoginsFile != "":
		c.errorf(s.rangeOf("logins_file"), "Contradiction", "user and logins_file exclude each other.")
	case s.User != "" && s.PasswordFile == "":
		c.errorf(s.rangeOf("user"), "Missing setting", "user needs password_file.")
	case s.User == "" && s.PasswordFile != "":
		c.errorf(s.rangeOf("password_file"), "Missing setting", "password_file is that of user, which is not set.")
	}
	for name, file := range map[string]string{"ca_file": s.CAFile, "password_file": s.PasswordFile, "logins_file": s.LoginsFile} {
		c.readable(&s.block, name, file)
	}
	if s.Timeout <= 0 {
		c.errorf(s.rangeOf("timeout"), "Wrong value", "timeout is longer than nothing.")
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// server reads the URI.
func (s *MirrorSide) server() (address string, p foreign.Protection, host string, err error) {
	if strings.HasPrefix(s.URI, "unix:") {
		return s.URI, foreign.Cleartext, "", nil
	}
	u, err := url.Parse(s.URI)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return "", 0, "", fmt.Errorf("%q is not like imaps://mail.example.com", s.URI)
	}
	port := ""
	switch {
	case u.Scheme == "imaps":
		p, port = foreign.ImplicitTLS, "993"
	case u.Scheme == "imap" && s.AllowPlaintext:
		p, port = foreign.Cleartext, "143"
	case u.Scheme == "imap":
		p, port = foreign.StartTLS, "143"
	default:
		return "", 0, "", fmt.Errorf("%q begins neither with imaps:// nor with imap://", s.URI)
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)), p, u.Hostname(), nil
}

// ForeignMirrors returns the mirrors. Files are read now, and those of accounts and
// logins again when the mirror asks.
func (f *File) ForeignMirrors() ([]foreign.Config, error) {
	var all []foreign.Config
	for _, m := range f.Mirrors {
		c, err := m.room()
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", m.Name, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func (m *Mirror) room() (foreign.Config, error) {
	c := foreign.Config{
		Name: m.Name, Exclude: m.Exclude, MaxDeletions: m.MaxDeletions, MinDeletions: m.MinDeletions,
		Interval: m.Interval, MaxAccounts: m.MaxAccounts, Accounts: m.accounts,
	}
	if m.MaxDeletions == 0 {
		c.MaxDeletions = -1 // there 0 is the default
	}
	if m.MinDeletions == 0 {
		c.MinDeletions = -1
	}
	if m.Direction == "left-to-right" {
		c.Direction = foreign.LeftToRight
	}
	var err error
	for i, s := range []*MirrorSide{m.Left, m.Right} {
		if c.Servers[i], err = s.room(); err != nil {
			return c, err
		}
	}
	_, err = m.accounts(context.Background())
	return c, err
}

func (s *MirrorSide) room() (foreign.Server, error) {
	address, protection, host, err := s.server()
	server := foreign.Server{Address: address, Protection: protection, User: s.User, Timeout: s.Timeout}
	if err != nil {
		return server, err
	}
	if s.PasswordFile != "" {
		text, err := readBounded(s.PasswordFile)
		if err != nil {
			return server, err
		}
		line, _, _ := strings.Cut(string(text), "\n")
		server.Password = strings.TrimRight(line, "\r")
	}
	if protection == foreign.Cleartext {
		return server, nil
	}
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(s.ServerName, host), InsecureSkipVerify: s.InsecureNoVerify}
	if s.CAFile != "" {
		pem, err := readBounded(s.CAFile)
		if err != nil {
			return server, err
		}
		server.TLS.RootCAs = x509.NewCertPool()
		if !server.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return server, fmt.Errorf("%s holds no certificate", s.CAFile)
		}
	}
	return server, nil
}

// maxAccountLine bounds a line of accounts_file and logins_file.
const maxAccountLine = 4096

// accounts reads whose mail it is.
func (m *Mirror) accounts(context.Context) ([]foreign.Account, error) {
	var all []foreign.Account
	for _, name := range m.Accounts {
		all = append(all, foreign.Account{Name: name, Logins: [2]foreign.Login{{Name: name}, {Name: name}}})
	}
	err := eachLine(m.AccountsFile, func(line string) error {
		words := strings.Fields(line)
		if len(words) > 3 {
			return fmt.Errorf("%q: want ACCOUNT, or ACCOUNT LEFT-LOGIN RIGHT-LOGIN", line)
		}
		a := foreign.Account{Name: words[0]}
		for i := range a.Logins {
			a.Logins[i].Name = words[min(i+1, len(words)-1)]
		}
		all = append(all, a)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, s := range []*MirrorSide{m.Left, m.Right} {
		if err := s.passwords(i, all); err != nil {
			return nil, err
		}
	}
	if twice := firstTwice(all); twice != "" {
		return nil, fmt.Errorf("the account %s is listed twice", twice)
	}
	return all, nil
}

func firstTwice(all []foreign.Account) string {
	seen := make(map[string]bool)
	for _, a := range all {
		if len(a.Name) > 512 || seen[a.Name] {
			return a.Name
		}
		seen[a.Name] = true
	}
	return ""
}

// passwords fills in the accounts' own logins on a side.
func (s *MirrorSide) passwords(side int, all []foreign.Account) error {
	if s.LoginsFile == "" {
		return nil
	}
	found := make(map[string]string)
	err := eachLine(s.LoginsFile, func(line string) error {
		login, password, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("a line without LOGIN:PASSWORD")
		}
		found[strings.TrimSpace(login)] = password
		return nil
	})
	if err != nil {
		return err
	}
	for i := range all {
		login := &all[i].Logins[side]
		login.Password = found[login.Name]
	}
	return nil
}

// eachLine reads a file's lines but empty ones and comments.
func eachLine(name string, each func(string) error) error {
	if name == "" {
		return nil
	}
	text, err := readBounded(name)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxAccountLine)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), "\r")
		if t := strings.TrimSpace(line); t == "" || strings.HasPrefix(t, "#") {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// MirrorNames lists the mirrors.
func (f *File) MirrorNames() []string {
	var names []string
	for _, m := range f.Mirrors {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

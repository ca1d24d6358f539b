package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// The exit statuses of sysexits.h that programs know sendmail by.
const (
	exUsage       = 64
	exDataErr     = 65
	exNoInput     = 66
	exNoUser      = 67
	exUnavailable = 69
	exSoftware    = 70
	exTempFail    = 75
	exNoPerm      = 77
)

// exitWith ends sendmail with a status.
func exitWith(status int, err error) *exitStatus {
	return &exitStatus{status: status, err: err, speaker: "sendmail"}
}

func exitf(status int, format string, args ...any) error {
	return exitWith(status, fmt.Errorf(format, args...))
}

// calledAs returns the command line for a name the binary was called by other
// than its own: as sendmail(1), mailq(1) or newaliases(1).
func calledAs(args []string) []string {
	switch filepath.Base(args[0]) {
	case "sendmail":
		return append([]string{"sendmail"}, args[1:]...)
	case "mailq":
		return append([]string{"sendmail", "-bp"}, args[1:]...)
	case "newaliases":
		return append([]string{"sendmail", "-bi"}, args[1:]...)
	default:
		return args[1:]
	}
}

func sendmailCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sendmail [OPTION...] [RECIPIENT...]", Short: "Submit a message from standard input, as sendmail(1) does",
		Long: "Hands a message to the running server through the socket of its listener of mode local. The server\n" +
			"knows by the kernel who submits. Takes the options of Postfix's sendmail(1); see postern(8).",
		DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "--help" {
				return c.Help()
			}
			o, err := parseSendmail(args)
			if err != nil {
				return err
			}
			return sendmail(c, o)
		},
	}
}

// sendmail does what the options ask for.
func sendmail(c *cobra.Command, o sendmailOptions) error {
	switch o.mode {
	case modeListQueue:
		return askQueue(c, o, "queue/list", nil)
	case modeFlush:
		return askQueue(c, o, "queue/retry", o.flush)
	case modeAliases:
		return nil // alias files are read again by themselves
	case modeSession:
		return joinSession(c, o)
	default:
		return submitLetter(c, o)
	}
}

// askQueue has the running server list or retry what is queued.
func askQueue(c *cobra.Command, o sendmailOptions, command string, args url.Values) error {
	if err := c.Flags().Set("config", cmp.Or(o.config, defaultConfig)); err != nil {
		return err
	}
	if err := callServer(c, command, args); err != nil {
		return exitWith(exUnavailable, err)
	}
	return nil
}

// defaultSubmitSocket is where packages have the listener of mode local.
const defaultSubmitSocket = "/run/postern/submit.sock"

// submitSocket finds the socket: by the configuration where this user may read
// it, else in its usual place.
func submitSocket(o sendmailOptions) (string, error) {
	socket, err := config.SubmitSocket(cmp.Or(o.config, defaultConfig))
	switch {
	case err == nil:
		return socket, nil
	case o.config != "":
		return "", exitWith(exUnavailable, err)
	default:
		return defaultSubmitSocket, nil
	}
}

// joinSession connects standard input and output with the server (-bs).
func joinSession(c *cobra.Command, o sendmailOptions) error {
	socket, err := submitSocket(o)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(c.Context(), "unix", socket)
	if err != nil {
		return notServed(socket, err)
	}
	defer func() { _ = conn.Close() }()
	go func() { // ends with the process
		_, _ = io.Copy(conn, c.InOrStdin())
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(c.OutOrStdout(), conn)
	return err
}

func notServed(socket string, err error) error {
	return exitf(exTempFail, "the message was not taken, and is not kept: no server takes mail at %s: %w", socket, err)
}

// submitLetter reads the whole message first: what writes it may take its time,
// which a session would not wait for.
func submitLetter(c *cobra.Command, o sendmailOptions) error {
	l, err := readLetter(c.InOrStdin(), o)
	if err != nil {
		return err
	}
	defer l.close()
	socket, err := submitSocket(o)
	if err != nil {
		return err
	}
	client, err := smtp.Dial(c.Context(), "unix", socket, smtp.ClientConfig{TLS: smtp.ClientTLSNone, Chunking: true})
	if err != nil {
		return notServed(socket, err)
	}
	defer func() { _ = client.Close() }()
	s := submission{options: o, letter: l, host: client.PeerName(), client: client, complain: c.ErrOrStderr()}
	if s.login, err = loginName(); err != nil {
		return err
	}
	err = s.send(c.Context())
	_ = client.Quit(c.Context()) // all that counts has been answered
	return err
}

func loginName() (*user.User, error) {
	u, err := user.Current()
	if err != nil {
		return nil, exitf(exSoftware, "who runs this: %w", err)
	}
	return u, nil
}

// submission is one message on its way to the server.
type submission struct {
	options  sendmailOptions
	letter   *letterFile
	login    *user.User
	host     string // of the server, for addresses without a domain
	client   *smtp.Client
	complain io.Writer
}

// recipientsAtOnce is how many recipients one transaction has at most.
const recipientsAtOnce = 500

// send hands the message over. Whoever is refused is told of; the others get
// it all the same.
func (s *submission) send(ctx context.Context) error {
	from, err := s.reversePath()
	if err != nil {
		return err
	}
	to, err := s.recipients()
	if err != nil {
		return err
	}
	top := s.letter.header(from, s.fullName(), time.Now())
	body := s.options.body
	if body == "" && s.letter.eightBit {
		body = mail.Body8BitMIME
	}
	m := smtp.ClientMessage{
		From:   smtp.MailCommand{ReversePath: from, Body: body, Return: s.options.ret, EnvelopeID: s.options.envelopeID},
		Octets: int64(len(top)) + s.letter.bodyOctets,
	}
	var failed error
	for len(to) > 0 {
		n := min(len(to), recipientsAtOnce)
		m.To, to = to[:n], to[n:]
		if m.Content, err = s.letter.content(top); err != nil {
			return exitf(exTempFail, "read the message again: %w", err)
		}
		for i, result := range s.client.Send(ctx, m) {
			failed = s.note(failed, m.To[i].ForwardPath, result.Err)
		}
	}
	return failed
}

// note tells of a recipient who was refused. The worst that can be done about
// the whole is to try it again, so a permanent failure outweighs.
func (s *submission) note(before error, to mail.Address, err error) error {
	if err == nil {
		return before
	}
	failed := exitWith(exitOf(err), fmt.Errorf("%s: %s", to, status.ReplyOf(err)))
	var old *exitStatus
	if !errors.As(before, &old) {
		return failed
	}
	fmt.Fprintln(s.complain, "sendmail:", failed)
	if old.status == exTempFail {
		old.status = failed.status
	}
	return old
}

// exitOf turns a reply into an exit status.
func exitOf(err error) int {
	reply := status.ReplyOf(err)
	switch {
	case !reply.Permanent():
		return exTempFail
	case reply.Enhanced[1] == 1 && reply.Enhanced[2] <= 3:
		return exNoUser
	case reply.Enhanced[1] == 7:
		return exNoPerm
	case reply.Code == 552, reply.Enhanced[1] == 6:
		return exDataErr
	default:
		return exUnavailable
	}
}

// reversePath is what -f gave, or the user at this host.
func (s *submission) reversePath() (mail.Address, error) {
	text := s.options.from
	switch {
	case !s.options.fromGiven:
		text = s.login.Username
	case text == "" || text == "<>":
		return mail.Address{}, nil
	}
	paths := addressPaths(text)
	if len(paths) != 1 {
		return mail.Address{}, exitf(exUsage, "-f %q is not one address", text)
	}
	a, err := s.qualified(paths[0])
	if err != nil {
		return mail.Address{}, exitf(exUsage, "sender %q: %w", text, err)
	}
	return a, nil
}

// qualified reads an address; one without a domain is one of this host.
func (s *submission) qualified(path string) (mail.Address, error) {
	if !strings.Contains(path, "@") {
		path += "@" + s.host
	}
	return mail.ParseAddress(path)
}

// recipients are those of the command line, with -t also those of the header.
func (s *submission) recipients() ([]smtp.RcptCommand, error) {
	var paths []string
	for _, arg := range s.options.recipients {
		paths = append(paths, addressPaths(arg)...)
	}
	bad := exUsage
	if s.options.fromHeader {
		paths = append(paths, s.letter.recipients()...)
		bad = exDataErr
	}
	var to []smtp.RcptCommand
	seen := make(map[mail.Address]bool)
	for _, path := range paths {
		a, err := s.qualified(path)
		if err != nil {
			return nil, exitf(bad, "recipient %q: %w", path, err)
		}
		if !seen[a] {
			seen[a] = true
			to = append(to, smtp.RcptCommand{ForwardPath: a, Notify: s.options.notify})
		}
	}
	if len(to) == 0 {
		return nil, exitf(exUsage, "no recipient addresses found in the message header")
	}
	return to, nil
}

// fullName is the name for a From field that has to be made: of -F, the
// environment, or the user database.
func (s *submission) fullName() string {
	name, _, _ := strings.Cut(s.login.Name, ",")
	return cmp.Or(s.options.fullName, os.Getenv("NAME"), name)
}

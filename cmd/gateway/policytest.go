package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

func policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Tell what the restrictions make of a mail"}
	c.AddCommand(policyTestCommand())
	return c
}

// maxRehearsed bounds the message that policy test is given.
const maxRehearsed = 16 << 20

func policyTestCommand() *cobra.Command {
	var here bool
	c := &cobra.Command{
		Use: "test --client IP --from SENDER --to RECIPIENT [flags] [FILE]", Short: "Walk a mail through the restrictions without sending it", Args: cobra.MaximumNArgs(1),
		Long: "Has the running server go through a dialogue as a client would, and prints each restriction that it comes to: the list,\n" +
			"what it looked at, its verdict, and how long it took. Nothing is queued, counted, audited or remembered, so greylisting\n" +
			"tells what it would do now; rates, quotas and policy services are not asked. FILE is a message (- for standard input),\n" +
			"needed by what looks into messages; without it the walk ends at DATA. Milters and rspamd are asked as about any mail,\n" +
			"and may remember it. While no server runs, or with --here, this command does it itself by the configuration as it\n" +
			"stands in its file.",
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "client", "name", "helo", "listener", "from", "auth", "tls", "json")
			to, err := c.Flags().GetStringArray("to")
			if err != nil {
				return err
			}
			values["to"] = to
			if _, err := rehearsalOf(values); err != nil {
				return err
			}
			if len(args) > 0 {
				message, err := readMessage(c, args[0])
				if err != nil {
					return err
				}
				values.Set("message", base64.StdEncoding.EncodeToString(message))
			}
			if here {
				return policyTestHere(c, values)
			}
			err = callServer(c, "policy/test", values)
			if why := cannotAsk(err); why != "" {
				fmt.Fprintf(c.ErrOrStderr(), "%s: this command walks by the configuration in the file, without what a server remembers\n", why)
				return policyTestHere(c, values)
			}
			return err
		},
	}
	c.Flags().String("client", "", "the client's address")
	c.Flags().String("name", "", "its verified host name; without it, what the DNS says where the listener asks that")
	c.Flags().String("helo", "", "what it says in EHLO; without it its name, or its address in brackets")
	c.Flags().String("from", "", "reverse-path; <> or nothing for a report")
	c.Flags().StringArray("to", nil, "a recipient; several with several --to")
	c.Flags().String("auth", "", "who logged in, by any of his logins")
	c.Flags().Bool("tls", false, "the session is protected; with --auth it always is")
	c.Flags().String("listener", "", "name of the listener; without it the first of mode mx, with --auth the first for submission")
	c.Flags().Bool("json", false, "one JSON object for each restriction and each reply")
	c.Flags().BoolVar(&here, "here", false, "do it by the configuration in the file, whether a server runs or not")
	return c
}

// readMessage reads a message with any line ends and returns it with CRLF.
func readMessage(c *cobra.Command, name string) ([]byte, error) {
	in := c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxRehearsed+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxRehearsed {
		return nil, fmt.Errorf("%s has more than %d MiB, the most that can be tested", name, maxRehearsed>>20)
	}
	lines := strings.ReplaceAll(string(text), "\r\n", "\n")
	return []byte(strings.ReplaceAll(lines, "\n", "\r\n")), nil
}

func policyTestHere(c *cobra.Command, values url.Values) error {
	g, err := idleGeneration(configPath(c))
	if err != nil {
		return err
	}
	defer g.runHelpers(c.Context())()
	return g.rehearse(c.Context(), values, c.OutOrStdout())
}

// replyPolicyTest answers the policy test command.
func (s *server) replyPolicyTest(ctx context.Context, args url.Values, out io.Writer) error {
	return s.current.Load().rehearse(ctx, args, out)
}

// rehearsal is a dialogue to walk through.
type rehearsal struct {
	client   netip.Addr
	name     string
	helo     string
	listener string
	from     mail.Address
	to       []mail.Address
	auth     string
	tls      bool
	message  []byte // nil for none
	json     bool
}

func rehearsalOf(args url.Values) (rehearsal, error) {
	r := rehearsal{
		name: args.Get("name"), helo: args.Get("helo"), listener: args.Get("listener"), auth: args.Get("auth"),
		tls: args.Get("tls") == "true" || args.Get("auth") != "", json: wantsJSON(args),
	}
	var err error
	if r.client, err = netip.ParseAddr(args.Get("client")); err != nil {
		return r, fmt.Errorf("--client is the client's IP address, such as 192.0.2.1: %w", err)
	}
	if text := strings.Trim(args.Get("from"), "<>"); text != "" {
		if r.from, err = mail.ParseAddress(text); err != nil {
			return r, fmt.Errorf("--from: %w", err)
		}
	}
	for _, text := range args["to"] {
		to, err := mail.ParseAddress(strings.Trim(text, "<>"))
		if err != nil && strings.EqualFold(text, string(mail.Postmaster)) {
			to, err = mail.Address{Local: mail.LocalPart(text)}, nil
		}
		if err != nil {
			return r, fmt.Errorf("--to: %w", err)
		}
		r.to = append(r.to, to)
	}
	if len(r.to) == 0 {
		return r, errors.New("--to names who gets the mail, at least once")
	}
	if encoded := args.Get("message"); encoded != "" {
		if r.message, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return r, fmt.Errorf("message: %w", err)
		}
	}
	return r, nil
}

// rehearse walks through a dialogue and tells of it. A refusal is no error.
func (g *generation) rehearse(ctx context.Context, args url.Values, out io.Writer) error {
	r, err := rehearsalOf(args)
	if err != nil {
		return err
	}
	if g.file.Gateway == nil {
		return errors.New("this configuration has no gateway, and so no restrictions")
	}
	l, err := r.on(g.file)
	if err != nil {
		return err
	}
	client, err := g.actor(ctx, r, l)
	if err != nil {
		return err
	}
	var say teller = &textTeller{out: newTable(out)}
	if r.json {
		say = jsonTeller{json.NewEncoder(out)}
	}
	deps := g.smtpdDeps(l)
	stage := &stageQueue{}
	deps.Queue, deps.Audit, deps.Logger, deps.Walked = stage, discard{}, hclog.NewNullLogger(), say.walked
	deps.Authn = noLogins{} // who logged in is known
	dir, err := os.MkdirTemp("", "postern-policy-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if deps.Spool, err = content.OpenSpool(content.SpoolConfig{Dir: dir, MaxMessageMemory: 2 * maxRehearsed}, fsx.OS()); err != nil {
		return err
	}
	handler, err := smtpd.New(l.Sessions(g.file), deps)
	if err != nil {
		return err
	}
	err = r.perform(policy.Rehearsal(ctx), handler, client, say)
	if stage.submitted != nil {
		say.goesTo(stage.submitted)
	}
	return errors.Join(err, say.end())
}

// on finds the listener.
func (r rehearsal) on(f *config.File) (*config.SMTPListener, error) {
	if r.listener != "" {
		if l := f.SMTPListener(r.listener); l != nil {
			return l, nil
		}
		return nil, fmt.Errorf("no listener %q; there are %s", r.listener, listenerNames(f))
	}
	for _, l := range f.Gateway.Listeners {
		if l.Submission() == (r.auth != "") {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no listener for such a client; --listener takes one of %s", listenerNames(f))
}

func listenerNames(f *config.File) string {
	var names []string
	for _, l := range f.Gateway.Listeners {
		names = append(names, l.Name)
	}
	return strings.Join(names, ", ")
}

// actor is the client that the dialogue is with.
func (g *generation) actor(ctx context.Context, r rehearsal, l *config.SMTPListener) (*mail.Client, error) {
	c := &mail.Client{
		Session: "rehearsal", Listener: l.Name, Remote: netip.AddrPortFrom(r.client, 49152), Hostname: r.name, Helo: r.helo, Extended: true,
	}
	c.ReverseName = c.Hostname
	if look := l.Room(g.file, g.resolver).LookupHostname; c.Hostname == "" && look != nil {
		c.SetName(look(ctx, r.client))
	}
	if c.Helo == "" {
		if c.Helo = c.Hostname; c.Helo == "" {
			c.Helo = "[" + r.client.String() + "]"
		}
	}
	if r.tls {
		c.TLS = &mail.TLSInfo{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256"}
	}
	if r.auth != "" {
		var err error
		if c.Identity, err = g.loggedIn(ctx, r.auth); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// loggedIn is somebody as if he had logged in; who is of no directory is known
// by his login.
func (g *generation) loggedIn(ctx context.Context, login string) (*mail.Identity, error) {
	id := &mail.Identity{Authentication: login, Authorization: login, Mechanism: "PLAIN"}
	for _, d := range g.file.Directories {
		_, account, err := g.sources[d.Name].FindLogin(ctx, login)
		if status.Of(err) == status.NoSuchUser {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("who %s is: %w", login, err)
		}
		id.Authentication, id.Authorization, id.Source = account.Name, account.Name, d.Name
		break
	}
	return id, nil
}

// perform speaks the client's part.
func (r rehearsal) perform(ctx context.Context, handler *smtpd.Handler, client *mail.Client, say teller) error {
	helo := client.Helo
	client.Helo = "" // not said yet
	say.begins(fmt.Sprintf("connection from %s to listener %s", peerOf(client), client.Listener))
	session, err := handler.NewSession(ctx, client)
	if err != nil {
		say.answer(err, status.Greeting)
		return nil
	}
	defer session.Close(nil)
	client.Helo = helo
	say.begins("EHLO " + helo)
	if err := session.Helo(ctx); say.answer(err, status.OK) {
		return nil
	}
	say.begins("MAIL FROM:" + r.from.Path())
	octets := int64(len(r.message))
	tx, err := session.Mail(ctx, smtp.MailCommand{ReversePath: r.from, DeclaredOctets: octets})
	if say.answer(err, status.SenderOK) {
		return nil
	}
	accepted := 0
	for _, to := range r.to {
		say.begins("RCPT TO:" + to.Path())
		if !say.answer(tx.Rcpt(ctx, smtp.RcptCommand{ForwardPath: to}), status.RecipientOK) {
			accepted++
		}
	}
	if accepted == 0 {
		tx.Abort()
		return nil
	}
	say.begins("DATA")
	if err := tx.Data(ctx); say.answer(err, status.SendData) || r.message == nil {
		tx.Abort()
		return nil
	}
	say.begins(fmt.Sprintf("the message, %d octets", octets))
	_, err = tx.Content(ctx, strings.NewReader(string(r.message)))
	say.answer(err, status.MessageAccepted)
	return nil
}

func peerOf(c *mail.Client) string {
	if c.Hostname == "" {
		return "unknown[" + c.Remote.Addr().String() + "]"
	}
	return c.Hostname + "[" + c.Remote.Addr().String() + "]"
}

// teller tells what happens in a rehearsal.
type teller interface {
	begins(command string)
	walked(tx *mail.Transaction, steps []policy.Step, d mail.Decision)
	// answer tells the reply to a command, and reports whether it refuses.
	answer(err error, ok status.Reason) (refused bool)
	goesTo(*queue.Submission)
	end() error
}

// textTeller tells it to people.
type textTeller struct{ out *tabwriter.Writer }

func (t *textTeller) begins(command string) { fmt.Fprintf(t.out, "%s\n", command) }

func (t *textTeller) walked(tx *mail.Transaction, steps []policy.Step, _ mail.Decision) {
	for i := range steps {
		step := &steps[i]
		why := step.Detail
		if step.Err != nil {
			why = step.Err.Error()
		}
		fmt.Fprintf(t.out, "  %s\t%s\t%s\t%s\t%s\t%s\n",
			step.List, step.Stage, oneLine(step.Input(tx)), step.Verdict(), step.Cost.Round(100*time.Nanosecond), oneLine(why))
	}
}

func (t *textTeller) answer(err error, ok status.Reason) bool {
	reply := ok.Reply()
	if err != nil {
		reply = status.ReplyOf(err)
	}
	fmt.Fprintf(t.out, "  => %s\n", reply)
	return err != nil
}

func (t *textTeller) goesTo(s *queue.Submission) {
	what := "would be queued"
	if s.Hold {
		what = "would be held in the queue"
	}
	fmt.Fprintf(t.out, "%s, from %s, for:\n", what, s.Envelope.ReversePath.Path())
	for _, r := range s.Envelope.Recipients {
		fmt.Fprintf(t.out, "  %s", r.Address)
		if r.Route.Transport != "" {
			fmt.Fprintf(t.out, " by %s", strings.TrimSpace(r.Route.Transport+" "+r.Route.NextHop))
		}
		fmt.Fprintln(t.out)
	}
}

func (t *textTeller) end() error { return t.out.Flush() }

// jsonTeller tells it to programs: the records of the audit, and replies.
type jsonTeller struct{ out *json.Encoder }

type toldReply struct {
	Command string `json:"command,omitempty"`
	Reply   string `json:"reply,omitempty"`
}

type toldQueue struct {
	From string   `json:"from"`
	To   []string `json:"to"`
	Hold bool     `json:"hold"`
}

// An error of the writer is that of a client who left.

func (t jsonTeller) begins(command string) { _ = t.out.Encode(toldReply{Command: command}) }

func (t jsonTeller) walked(tx *mail.Transaction, steps []policy.Step, _ mail.Decision) {
	for i := range steps {
		_ = t.out.Encode(steps[i].Record(tx))
	}
}

func (t jsonTeller) answer(err error, ok status.Reason) bool {
	reply := ok.Reply()
	if err != nil {
		reply = status.ReplyOf(err)
	}
	_ = t.out.Encode(toldReply{Reply: reply.String()})
	return err != nil
}

func (t jsonTeller) goesTo(s *queue.Submission) {
	q := toldQueue{From: s.Envelope.ReversePath.String(), Hold: s.Hold}
	for _, r := range s.Envelope.Recipients {
		q.To = append(q.To, r.Address.String())
	}
	slices.Sort(q.To)
	_ = t.out.Encode(q)
}

func (t jsonTeller) end() error { return nil }

// noLogins is what verifies logins where nobody logs in.
type noLogins struct{}

// Mechanisms implements smtpd.Authenticator.
func (noLogins) Mechanisms(*mail.Client) []string { return nil }

// Start implements smtpd.Authenticator.
func (noLogins) Start(context.Context, string, string, mail.Client) (smtp.Authentication, error) {
	return nil, status.New(status.CommandUnimplemented, nil)
}

// stageQueue is the queue of a rehearsal: it keeps nothing but what it was
// handed last.
type stageQueue struct{ submitted *queue.Submission }

// CheckSpace implements smtpd.Queue.
func (*stageQueue) CheckSpace(int64) error { return nil }

// Admit implements smtpd.Queue.
func (*stageQueue) Admit(*mail.Envelope) error { return nil }

// Pressed implements smtpd.Queue.
func (*stageQueue) Pressed() bool { return false }

// Stage implements smtpd.Queue.
func (*stageQueue) Stage(_ context.Context, content io.Reader) (store.Staged, error) {
	n, err := io.Copy(io.Discard, content)
	return nothingStaged(n), err
}

// Submit implements smtpd.Queue.
func (q *stageQueue) Submit(_ context.Context, s queue.Submission) (bool, error) {
	q.submitted = &s
	return false, nil
}

// nothingStaged is a body of so many octets that is not there.
type nothingStaged int64

func (n nothingStaged) Ref() store.Ref          { return store.Ref{Octets: int64(n)} }
func (n nothingStaged) Octets() int64           { return int64(n) }
func (nothingStaged) Open() (store.Body, error) { return nil, store.ErrNotFound }
func (nothingStaged) Discard()                  {}

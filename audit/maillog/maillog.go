// Package maillog writes what the audit is told of SMTP as the lines that
// Postfix's daemons log, for the programs that read those: fail2ban, pflogsumm
// and what else has grown around Postfix.
//
// What comes in: mail.Event values. What goes out: one line or two for each
// event that Postfix would have logged, in its words. It guarantees that nothing
// a client says can end a line or begin another one. It is no record: what has
// to be proved stands in the audit, what has to be understood in the log.
package maillog

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/mail"
)

// Config says how lines begin.
type Config struct {
	// Hostname is the machine's name in each line; only its first label is written.
	Hostname string
	// Services are the SMTP listeners by their names, and what Postfix calls the
	// daemon: "postfix/smtpd", "postfix/submission/smtpd". Events of others are
	// not Postfix's business.
	Services map[string]string
	// Targets are the targets of deliveries by their names, and what Postfix calls
	// the daemon: "postfix/lmtp". It is "postfix/smtp" for others.
	Targets map[string]string
}

// Daemon returns what Postfix calls the daemon of a listener: mode is "mx",
// "submission" or "submissions".
func Daemon(mode string) string {
	switch mode {
	case "submission":
		return "postfix/submission/smtpd"
	case "submissions":
		return "postfix/smtps/smtpd"
	default:
		return "postfix/smtpd"
	}
}

// Log writes lines. It is safe for concurrent use.
type Log struct {
	host string
	pid  string
	log  hclog.Logger

	mu       sync.Mutex
	services map[string]string
	targets  map[string]string
	out      io.Writer
	broken   bool // the last write failed; said once until it works again
	sessions map[mail.SessionID]session
}

// New returns a Log that writes to out, each line with one Write.
func New(cfg Config, out io.Writer, log hclog.Logger) *Log {
	host, _, _ := strings.Cut(cfg.Hostname, ".")
	return &Log{host: host, pid: strconv.Itoa(os.Getpid()), log: log, services: cfg.Services, targets: cfg.Targets, out: out, sessions: make(map[mail.SessionID]session)}
}

// Serve replaces the listeners and the targets, as after a change of the
// configuration.
func (l *Log) Serve(services, targets map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.services, l.targets = services, targets
}

// Record writes what Postfix would log of e.
func (l *Log) Record(e mail.Event) {
	at := e.Time
	if at.IsZero() {
		at = time.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	daemon := l.services[e.Service]
	var known session
	switch {
	case daemon != "":
		known = l.followLocked(&e)
	case e.Kind == mail.EventDelivery:
		daemon = l.delivererLocked(e.Destination)
	}
	for _, line := range lines(&e, daemon, known) {
		text := at.Format(time.Stamp) + " " + l.host + " " + line.daemon + "[" + l.pid + "]: " + printable(line.text) + "\n"
		_, err := io.WriteString(l.out, text)
		if err != nil && !l.broken {
			l.log.Warn("lines for readers of Postfix's log are lost", "error", err)
		}
		l.broken = err != nil
	}
}

// line is one line without its time and host.
type line struct{ daemon, text string }

// delivererLocked is what Postfix calls the daemon that delivers to a
// destination.
func (l *Log) delivererLocked(destination string) string {
	target, _, _ := strings.Cut(destination, "/")
	if daemon := l.targets[target]; daemon != "" {
		return daemon
	}
	switch target {
	case "error", "retry":
		return "postfix/error"
	case "discard":
		return "postfix/discard"
	default:
		return "postfix/smtp"
	}
}

// lines returns what Postfix would log of e; daemon is "" for events of other
// services than SMTP, s what is known of its session.
func lines(e *mail.Event, daemon string, s session) []line {
	one := func(daemon, format string, args ...any) []line { return []line{{daemon, fmt.Sprintf(format, args...)}} }
	switch e.Kind {
	case mail.EventAccept:
		return one("postfix/qmgr", "%s: from=%s, size=%d, nrcpt=%d (queue active)", e.Queue, path(e.From), e.Octets, len(e.To))
	case mail.EventDelivery:
		return deliveries(e, daemon)
	case mail.EventFinal:
		return one("postfix/qmgr", "%s: removed", e.Queue)
	}
	if daemon == "" {
		return nil
	}
	switch e.Kind {
	case mail.EventConnect:
		return one(daemon, "connect from %s", client(e))
	case mail.EventDisconnect:
		return disconnect(e, daemon, s)
	case mail.EventAuth:
		if e.Result != "ok" {
			return one(daemon, "warning: %s: SASL %s authentication failed: %s, sasl_username=%s", client(e), e.Mechanism, authFailure(e), e.Login)
		}
	case mail.EventPolicy:
		return policy(e, daemon)
	case mail.EventLimit:
		return one(daemon, "warning: %s: %d from %s for service %s", e.Detail, e.Count, client(e), service(daemon))
	case mail.EventPregreet:
		return one("postfix/postscreen", "PREGREET %d after %s from %s: %s", e.Count, seconds(e.Duration), endpoint(e), e.Detail)
	}
	return nil
}

// service is the entry in Postfix's master.cf that a daemon's name comes of.
func service(daemon string) string {
	if parts := strings.Split(daemon, "/"); len(parts) == 3 {
		return parts[1]
	}
	return "smtp"
}

// seconds is a time as Postfix writes it: with two significant digits.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'g', 2, 64)
}

// endpoint is postscreen's [address]:port.
func endpoint(e *mail.Event) string {
	return "[" + e.Remote.Addr().Unmap().WithZone("").String() + "]:" + strconv.Itoa(int(e.Remote.Port()))
}

func authFailure(e *mail.Event) string {
	if e.Result == "unknown" {
		return "Connection lost to authentication server" // nobody was found wrong
	}
	return "authentication failure"
}

// disconnect tells first what ended the session, unless the client did.
func disconnect(e *mail.Event, daemon string, s session) []line {
	how, where := map[string]string{
		"ConnectionLost": "lost connection", "Timeout": "timeout", "TooManyErrors": "too many errors", "AuthTooMany": "too many errors",
		"TooManyCommands": "too many errors", "EarlyTalker": "improper command pipelining",
	}[e.Reason], command(e)
	// Logins come before MAIL: who came no further was at that.
	switch {
	case e.Command != "":
		where = e.Command
		if e.Phase == "end-of-data" && (where == "DATA" || where == "BDAT") {
			where = "END-OF-MESSAGE"
		}
	case e.Reason == "AuthTooMany" || s.logins > 0 && (e.Phase == "connect" || e.Phase == "helo"):
		where = "AUTH"
	}
	end := line{daemon, "disconnect from " + client(e) + counts(e, s)}
	if how == "" {
		return []line{end}
	}
	return []line{{daemon, how + " after " + where + " from " + client(e)}, end}
}

// verbs are Postfix's words for what was decided; those of nothing are not
// logged.
var verbs = map[string]string{
	"refused": "reject", "deferred": "reject", "warned": "warn", "informed": "info", "held": "hold", "discarded": "discard",
	"filtered": "filter", "redirected": "redirect", "copied": "bcc",
}

func policy(e *mail.Event, daemon string) []line {
	verb := verbs[e.Result]
	if e.Octets > 0 || e.Result == "accepted" { // of the message as a whole
		if e.Reply != "" {
			return []line{{daemon, decision(e, verb, e.Reply)}}
		}
		return received(e, daemon)
	}
	switch {
	case verb == "":
		return nil
	case e.Reply != "" && e.Result == "warned":
		return []line{{daemon, decision(e, "reject_warning", e.Reply)}}
	case e.Reply != "":
		return []line{{daemon, decision(e, verb, e.Reply)}}
	default:
		return []line{{daemon, decision(e, verb, e.Detail)}}
	}
}

// received tells who sent a message that was accepted.
func received(e *mail.Event, daemon string) []line {
	from := string(e.Queue) + ": client=" + client(e)
	if e.Login != "" {
		from += ", sasl_method=" + e.Mechanism + ", sasl_username=" + e.Login
	}
	return []line{{daemon, from}, {"postfix/cleanup", string(e.Queue) + ": message-id=" + e.MessageID}}
}

// decision is the line of a decision about one command.
func decision(e *mail.Event, verb, why string) string {
	id := string(e.Queue)
	if id == "" {
		id = "NOQUEUE"
	}
	text := id + ": " + verb + ": " + command(e) + " from " + client(e) + ": " + why + ";"
	if e.From != nil {
		text += " from=" + path(e.From)
	}
	if len(e.To) > 0 {
		text += " to=" + e.To[0].Path()
	}
	text += " proto=" + protocol(e)
	if e.Helo != "" {
		text += " helo=<" + e.Helo + ">"
	}
	if e.Login != "" {
		text += " sasl_username=<" + e.Login + ">"
	}
	return text
}

// counts are the commands of a session.
func counts(e *mail.Event, s session) string {
	if e.Commands != "" {
		return " " + e.Commands
	}
	return s.counts()
}

// deliveries tells of one attempt, a line for each recipient.
func deliveries(e *mail.Event, daemon string) []line {
	if e.Queue == "" {
		return nil // of the backend's side
	}
	status, known := map[string]string{"delivered": "sent", "deferred": "deferred", "bounced": "bounced"}[e.Result]
	if !known {
		return nil
	}
	relay := e.Peer
	if relay == "" {
		relay = "none"
	}
	delay := strconv.FormatFloat(e.Duration.Seconds(), 'f', 2, 64)
	var all []line
	for _, to := range e.To {
		all = append(all, line{daemon, fmt.Sprintf("%s: to=%s, relay=%s, delay=%s, delays=0/0/0/%s, dsn=%s, status=%s (%s)",
			e.Queue, to.Path(), relay, delay, delay, enhanced(e.Reply, e.Result), status, e.Reply)})
	}
	return all
}

// enhanced finds the enhanced status code in a reply.
func enhanced(reply, result string) string {
	words := strings.Fields(reply)
	if len(words) > 1 && strings.Count(words[1], ".") == 2 && strings.Trim(words[1], "0123456789.") == "" {
		return words[1]
	}
	return map[string]string{"delivered": "2.0.0", "deferred": "4.0.0"}[result] + map[string]string{"bounced": "5.0.0"}[result]
}

// client is Postfix's name[address].
func client(e *mail.Event) string {
	name := e.Client
	if name == "" {
		name = "unknown"
	}
	if !e.Remote.IsValid() {
		return "localhost[127.0.0.1]"
	}
	return name + "[" + e.Remote.Addr().Unmap().WithZone("").String() + "]"
}

func protocol(e *mail.Event) string {
	if e.Protocol == "" {
		return "SMTP"
	}
	return e.Protocol
}

// command is the command that an event came of.
func command(e *mail.Event) string {
	switch e.Phase {
	case "helo":
		if e.Protocol == "ESMTP" {
			return "EHLO"
		}
		return "HELO"
	case "mail":
		return "MAIL"
	case "recipient":
		return "RCPT"
	case "data":
		return "DATA"
	case "end-of-data":
		return "END-OF-MESSAGE"
	default:
		return "CONNECT"
	}
}

func path(a *mail.Address) string {
	if a == nil {
		return "<>"
	}
	return a.Path()
}

// printable keeps a line one line, as Postfix does with what it does not print.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c == unicode.ReplacementChar || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}

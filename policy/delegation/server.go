package delegation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// ServerConfig says who may ask, and how much.
type ServerConfig struct {
	// Name is what log and metrics call it; Listener is the listener whose
	// lists decide.
	Name, Listener string
	// Networks are those who may ask over TCP. None: this machine.
	Networks []netip.Prefix
	// Connections bounds those that are open at once; 0: 100. Postfix opens one
	// for each of its smtpd processes.
	Connections int
	// Idle is how long a connection may ask nothing; 0: ten minutes.
	Idle time.Duration
	// Timeout is how long a question may take to arrive, and an answer to
	// leave; 0: 30 s.
	Timeout time.Duration
}

func (c ServerConfig) withDefaults() ServerConfig {
	if c.Connections <= 0 {
		c.Connections = 100
	}
	if c.Idle <= 0 {
		c.Idle = 10 * time.Minute
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	return c
}

// Server answers the questions of other mail servers with the decisions of a
// chain.
type Server struct {
	cfg     ServerConfig
	chain   func() *policy.Chain
	log     hclog.Logger
	answers *prometheus.CounterVec // nil counts nothing
	slots   chan struct{}

	mu     sync.Mutex
	warned time.Time
}

// NewServer returns a server. chain is asked once for each message.
func NewServer(cfg ServerConfig, chain func() *policy.Chain, log hclog.Logger, registry prometheus.Registerer) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, chain: chain, log: log.With("policy_server", cfg.Name), slots: make(chan struct{}, cfg.Connections)}
	if registry == nil {
		return s, nil
	}
	s.answers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_policy_server_answers_total", Help: "Questions of other mail servers that were answered, by server and action.",
	}, []string{"server", "action"})
	if err := registry.Register(s.answers); err != nil {
		known, ok := err.(prometheus.AlreadyRegisteredError)
		if !ok {
			return nil, err
		}
		s.answers = known.ExistingCollector.(*prometheus.CounterVec)
	}
	return s, nil
}

// Sessions returns how many connections are open.
func (s *Server) Sessions() int { return len(s.slots) }

// Serve answers a listener until ctx ends, then ends the connections: between
// questions at once, during one when it is answered.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.rarely("cannot accept a connection", "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond): // out of descriptors, say
			}
			continue
		}
		if !s.allowed(conn) {
			s.rarely("a client may not ask this policy server: name its network in networks, if it should", "remote", conn.RemoteAddr())
			_ = conn.Close()
			continue
		}
		select {
		case s.slots <- struct{}{}:
			all.Go(func() {
				defer func() { <-s.slots }()
				s.serve(ctx, conn)
			})
		default:
			s.rarely("too many connections: raise max_connections to the number of smtpd processes that ask", "connections", s.cfg.Connections)
			_ = conn.Close()
		}
	}
}

// rarely warns, at most every ten seconds.
func (s *Server) rarely(text string, keys ...any) {
	s.mu.Lock()
	due := time.Since(s.warned) >= 10*time.Second
	if due {
		s.warned = time.Now()
	}
	s.mu.Unlock()
	if due {
		s.log.Warn(text, keys...)
	}
}

func (s *Server) allowed(conn net.Conn) bool {
	at, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return true // the socket's mode says who may
	}
	ip := at.AddrPort().Addr().Unmap()
	if len(s.cfg.Networks) == 0 {
		return ip.IsLoopback()
	}
	for _, network := range s.cfg.Networks {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

// serve answers one connection.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	var busy sync.Mutex // while a question is answered
	stop := context.AfterFunc(ctx, func() {
		busy.Lock()
		defer busy.Unlock()
		_ = conn.Close()
	})
	defer stop()
	in := bufio.NewReaderSize(conn, maxLine)
	asker := &asker{server: s}
	defer asker.end()
	for {
		if conn.SetReadDeadline(time.Now().Add(s.cfg.Idle)) != nil {
			return
		}
		all, err := readMessage(in, func() { _ = conn.SetReadDeadline(time.Now().Add(s.cfg.Timeout)) })
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
				s.log.Debug("a connection ended", "remote", conn.RemoteAddr(), "error", err)
			}
			return
		}
		busy.Lock()
		err = s.reply(context.WithoutCancel(ctx), conn, asker, all)
		busy.Unlock()
		if err != nil {
			s.rarely("a question could not be answered", "remote", conn.RemoteAddr(), "error", err)
			return
		}
	}
}

func (s *Server) reply(ctx context.Context, conn net.Conn, a *asker, all []attribute) error {
	action, err := a.answer(ctx, all)
	if err != nil {
		return err
	}
	if s.answers != nil {
		s.answers.WithLabelValues(s.cfg.Name, wordOf(action)).Inc()
	}
	if err := conn.SetWriteDeadline(time.Now().Add(s.cfg.Timeout)); err != nil {
		return err
	}
	_, err = conn.Write(appendMessage(nil, []attribute{{"action", action}}))
	return err
}

// asker is one connection's way through the chain. Postfix asks about one
// message after another over it, and about one message several times.
type asker struct {
	server   *Server
	session  *policy.Session
	instance string
	findings []mail.Finding
	told     map[string]bool // what was asked for the message as a whole
}

func (a *asker) end() {
	if a.session != nil {
		a.session.Close()
	}
}

// answer evaluates the chain at the place in the dialogue that is asked about.
func (a *asker) answer(ctx context.Context, all []attribute) (string, error) {
	tx, err := transactionOf(all, a.server.cfg.Listener)
	var refused *status.Error
	if errors.As(err, &refused) {
		return textOf(refused.Reply()), nil
	}
	if err != nil {
		return "", err
	}
	if tx == nil {
		return actionDunno, nil
	}
	instance, _ := valueOf(all, "instance")
	if a.session == nil || instance == "" || instance != a.instance {
		if d, refused := a.begin(ctx, tx, instance); refused {
			return a.actionOf(tx, d), nil
		}
	}
	tx.Findings = a.findings
	d := a.session.Evaluate(ctx, tx)
	a.findings = tx.Findings
	if d.Refused && tx.Phase < mail.PhaseRecipient {
		a.forget()
	}
	return a.actionOf(tx, d), nil
}

// forget has the next question begin anew: what refused the dialogue so early
// refuses what follows, too.
func (a *asker) forget() {
	a.end()
	a.session = nil
}

// begin begins with a message: the chain is told of the dialogue up to what is
// asked about, as it may decide early, and remembers what it decided.
func (a *asker) begin(ctx context.Context, tx *mail.Transaction, instance string) (mail.Decision, bool) {
	a.end()
	a.session, a.instance, a.findings, a.told = a.server.chain().Session(), instance, nil, make(map[string]bool)
	for phase := mail.PhaseConnect; phase < min(tx.Phase, mail.PhaseRecipient); phase++ {
		before := *tx
		before.Phase, before.Recipient = phase, nil
		if d := a.session.Evaluate(ctx, &before); d.Refused {
			a.forget()
			return d, true
		}
		a.findings = before.Findings
	}
	return mail.Decision{}, false
}

// The actions that are answered.
const (
	actionDunno    = "DUNNO"
	actionDiscard  = "DISCARD"
	actionHold     = "HOLD"
	actionPrepend  = "PREPEND"
	actionRedirect = "REDIRECT"
	actionBCC      = "BCC"
)

// actionOf writes a decision as the one action that an answer has. What is
// permitted is left to the restrictions after ours. Of several wishes for the
// message the first not yet told goes out; Postfix asks again at the next
// recipient.
func (a *asker) actionOf(tx *mail.Transaction, d mail.Decision) string {
	if d.Refused {
		return textOf(withoutSubject(tx, d.Verdict.WireReply()))
	}
	var wishes []string
	if d.Discard {
		return actionDiscard
	}
	if d.Hold {
		wishes = append(wishes, actionHold)
	}
	for _, e := range d.Envelope {
		switch {
		case e.Redirect != nil:
			wishes = append(wishes, actionRedirect+" "+e.Redirect.String())
		case e.Copy != nil:
			wishes = append(wishes, actionBCC+" "+e.Copy.String())
		}
	}
	for _, header := range d.Headers {
		wishes = append(wishes, actionPrepend+" "+unfolded(header))
	}
	for _, wish := range wishes {
		if !a.told[wish] {
			a.told[wish] = true
			return wish
		}
	}
	return actionDunno
}

// withoutSubject cuts from a reply what it is about, where that is what Postfix
// will say itself in front of it.
func withoutSubject(tx *mail.Transaction, r status.Reply) status.Reply {
	about := "<DATA>: Data command rejected: "
	switch {
	case tx.Phase == mail.PhaseRecipient && tx.Recipient != nil:
		about = tx.Recipient.Address.Path() + ": Recipient address rejected: "
	case tx.Phase == mail.PhaseEndOfData:
		about = "<END-OF-MESSAGE>: End-of-data rejected: "
	}
	r.Text = strings.TrimPrefix(r.Text, about)
	return r
}

func textOf(r status.Reply) string {
	return fmt.Sprintf("%d %s %s", r.Code, r.EnhancedString(), r.Text)
}

// unfolded writes a field on one line.
func unfolded(field string) string {
	f := mail.Field(field)
	return f.Name() + ": " + strings.ReplaceAll(f.Unfolded(), "\t", " ")
}

// wordOf names an action in metrics: a closed set.
func wordOf(action string) string {
	for _, word := range []string{actionDunno, actionDiscard, actionHold, actionPrepend, actionRedirect, actionBCC} {
		if len(action) >= len(word) && action[:len(word)] == word {
			return word
		}
	}
	if action != "" && action[0] == '4' {
		return "defer"
	}
	return "reject"
}

package rspamd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/breaker"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// Name is the step's.
const Name = "rspamd"

// Stage asks rspamd. It is safe for concurrent use.
type Stage struct {
	cfg     Config
	log     hclog.Logger
	count   *counters
	servers []*server
}

// server is one rspamd.
type server struct {
	name    string // as it is configured
	url     string
	client  *http.Client
	breaker *breaker.Breaker
}

// New makes a Stage without asking anybody. What memory knows of the servers
// counts, and is added to. metrics may be nil.
func New(cfg Config, memory *Memory, log hclog.Logger, metrics prometheus.Registerer) (*Stage, error) {
	count, err := newCounters(metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	s := &Stage{cfg: cfg, log: log, count: count}
	for _, u := range cfg.URLs {
		at, err := parseURL(u)
		if err != nil {
			return nil, err
		}
		health := memory.health(u, &cfg)
		s.servers = append(s.servers, newServer(u, at, cfg.Timeout, health))
		count.up(u, !health.State().Down)
	}
	return s, nil
}

// Connections kept to each server.
const maxIdle = 16

func newServer(name string, at place, timeout time.Duration, health *breaker.Breaker) *server {
	transport := &http.Transport{
		MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, // what is small compressed need not stay so
	}
	if at.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", at.socket)
		}
	}
	return &server{name: name, url: at.url, breaker: health, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Run closes connections that are left when ctx ends.
func (s *Stage) Run(ctx context.Context) error {
	<-ctx.Done()
	for _, server := range s.servers {
		server.client.CloseIdleConnections()
	}
	return nil
}

// States returns how the servers do, by their URLs.
func (s *Stage) States() map[string]breaker.State {
	all := make(map[string]breaker.State, len(s.servers))
	for _, server := range s.servers {
		all[server.name] = server.breaker.State()
	}
	return all
}

// Name implements policy.Stage.
func (s *Stage) Name() string { return Name }

// InspectsMessage implements policy.Inspector.
func (s *Stage) InspectsMessage() {}

// Evaluate implements policy.Stage.
func (s *Stage) Evaluate(ctx context.Context, tx *mail.Transaction) (mail.Verdict, error) {
	if tx.Message == nil {
		return mail.Verdict{}, nil
	}
	ctx, cancel := policy.Share(ctx)
	defer cancel()
	head := headOf(tx.Message)
	if size := int64(head.Len()) + tx.Message.BodyOctets(); size > s.cfg.MaxMessage {
		s.counting(ctx).answer("too_large")
		return mail.Verdict{Detail: fmt.Sprintf("a message of %d octets is too large to be asked about", size)}, nil
	}
	a, err := s.ask(ctx, tx, head.Bytes())
	if err == nil {
		var v mail.Verdict
		if v, err = s.verdict(a, tx.Message); err == nil {
			s.counting(ctx).answer(a.Action)
			return v, nil
		}
	}
	return s.fail(ctx, tx, err)
}

// fail decides about a message of which nobody knows anything.
func (s *Stage) fail(ctx context.Context, tx *mail.Transaction, err error) (mail.Verdict, error) {
	s.counting(ctx).answer("error")
	if tx.Client.Identity == nil || s.cfg.PutOffPeople || s.cfg.ErrorsToChain {
		return mail.Verdict{}, status.New(status.FilterDown, fmt.Errorf("rspamd: %w", err))
	}
	v := mail.Verdict{Detail: "accepted without a look, from who logged in: " + err.Error()}
	if s.cfg.Headers != HeadersNever {
		c := newChanges(tx.Message)
		for _, name := range markNames {
			c.remove(name, 0)
		}
		c.insert(0, unchecked, "Yes")
		v.Edits = c.list
	}
	return v, nil
}

// counting is where answers are counted: nowhere when it is not about mail.
func (s *Stage) counting(ctx context.Context) *counters {
	if policy.IsRehearsal(ctx) {
		return nil
	}
	return s.count
}

// errPaused is why a server that failed is not asked.
var errPaused = errors.New("failed a moment ago and is left alone for a while")

// ask asks the servers in order until one answers.
func (s *Stage) ask(ctx context.Context, tx *mail.Transaction, head []byte) (*answer, error) {
	password, err := s.password()
	if err != nil {
		return nil, err
	}
	var failures error
	for _, server := range s.servers {
		if !server.breaker.Allow(time.Now()) {
			failures = errors.Join(failures, fmt.Errorf("%s: %w", server.name, errPaused))
			continue
		}
		began := time.Now()
		a, err := s.askServer(ctx, server, tx, head, password)
		if err == nil {
			s.counting(ctx).took(time.Since(began))
			if server.breaker.Succeeded() {
				s.log.Info("rspamd is back", "server", server.name)
				s.count.up(server.name, true)
			}
			return a, nil
		}
		failures = errors.Join(failures, fmt.Errorf("%s: %w", server.name, err))
		switch {
		case errors.Is(err, errOurs), errors.Is(ctx.Err(), context.Canceled):
			return nil, failures
		case server.breaker.FailedBy(err, time.Now()):
			s.log.Error("rspamd is down", "server", server.name, "error", err)
			s.count.up(server.name, false)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failures
}

// password reads it anew each time: it is short, and may be changed.
func (s *Stage) password() (string, error) {
	if s.cfg.PasswordFile == "" {
		return "", nil
	}
	content, err := os.ReadFile(s.cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return strings.TrimRight(line, "\r"), nil
}

// errOurs marks failures to read the message: they say nothing of the server.
var errOurs = errors.New("read the message")

// marked tells errors of the message's reader from others.
type marked struct{ r io.Reader }

// Read implements io.Reader.
func (m marked) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", errOurs, err)
	}
	return n, err
}

func (s *Stage) askServer(ctx context.Context, server *server, tx *mail.Transaction, head []byte, password string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	content := func() io.ReadCloser {
		return io.NopCloser(io.MultiReader(bytes.NewReader(head), marked{tx.Message.Body()}))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.url, content())
	if err != nil {
		return nil, err
	}
	// For a connection that ended while it was idle.
	request.GetBody = func() (io.ReadCloser, error) { return content(), nil }
	request.ContentLength = int64(len(head)) + tx.Message.BodyOctets()
	s.describe(request.Header, tx)
	if password != "" {
		request.Header["Password"] = []string{clean(password)}
	}
	response, err := server.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("answer of more than %d octets", maxAnswer)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("answer %d %.200q", response.StatusCode, data)
	}
	return parseAnswer(data)
}

// headOf is the header as rspamd sees it, with the line that ends it.
func headOf(message mail.Message) *bytes.Buffer {
	var b bytes.Buffer
	for _, f := range message.Fields()[message.Ours():] {
		b.WriteString(string(f))
		b.WriteString("\r\n")
	}
	b.WriteString("\r\n")
	return &b
}

// describe tells of client and envelope. The names are rspamd's own, which it
// compares in any letter case.
func (s *Stage) describe(h http.Header, tx *mail.Transaction) {
	set := func(name, value string) {
		if value = clean(value); value != "" {
			h[name] = append(h[name], value)
		}
	}
	c := &tx.Client
	if c.Remote.IsValid() {
		set("Ip", c.Remote.Addr().Unmap().WithZone("").String())
	}
	set("Helo", c.Helo)
	hostname := c.Hostname
	if hostname == "" {
		hostname = "unknown"
	}
	set("Hostname", hostname)
	set("From", tx.Envelope.ReversePath.Path())
	for i := range tx.Envelope.Recipients {
		set("Rcpt", tx.Envelope.Recipients[i].Address.Path())
	}
	if c.Identity != nil {
		set("User", c.Identity.Authentication)
	}
	if c.TLS != nil {
		set("Tls-Version", c.TLS.Version)
		set("Tls-Cipher", c.TLS.Cipher)
	}
	set("Queue-Id", string(tx.QueueID))
	set("Mta-Name", s.cfg.Hostname)
	set("Mta-Tag", c.Listener)
	set("Settings-Id", s.cfg.Settings)
	h["User-Agent"] = []string{"Postern"}
}

// clean is a value without what would end its line, and not too long.
func clean(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, s)
	return s[:min(len(s), 2000)]
}

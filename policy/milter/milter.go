package milter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/breaker"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
)

// OnError is what a filter that cannot be asked leads to.
type OnError string

// What OnError can be. The zero value is TempFail. Nothing refuses for good.
const (
	Accept   OnError = "accept"   // go on as if there were no filter
	TempFail OnError = "tempfail" // 451, the client comes again
	Hold     OnError = "hold"     // accept, and keep in the queue until released
	Shutdown OnError = "shutdown" // 421, and the session ends
)

// Config describes one filter.
type Config struct {
	// Name stands in logs, metrics and replies of explain.
	Name string
	// Network and Address are where the filter listens, as of net.Dial.
	Network, Address string
	// ConnectTimeout bounds the connecting (default 30 s), CommandTimeout each
	// reply before the message's end (30 s), ContentTimeout the one to the
	// end, or the time to its next sign of progress (300 s).
	ConnectTimeout, CommandTimeout, ContentTimeout time.Duration
	// OnError is what failures lead to.
	OnError OnError
	// Protocol is the highest version offered; 0 is 6.
	Protocol uint32
	// Hostname and Software are the macros j and v.
	Hostname, Software string
	// Macros are values of macros that outrank ours, by name without braces.
	Macros map[string]string
	// LocalAsUnix shows clients that came by a unix socket as such. Otherwise
	// they are localhost with 127.0.0.1.
	LocalAsUnix bool
	// MaxIdle is how many connections are kept for the next sessions (QUIT_NC);
	// 0 keeps none. Not for filters made with libmilter: after QUIT_NC that of
	// sendmail 8.17 does not answer the next connection.
	MaxIdle int
	// MaxBody bounds the body that a filter gives in the message's place; 0 is 64 MiB.
	MaxBody int64
	// TempDir holds such bodies beyond a mebibyte, in files without names; ""
	// is the system's.
	TempDir string
}

func (c Config) withDefaults() Config {
	c.ConnectTimeout = either(c.ConnectTimeout, 30*time.Second)
	c.CommandTimeout = either(c.CommandTimeout, 30*time.Second)
	c.ContentTimeout = either(c.ContentTimeout, 300*time.Second)
	c.OnError = either(c.OnError, TempFail)
	c.Protocol = either(c.Protocol, maxVersion)
	c.MaxBody = either(c.MaxBody, 64<<20)
	return c
}

func either[T comparable](given, otherwise T) T {
	var zero T
	if given == zero {
		return otherwise
	}
	return given
}

// Check tells what is wrong with a configuration.
func (c Config) Check() error {
	c = c.withDefaults()
	switch {
	case c.Address == "":
		return errors.New("a milter needs an address")
	case !slices.Contains([]OnError{Accept, TempFail, Hold, Shutdown}, c.OnError):
		return fmt.Errorf("on_error is %q; use accept, tempfail, hold or shutdown", c.OnError)
	case c.Protocol < minVersion || c.Protocol > maxVersion:
		return fmt.Errorf("protocol is %d; use %d to %d", c.Protocol, minVersion, maxVersion)
	}
	return nil
}

// ParseAddress reads where a filter listens, as it is written for Postfix and
// Sendmail: unix:PATH, local:PATH, inet:HOST:PORT, inet:PORT@HOST or
// inet6:PORT@HOST.
func ParseAddress(s string) (network, address string, err error) {
	kind, rest, ok := strings.Cut(s, ":")
	switch {
	case !ok || rest == "":
	case kind == "unix" || kind == "local":
		if strings.HasPrefix(rest, "/") {
			return "unix", rest, nil
		}
		return "", "", fmt.Errorf("the socket %q is no absolute path", rest)
	case kind == "inet" || kind == "inet6":
		if port, host, ok := strings.Cut(rest, "@"); ok {
			rest = net.JoinHostPort(host, port)
		}
		if host, port, err := net.SplitHostPort(rest); err == nil && host != "" && port != "" {
			return "tcp", rest, nil
		}
	}
	return "", "", fmt.Errorf("the address %q is neither unix:/PATH nor inet:HOST:PORT", s)
}

// Milter is one filter. It is safe for concurrent use.
type Milter struct {
	cfg     Config
	log     hclog.Logger
	count   *counters
	breaker breaker.Breaker
	// known are the options of the connection made last.
	known atomic.Pointer[options]

	mu   sync.Mutex
	idle []*conn // the one used last at the end
	// runs is how many calls of Run there are; when the last has ended no idle
	// connection is kept.
	runs int
	over bool
}

// New makes a Milter without asking the filter. metrics may be nil.
func New(cfg Config, log hclog.Logger, metrics prometheus.Registerer) (*Milter, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	count, err := newCounters(metrics, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return &Milter{cfg: cfg.withDefaults(), log: log, count: count}, nil
}

// idleTime is how long a connection is kept that no session needs: filters
// drop idle ones after hours, their hosts' firewalls sooner.
const idleTime = time.Minute

// Same reports whether a configuration would make the same Milter.
func (m *Milter) Same(c Config) bool { return reflect.DeepEqual(m.cfg, c.withDefaults()) }

// Run closes connections that nobody needs, until ctx ends. Where configurations
// that follow each other share a Milter, each has it run.
func (m *Milter) Run(ctx context.Context) error {
	m.mu.Lock()
	m.runs++
	m.over = false
	m.mu.Unlock()
	tick := time.NewTicker(idleTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.mu.Lock()
			m.runs--
			m.over = m.runs == 0
			over := m.over
			m.mu.Unlock()
			if over {
				m.closeIdle(time.Time{}, true)
			}
			return nil
		case now := <-tick.C:
			m.closeIdle(now.Add(-idleTime), false)
		}
	}
}

// closeIdle closes the connections that are idle since before since, or all.
func (m *Milter) closeIdle(since time.Time, all bool) {
	m.mu.Lock()
	n := len(m.idle)
	for i, c := range m.idle {
		if !all && c.idleAt.After(since) {
			n = i
			break
		}
	}
	old := slices.Clone(m.idle[:n])
	m.idle = slices.Delete(m.idle, 0, n)
	m.mu.Unlock()
	for _, c := range old {
		m.end(c)
	}
}

// errPaused is why nobody asks a filter that failed.
var errPaused = errors.New("it failed a moment ago and is left alone for a while")

// connect returns a connection: an idle one, unless a new one is wanted.
func (m *Milter) connect(ctx context.Context, anew bool) (*conn, error) {
	for !anew {
		c := m.takeIdle()
		if c == nil {
			break
		}
		if c.fresh() {
			c.reused = true
			return c, nil
		}
		m.end(c)
	}
	if !m.breaker.Allow(time.Now()) {
		return nil, errPaused
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ConnectTimeout+m.cfg.CommandTimeout)
	defer cancel()
	c, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	m.count.connection(1)
	m.log.Debug("connected", "milter", m.cfg.Name, "options", c.opts.String())
	return c, nil
}

// wantsOnlyMail reports whether the filter, when it was asked last, did without
// the connection and HELO: then sessions without mail need not trouble it.
func (m *Milter) wantsOnlyMail() bool {
	o := m.known.Load()
	return o != nil && o.without(noConnect) && o.without(noHelo)
}

func (m *Milter) takeIdle() *conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.idle)
	if n == 0 {
		return nil
	}
	c := m.idle[n-1]
	m.idle = m.idle[:n-1]
	return c
}

// release gives back a connection whose session is over, in order.
func (m *Milter) release(ctx context.Context, c *conn) {
	if c.opts.version >= 6 && m.cfg.MaxIdle > 0 &&
		c.until(ctx, quitTimeout) == nil && c.send(c.out.begin(cmdQuitNew).end()) == nil && c.w.Flush() == nil {
		c.idleAt = time.Now()
		m.mu.Lock()
		keep := !m.over && len(m.idle) < m.cfg.MaxIdle
		if keep {
			m.idle = append(m.idle, c)
		}
		m.mu.Unlock()
		if keep {
			return
		}
	}
	m.end(c)
}

// end closes a connection with a farewell.
func (m *Milter) end(c *conn) {
	c.quit()
	m.count.connection(-1)
}

// drop closes a connection that is of no use.
func (m *Milter) drop(c *conn) {
	_ = c.net.Close() // nothing was left to write
	m.count.connection(-1)
}

// worked notes that the filter answered, at the end of a message or before, and
// says so when that is news.
func (m *Milter) worked(atEnd bool) {
	note := m.breaker.Answered
	if atEnd {
		note = m.breaker.Succeeded
	}
	if note() {
		m.log.Info("milter is back", "milter", m.cfg.Name)
		m.count.up(true)
	}
}

// failed notes that the filter could not be asked, and says so when that is news.
func (m *Milter) failed(err error) {
	if errors.Is(err, errPaused) {
		return
	}
	if m.breaker.FailedBy(err, time.Now()) {
		m.log.Error("milter is down", "milter", m.cfg.Name, "error", err, "on_error", string(m.cfg.OnError))
		m.count.up(false)
	}
}

// State returns how the filter does, and its name.
func (m *Milter) State() (name string, state breaker.State) { return m.cfg.Name, m.breaker.State() }

// Stage is a Milter's place in a content list.
type Stage struct {
	milter *Milter
	// chainDecides leaves what failures lead to to the restriction's own
	// on_error.
	chainDecides bool
}

// Stage returns the stage for a restriction; onErrorGiven tells that it has an
// on_error of its own, which outranks the filter's.
func (m *Milter) Stage(onErrorGiven bool) *Stage { return &Stage{m, onErrorGiven} }

// Name implements policy.Stage.
func (s *Stage) Name() string { return "milter." + s.milter.cfg.Name }

// Evaluate implements policy.Stage; the chain asks attendances instead.
func (s *Stage) Evaluate(context.Context, *mail.Transaction) (mail.Verdict, error) {
	return mail.Verdict{}, errors.New("a milter attends sessions")
}

// Attend implements policy.Attender.
func (s *Stage) Attend() policy.Attendance {
	return &attendance{m: s.milter, chainDecides: s.chainDecides}
}

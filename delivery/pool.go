package delivery

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// maxConnAge is how long a connection is used at most, however busy: peers
// move and balance, and memory of theirs grows. Postfix's reuse limit.
const maxConnAge = 300 * time.Second

// maxDown bounds the memory of addresses that were out of reach.
const maxDown = 10000

// poolConfig is what a transport asks of its pool.
type poolConfig struct {
	Client         smtp.ClientConfig
	MaxConnections int           // in use at once
	IdleTime       time.Duration // before an unused connection is closed
	DownTime       time.Duration // for which an address out of reach is tried last
	MaxSessions    int           // conversations one attempt may hold in turn
	delimiters     string        // of senders in the file of logins
	keepEightBit   bool          // send octets above 127 to anybody
	retryRefused   bool          // go on to the next endpoint after a transient refusal
	sessions       tlspolicy.Sessions
	// failover bounds the beginning of a conversation with a node of a pair,
	// and the silence in one after which a node that is dead is given up.
	failover time.Duration
	watched  bool // the health of addresses is looked after
}

// callTime is how long a node may take to answer the question whether it is
// alive.
func (c *poolConfig) callTime() time.Duration { return c.failover * 2 / 3 }

// Pool holds the connections of one transport. Its methods may be called
// concurrently.
type Pool struct {
	cfg   poolConfig
	log   hclog.Logger
	slots chan struct{}
	// doubts keeps deliveries whose reply was lost for the server that may
	// have them.
	doubts doubts

	logins []table.Opened

	// suspects are endpoints whose health Run is asked to look at.
	suspects chan Endpoint

	mu      sync.Mutex
	logged  map[string]*loginState // by address and login
	idle    []*Conn                // in the order they were put back, oldest first
	down    map[string]time.Time   // until when an address is tried last
	peers   map[string]peer        // what servers said of themselves, by address
	watches map[string]map[*watch]struct{}
	asking  map[string]*questions // by address
	running bool
	closed  bool
}

// Conn is a connection out of the pool.
type Conn struct {
	Client   *smtp.Client
	endpoint Endpoint
	born     time.Time
	since    time.Time // idle since
	reused   bool
	tls      string // how it is protected, for outcomes
}

// NewPool returns the pool for a target; hostname is what it calls itself. It
// reads the files the target names. log already says which target that is.
func NewPool(t Target, hostname string, log hclog.Logger) (*Pool, error) {
	client, err := t.client(hostname)
	if err != nil {
		return nil, err
	}
	cfg := poolConfig{Client: client, MaxConnections: t.maxConnections(), IdleTime: 30 * time.Second, DownTime: 10 * time.Second, MaxSessions: 2}
	if t.byMX() {
		cfg.IdleTime = 5 * time.Second
	}
	cfg.delimiters = delimiters(t.RecipientDelimiter)
	cfg.retryRefused, cfg.keepEightBit, cfg.sessions = t.protocol() == SMTP, t.KeepEightBit, t.Sessions
	cfg.watched = t.protocol() == LMTP && len(t.Addresses) > 1
	if cfg.failover = t.Failover; cfg.failover <= 0 {
		cfg.failover = time.Second
	}
	if t.IdleTime != 0 {
		cfg.IdleTime = max(t.IdleTime, 0)
	}
	if t.DownTime > 0 {
		cfg.DownTime = t.DownTime
	}
	p := &Pool{
		cfg: cfg, log: log,
		slots: make(chan struct{}, cfg.MaxConnections),
		down:  make(map[string]time.Time), peers: make(map[string]peer),
		logged: make(map[string]*loginState), watches: make(map[string]map[*watch]struct{}),
		suspects: make(chan Endpoint, maxSuspects), asking: make(map[string]*questions),
	}
	return p, p.openLogins(t)
}

// Run closes connections that were idle too long, and all idle ones when ctx
// ends; those in use are then closed as they come back.
func (p *Pool) Run(ctx context.Context) error {
	var files sync.WaitGroup
	for _, t := range p.logins {
		files.Go(func() { _ = t.Run(ctx) }) // ends with ctx only
	}
	if p.cfg.watched {
		p.mu.Lock()
		p.running = true
		p.mu.Unlock()
		files.Go(func() { p.watchHealth(ctx) })
	}
	defer files.Wait()
	if p.cfg.IdleTime > 0 {
		tick := time.NewTicker(max(p.cfg.IdleTime/2, 100*time.Millisecond))
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case now := <-tick.C:
				closeAll(p.takeExpired(now))
			}
		}
	}
	<-ctx.Done()
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	closeAll(idle)
	return nil
}

// closeAll says goodbye on idle connections without waiting long for anyone.
func closeAll(conns []*Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, c := range conns {
		// A peer that does not answer QUIT is gone all the same.
		_ = c.Client.Quit(ctx)
	}
}

func (p *Pool) takeExpired(now time.Time) []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.idle) && now.Sub(p.idle[n].since) >= p.cfg.IdleTime {
		n++
	}
	expired := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	return expired
}

// enter waits for a free connection slot.
func (p *Pool) enter(ctx context.Context) (release func(), err error) {
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots }, nil
	default:
	}
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots }, nil
	case <-ctx.Done():
		return nil, status.New(status.ServerBusy, ctx.Err())
	}
}

// connect returns an idle connection to e or a new one.
func (p *Pool) connect(ctx context.Context, e Endpoint) (*Conn, error) {
	for {
		c := p.takeIdle(e)
		if c == nil {
			return p.dial(ctx, e)
		}
		if c.Client.Usable() && time.Since(c.born) < maxConnAge {
			c.reused = true
			return c, nil
		}
		_ = c.Client.Close()
	}
}

// takeIdle returns the connection to e used last, which is the likeliest to
// be alive.
func (p *Pool) takeIdle(e Endpoint) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if c := p.idle[i]; c.endpoint.same(e) {
			p.idle = slices.Delete(p.idle, i, i+1)
			return c
		}
	}
	return nil
}

// dial makes a new connection and remembers whether that worked.
func (p *Pool) dial(ctx context.Context, e Endpoint) (*Conn, error) {
	cfg := p.cfg.Client
	if cfg.ServerName == "" {
		cfg.ServerName = e.Host
	}
	if e.plan != nil {
		cfg = protect(cfg, e.plan)
	}
	cfg.Login, cfg.Password = e.login.name, e.login.password
	done, err := p.loginTurn(ctx, e)
	if err != nil {
		return nil, err
	}
	client, err := dial(ctx, e, cfg, e.patience)
	done(err)
	if err != nil {
		if ctx.Err() == nil && !protectionFailed(err) {
			p.markDown(e, err)
		}
		p.tellFailed(e, err)
		return nil, err
	}
	p.greeted(e, peerOf(client))
	if e.OwnName != OwnNameAllowed && p.isOurselves(client) {
		_ = client.Close()
		reason := status.MailLoop
		if e.OwnName == OwnNameMistake {
			reason = status.ConfigurationError
		}
		return nil, status.Errorf(reason, "%s greets with our own name", e)
	}
	c := &Conn{Client: client, endpoint: e, born: time.Now()}
	p.noteTLS(c)
	p.tellSession(c)
	return c, nil
}

// dial begins a conversation within the time given, or dialTime.
func dial(ctx context.Context, e Endpoint, cfg smtp.ClientConfig, patience time.Duration) (*smtp.Client, error) {
	if patience <= 0 {
		patience = dialTime
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return smtp.Dial(ctx, e.Network, e.Address, cfg)
}

// isOurselves reports whether a connection led back to us, by an MX or address
// record that does not show it.
func (p *Pool) isOurselves(c *smtp.Client) bool {
	us := p.cfg.Client.Hello
	return us != "" && us != "localhost" && strings.EqualFold(c.PeerName(), us)
}

// put takes a connection back.
func (p *Pool) put(c *Conn) {
	if p.cfg.IdleTime <= 0 || !c.Client.Usable() || !p.keep(c) {
		_ = c.Client.Close()
	}
}

// keep makes c idle. When there are enough idle connections already, the one
// unused for longest makes room.
func (p *Pool) keep(c *Conn) bool {
	c.since = time.Now()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return false
	}
	var oldest *Conn
	if len(p.idle) >= p.cfg.MaxConnections {
		oldest = p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
	}
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	if oldest != nil {
		_ = oldest.Client.Close()
	}
	return true
}

// DropsRepeats reports whether the server that would be asked first drops a
// delivery whose id it has seen; false before the first connection to it.
func (p *Pool) DropsRepeats(endpoints []Endpoint) bool {
	if endpoints = p.order(endpoints); len(endpoints) == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers[endpoints[0].Address].dropsRepeats
}

// Probe connects to every endpoint at once, to learn what the servers there
// can do and which are out of reach before the first message asks. The
// connections wait for it. It blocks no longer than a connection may take.
func (p *Pool) Probe(ctx context.Context, endpoints []Endpoint) {
	var all sync.WaitGroup
	for _, e := range endpoints {
		all.Go(func() {
			release, err := p.enter(ctx)
			if err != nil {
				return
			}
			defer release()
			e.login = p.loginFor(mail.Address{}, e)
			if c, err := p.dial(ctx, e); err == nil {
				p.put(c)
			}
		})
	}
	all.Wait()
}

// order returns endpoints with those lately out of reach last.
func (p *Pool) order(endpoints []Endpoint) []Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.down) == 0 {
		return endpoints
	}
	now := time.Now()
	up, down := make([]Endpoint, 0, len(endpoints)), []Endpoint(nil)
	for _, e := range endpoints {
		if now.Before(p.down[e.Address]) {
			down = append(down, e)
		} else {
			up = append(up, e)
		}
	}
	return append(up, down...)
}

// markDown has an address tried last: for DownTime, or where its health is
// looked after, until it is well again.
func (p *Pool) markDown(e Endpoint, err error) {
	until := time.Now().Add(p.cfg.DownTime)
	p.mu.Lock()
	_, known := p.down[e.Address]
	if len(p.down) >= maxDown {
		clear(p.down)
	}
	watched := p.cfg.watched && p.running && !p.closed && p.pairLocked(e)
	if watched {
		until = until.Add(probedDown)
	}
	p.down[e.Address] = until
	p.mu.Unlock()
	if !known {
		p.log.Warn("next hop out of reach", "remote", e.String(), "reason", status.Of(err).String(), "error", err)
	}
	if watched {
		p.suspect(e)
	}
}

// greeted notes what a server says of itself. That it answers makes it well,
// but for the node of a pair whose health is looked after: that has to go on
// for a while.
func (p *Pool) greeted(e Endpoint, who peer) {
	p.mu.Lock()
	if len(p.peers) >= maxDown {
		clear(p.peers)
	}
	p.peers[e.Address] = who
	until := p.down[e.Address]
	convalescent := time.Until(until) > p.cfg.DownTime
	p.mu.Unlock()
	if !convalescent {
		p.markUp(e)
	}
}

func (p *Pool) markUp(e Endpoint) {
	p.mu.Lock()
	_, known := p.down[e.Address]
	delete(p.down, e.Address)
	p.mu.Unlock()
	if known {
		p.log.Info("next hop back in reach", "remote", e.String())
	}
}

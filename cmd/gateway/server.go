package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/pop3d"
	"github.com/postern-mail/postern/backend/sessions"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/foreign"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/internal/unixsock"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/content"
	"github.com/postern-mail/postern/policy/milter"
	"github.com/postern-mail/postern/proxy"
	"github.com/postern-mail/postern/queue"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/store/pack"
	"github.com/postern-mail/postern/store/pebble"
)

// server is one running Postern: the roles of its configuration with their
// data and listeners.
type server struct {
	path    string // of the configuration
	log     hclog.Logger
	logFile *reopenable
	audit   countedAudit
	metrics *prometheus.Registry
	current current
	// tlsSessions is told of connections to other servers.
	tlsSessions tlsSessions
	// dmarcResults is told what DMARC found.
	dmarcResults dmarcResults
	logins       *logins
	replicas     *replicas    // of directories
	limits       *limiting    // nil without a gateway
	policyState  *policyState // nil without a gateway
	started      time.Time

	stores    []*engine
	queue     *queue.Queue       // nil without a gateway
	spool     *content.Spool     // of messages that policy looks into; nil without a gateway
	mailstore *mailstore.Store   // nil without a backend
	proxies   []*proxy.Server    // by listener; none without a proxy
	askable   []askable          // the auth_server blocks
	mirrors   *foreign.Agent     // nil without mirrors
	pairing   pairing            // nil for a server without a partner
	sessions  *sessions.Registry // of the backend's listeners that people log in at
	maildrops *pop3d.Maildrops   // of its POP3 listeners
	drain     *drain
	members   []members   // of the listeners that people log in at
	pair      *nodeOfPair // nil without a partner
	backup    *backupNote // nil without a backend
	listeners []*listening
	admin     *admin.Server

	reloads     sync.Mutex // one at a time
	generations chan *generation
	ended       chan struct{} // closed when nobody takes generations any more
}

// engine is a store with its bodies, and what closes them.
type engine struct {
	name string
	kv   *pebble.Store
	pack *pack.Blobs // nil for a store without bodies
}

// listening is a listener with the server behind it.
type listening struct {
	name string
	net.Listener
	serve       func(context.Context, net.Listener) error
	reconfigure func(*generation) error
	sessions    func() int
}

// newServer opens the data and the listeners of a configuration, so that what
// is wrong shows before anything runs.
func newServer(ctx context.Context, path string, f *config.File, log hclog.Logger, logFile *reopenable) (s *server, err error) {
	s = &server{drain: newDrain(), sessions: sessions.NewRegistry(), maildrops: pop3d.NewMaildrops(), path: path, log: log, logFile: logFile, metrics: prometheus.NewRegistry(), started: time.Now(), generations: make(chan *generation, 1), ended: make(chan struct{})}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if conn, err := net.Dial("unix", f.Control.Socket); err == nil {
		_ = conn.Close()
		return s, fmt.Errorf("a server is running already: it answers at %s; see postern status -c %s", f.Control.Socket, path)
	}
	if err := os.MkdirAll(f.DataDir, 0o750); err != nil {
		return s, fmt.Errorf("data_dir: %w", err)
	}
	record, err := audit.Open(f.Audit.Room(), log.Named("audit"))
	if err != nil {
		return s, err
	}
	s.audit = newCountedAudit(record, s.metrics)
	if s.audit.lines, err = openPostfixLines(f, log); err != nil {
		return s, err
	}
	if s.logins, err = openLogins(ctx, f, s.audit, log); err != nil {
		return s, err
	}
	s.stores = append(s.stores, &engine{name: "authn", kv: s.logins.kv})
	s.replicas = openReplicas(ctx, f, log)
	if s.policyState, err = openPolicyState(ctx, f, log); err != nil {
		return s, err
	}
	if f.Gateway != nil {
		s.limits = openLimits(f, s.policyState.facts, s.audit, log)
	}
	g, err := newGeneration(f, s.audit, s.metrics, log, s.lived())
	if err != nil {
		return s, err
	}
	s.current.Store(g)
	s.replicas.adopt(g)
	s.generations <- g
	if f.Backend != nil {
		err = s.openBackend(ctx, f)
	}
	if err == nil && f.Gateway != nil {
		err = s.openGateway(ctx, f)
	}
	if err == nil && f.Proxy != nil {
		err = s.openProxy(f)
	}
	if err == nil && len(f.Mirrors) > 0 {
		err = s.openMirrors(ctx, f)
	}
	if err == nil {
		err = s.openAuthServers(f)
	}
	if err != nil {
		return s, err
	}
	s.metrics.MustRegister(s)
	s.admin, err = admin.New(f.Control.Room(), s.commands(), s.streams(), s.ready, s.pages(), log.Named("admin"))
	return s, err
}

// lived is what the generations of the server share.
func (s *server) lived() lived {
	var milters map[string]*milter.Milter
	if g := s.current.Load(); g != nil {
		milters = g.milters
	}
	return lived{milters: milters, sessions: &s.tlsSessions, dmarc: &s.dmarcResults, logins: s.logins, replicas: s.replicas, limits: s.limits, policy: s.policyState}
}

// pages is what monitoring and load balancers read.
func (s *server) pages() admin.Pages {
	return admin.Pages{"/pair": http.HandlerFunc(s.serveHealth), "/metrics": promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{})}
}

// openEngine opens the store of one role.
func (s *server) openEngine(ctx context.Context, f *config.File, name string) (*engine, error) {
	dir, reserve := filepath.Join(f.DataDir, name), reserveOf(f, name)
	log := s.log.Named("store").With("store", name)
	kv, err := pebble.Open(ctx, pebble.Config{Dir: filepath.Join(dir, "index"), ReserveOctets: reserve}, log)
	if err != nil {
		return nil, fmt.Errorf("open the %s store: %w", name, err)
	}
	e := &engine{name: name, kv: kv}
	s.stores = append(s.stores, e)
	e.pack, err = pack.Open(ctx, pack.Config{Dir: filepath.Join(dir, "bodies"), ReserveOctets: reserve, Copied: name == "mail"}, kv, log)
	if err != nil {
		return nil, fmt.Errorf("open the %s bodies: %w", name, err)
	}
	return e, nil
}

// reserveOf is the free space that a role's store keeps. In a store's
// configuration 0 is a default; in ours it is none.
func reserveOf(f *config.File, role string) int64 {
	return cmp.Or(f.MinFree(role), -1)
}

func (s *server) openGateway(ctx context.Context, f *config.File) error {
	e, err := s.openEngine(ctx, f, "queue")
	if err != nil {
		return err
	}
	s.queue, err = queue.New(f.Queue(), queue.Deps{
		Store: e.kv, Blobs: e.pack, Transport: transport{&s.current}, Reports: reporter{&s.current}, Notices: reporter{&s.current},
		Recipients: ourRecipients{&s.current}, Submitters: submitters{&s.current}, Audit: s.audit, Log: s.log.Named("queue"),
	})
	if err != nil {
		return err
	}
	if err := s.openReporter(f, e.kv); err != nil {
		return err
	}
	if err := s.openDMARCReporter(f, e.kv); err != nil {
		return err
	}
	if s.spool, err = content.OpenSpool(f.Gateway.Content.Room(f), fsx.OS()); err != nil {
		return err
	}
	for _, l := range f.Gateway.Listeners {
		if err := s.openSMTP(l); err != nil {
			return fmt.Errorf("listener %s: %w", l.Name, err)
		}
	}
	for _, p := range f.Gateway.PolicyServers {
		if err := s.openPolicyServer(p); err != nil {
			return err
		}
	}
	return nil
}

// openSMTP opens one listener of the gateway on all its addresses.
func (s *server) openSMTP(l *config.SMTPListener) error {
	cfg, handler, err := s.smtpOf(s.current.Load(), l.Name)
	if err != nil {
		return err
	}
	engine, err := smtp.NewServer(cfg, counted{handler, &s.current.Load().users}, s.log.Named("smtpd"))
	if err != nil {
		return err
	}
	reconfigure := func(g *generation) error {
		cfg, handler, err := s.smtpOf(g, l.Name)
		if err != nil {
			return err
		}
		return engine.Reconfigure(cfg, counted{handler, &g.users})
	}
	s.members = append(s.members, engine)
	at := place{l.Name, l.Bind, l.SocketPermissions(), func(f *config.File) *config.ProxyProtocol { return f.SMTPListener(l.Name).ProxyProtocol }}
	s.limits.watch(l.Name, engine)
	return s.listen(at, engine.Serve, reconfigure, func() int { return engine.Stats().Sessions })
}

// smtpdDeps is whom a listener's sessions ask about what they decide.
func (g *generation) smtpdDeps(l *config.SMTPListener) smtpd.Deps {
	deps := smtpd.Deps{Policy: g.chains[l.Name], Domains: g.addresses(), Recipients: g.addresses(), Rewrite: g.rewriter, Routes: g.router}
	if l.KeepsAddresses() {
		deps.Rewrite = nil
	}
	return deps
}

// smtpOf builds the dialect and the decisions of a listener in a generation.
func (s *server) smtpOf(g *generation, name string) (smtp.ServerConfig, *smtpd.Handler, error) {
	l := g.file.SMTPListener(name)
	cfg := l.Room(g.file, g.resolver)
	var err error
	if cfg.TLS, err = certificate(g.file.Certificate(l.TLS)); err != nil {
		return cfg, nil, err
	}
	cfg.Rates, cfg.Noticed = s.limits.ratesOf(g.file, l), s.audit.Record
	if l.Pregreet != nil {
		cfg.Greeted = s.limits.greeted.For(l.Pregreet.TTL)
	}
	deps := g.smtpdDeps(l)
	deps.Quotas = s.limits.quotasOf(g)
	deps.Queue, deps.Audit, deps.Logger, deps.Metrics = s.queue, s.audit, s.log.Named("smtpd"), s.metrics
	deps.Spool = s.spool
	if l.Auth != "none" {
		mechanisms, err := g.mechanisms(l.SASL.Room(l.InsecureAuth, g.file.Hostname), g.verifiers, l.TLS)
		if err != nil {
			return cfg, nil, err
		}
		deps.Authn = smtpLogins{mechanisms}
	}
	handler, err := smtpd.New(l.Sessions(g.file), deps)
	return cfg, handler, err
}

func (s *server) openBackend(ctx context.Context, f *config.File) error {
	e, err := s.openEngine(ctx, f, "mail")
	if err != nil {
		return err
	}
	room := f.Backend.Room()
	room.Expunged = s.autoexpunged
	if s.mailstore, err = mailstore.Open(ctx, room, e.kv, e.pack, s.log.Named("mailstore")); err != nil {
		return fmt.Errorf("open the mailboxes: %w", err)
	}
	if s.backup, err = openBackupNote(f.DataDir); err != nil {
		return err
	}
	if err := s.openPair(ctx, f, e); err != nil {
		return fmt.Errorf("open the pair: %w", err)
	}
	for i, l := range f.Backend.Listeners {
		switch l.Kind {
		case config.KindLMTP:
			err = openDoor(s, i, lmtpDialect, s.lmtpDoor)
		case config.KindPOP3, config.KindPOP3S:
			err = openDoor(s, i, pop3Dialect, s.pop3Door)
		default:
			err = openDoor(s, i, imapDialect, s.imapDoor)
		}
		if err != nil {
			return fmt.Errorf("listener %s: %w", l.Kind, err)
		}
	}
	return nil
}

// place is where a listener listens.
type place struct {
	name       string
	binds      []string
	socketMode fs.FileMode
	// proxies tells, of the configuration in force, who is in front; nil for a
	// listener that nobody can be in front of.
	proxies func(*config.File) *config.ProxyProtocol
}

// backendSocket lets the owner and group of a socket connect.
const backendSocket fs.FileMode = 0o660

// listen opens every address of a listener.
func (s *server) listen(at place, serve func(context.Context, net.Listener) error, reconfigure func(*generation) error, sessions func() int) error {
	for i, bind := range at.binds {
		l, err := listenOn(bind, at.socketMode)
		if err != nil {
			return err
		}
		entry := &listening{name: at.name, Listener: s.behindProxies(l, at), serve: serve}
		if i == 0 {
			entry.reconfigure, entry.sessions = reconfigure, sessions
		}
		s.listeners = append(s.listeners, entry)
	}
	return nil
}

// listenOn opens host:port or unix:PATH.
func listenOn(bind string, socketMode fs.FileMode) (net.Listener, error) {
	if path, ok := strings.CutPrefix(bind, "unix:"); ok {
		return unixsock.ListenFor(path, socketMode)
	}
	return net.Listen("tcp", bind)
}

// Run serves until ctx ends, then stops in the order mail flows: what comes
// in, the queue, the backend, what they stand on.
func (s *server) Run(ctx context.Context) error {
	var front, back phase
	for _, l := range s.listeners {
		t := task{"listener " + l.name, func(ctx context.Context) error { return l.serve(ctx, l.Listener) }}
		if slices.Contains([]string{config.KindLMTP, config.KindIMAP, config.KindIMAPS, config.KindPOP3, config.KindPOP3S}, l.name) {
			back = append(back, t)
		} else {
			front = append(front, t)
		}
		s.log.Info("listening", "listener", l.name, "address", l.Addr())
	}
	var middle, pair, ground phase
	if s.queue != nil {
		middle = append(middle, task{"queue", s.queue.Run})
	}
	if r := s.dmarcResults.Load(); r != nil {
		back = append(back, task{"DMARC reports", r.Run})
	}
	if r := s.tlsSessions.Load(); r != nil {
		back = append(back, task{"TLS reports", r.Run}) // after the last delivery
	}
	if s.mirrors != nil {
		middle = append(middle, task{"mirrors", s.mirrors.Run})
	}
	if s.pair != nil {
		// While the backend's listeners end, their answers wait for the partner.
		pair = phase{{"link to the partner", s.pair.runLink}}
		ground = append(ground, task{"replication", s.pair.node.Run})
	}
	if s.mailstore != nil {
		ground = append(ground, task{"mailboxes", s.mailstore.Run}, task{"search index", s.indexRun})
	}
	ground = append(ground, s.logins.tasks()...)
	ground = append(ground, task{"directory replicas", s.replicas.Run})
	ground = append(ground, s.policyState.tasks()...)
	for _, e := range s.stores {
		if e.pack != nil {
			ground = append(ground, task{e.name + " bodies", e.pack.Run})
		}
		ground = append(ground, task{e.name + " store", e.watch})
	}
	watch := presence{&s.current, s.audit, s.log.Named("presence"), s.members}
	ground = append(ground, task{"presence", watch.run})
	ground = append(ground, task{"drain", func(ctx context.Context) error { return s.drain.run(ctx, s.pairing, s.log.Named("drain")) }})
	if path := s.current.Load().file.Control.HealthFile; path != "" {
		ground = append(ground, task{"health file", func(ctx context.Context) error { return s.keepHealthFile(ctx, path) }})
	}
	ground = append(ground, task{"configuration", s.runGenerations}, task{"control socket", s.admin.Run})
	s.audit.Record(mail.Event{Kind: mail.EventLifecycle, Result: "started", Detail: versionText()})
	s.audit.Record(mail.Event{Kind: mail.EventConfig, Result: "ok", Detail: strings.Join(s.current.Load().file.Sources(), " ")})
	err := runPhases(ctx, []phase{front, middle, back, pair, ground, {{"audit", s.audit.Run}}})
	s.audit.Record(mail.Event{Kind: mail.EventLifecycle, Result: "stopped"})
	return errors.Join(err, s.close())
}

// watch ends the process's work when its store failed: what was acknowledged
// is on disk, and a restart recovers it.
func (e *engine) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.kv.Failed():
		return e.kv.Err()
	}
}

// close closes what newServer opened, last first.
func (s *server) close() error {
	var err error
	for _, l := range s.listeners {
		if e := l.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	err = errors.Join(err, s.pair.close(), s.replicas.close(), s.policyState.close())
	for i := len(s.stores) - 1; i >= 0; i-- {
		if s.stores[i].pack != nil {
			err = errors.Join(err, s.stores[i].pack.Close())
		}
		err = errors.Join(err, s.stores[i].kv.Close())
	}
	if s.audit.Log != nil {
		err = errors.Join(err, s.audit.Close(), s.audit.lines.close())
	}
	return err
}

// ready tells whether the server does its work.
func (s *server) ready() error {
	for _, e := range s.stores {
		if err := e.kv.Err(); err != nil {
			return fmt.Errorf("the %s store failed: %w", e.name, err)
		}
	}
	return nil
}

// retirement is how long a replaced generation's helpers go on at least, for
// questions under way; of generations that follow each other fast, only the last
// maxRetired have that long. They go on in any case for sessions that began
// under it.
const (
	retirement = 10 * time.Minute
	maxRetired = 5
)

// runGenerations runs what each generation needs to have running.
func (s *server) runGenerations(ctx context.Context) error {
	defer close(s.ended)
	var all sync.WaitGroup
	defer all.Wait()
	var stops []func() // of the generations, the present one last
	for {
		select {
		case <-ctx.Done():
			return nil
		case g := <-s.generations:
			running, stop := context.WithCancel(ctx)
			for _, t := range g.tasks {
				all.Go(func() {
					if err := t.run(running); err != nil && running.Err() == nil {
						s.log.Error("ended by itself", "task", t.name, "err", err)
					}
				})
			}
			if n := len(stops); n > 0 {
				time.AfterFunc(retirement, stops[n-1])
			}
			if stops = append(stops, func() { g.users.retire(stop) }); len(stops) > 1+maxRetired {
				stops[0]()
				stops = stops[1:]
			}
		}
	}
}

// certificates reads every certificate, to tell mistakes early. One that
// several listeners share is told of once.
func (g *generation) certificates() error {
	var err error
	told := make(map[*config.TLS]bool)
	try := func(where string, own *config.TLS) {
		t := g.file.Certificate(own)
		if _, e := certificate(t); e != nil && !told[t] {
			told[t] = true
			err = errors.Join(err, fmt.Errorf("%s: %w", where, e))
		}
	}
	if g.file.Gateway != nil {
		for _, l := range g.file.Gateway.Listeners {
			try("listener "+l.Name, l.TLS)
		}
	}
	if g.file.Backend != nil {
		for _, l := range g.file.Backend.Listeners {
			try("listener "+l.Kind, l.TLS)
		}
	}
	if g.file.Proxy != nil {
		for _, l := range g.file.Proxy.Listeners {
			try("listener proxy "+l.Kind, l.TLS)
		}
	}
	return err
}

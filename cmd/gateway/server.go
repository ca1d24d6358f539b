package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/audit"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/unixsock"
	"github.com/postern-mail/postern/mail"
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
	started     time.Time

	stores    []*engine
	queue     *queue.Queue     // nil without a gateway
	mailstore *mailstore.Store // nil without a backend
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
	pack *pack.Blobs
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
	s = &server{path: path, log: log, logFile: logFile, metrics: prometheus.NewRegistry(), started: time.Now(), generations: make(chan *generation, 1), ended: make(chan struct{})}
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
	g, err := newGeneration(f, s.audit, s.metrics, log, &s.tlsSessions)
	if err != nil {
		return s, err
	}
	s.current.Store(g)
	s.generations <- g
	if f.Backend != nil {
		err = s.openBackend(ctx, f)
	}
	if err == nil && f.Gateway != nil {
		err = s.openGateway(ctx, f)
	}
	if err != nil {
		return s, err
	}
	s.metrics.MustRegister(s)
	s.admin, err = admin.New(f.Control.Room(), s.commands(), s.ready, promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}), log.Named("admin"))
	return s, err
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
	e.pack, err = pack.Open(ctx, pack.Config{Dir: filepath.Join(dir, "bodies"), ReserveOctets: reserve}, kv, log)
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
		Recipients: ourRecipients{&s.current}, Audit: s.audit, Log: s.log.Named("queue"),
	})
	if err != nil {
		return err
	}
	if err := s.openReporter(f, e.kv); err != nil {
		return err
	}
	for _, l := range f.Gateway.Listeners {
		if err := s.openSMTP(l); err != nil {
			return fmt.Errorf("listener %s: %w", l.Name, err)
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
	at := place{l.Name, l.Bind, l.SocketPermissions()}
	return s.listen(at, engine.Serve, reconfigure, func() int { return engine.Stats().Sessions })
}

// smtpOf builds the dialect and the decisions of a listener in a generation.
func (s *server) smtpOf(g *generation, name string) (smtp.ServerConfig, *smtpd.Handler, error) {
	l := g.file.SMTPListener(name)
	cfg := l.Room(g.file, g.resolver)
	var err error
	if cfg.TLS, err = certificate(g.file.Certificate(l.TLS)); err != nil {
		return cfg, nil, err
	}
	deps := smtpd.Deps{
		Policy: g.chains[name], Domains: g.addresses(), Recipients: g.addresses(), Rewrite: g.rewriter, Routes: g.router, Queue: s.queue, Audit: s.audit,
		Logger: s.log.Named("smtpd"), Metrics: s.metrics,
	}
	if l.Auth != "none" {
		mechanisms, err := sasl.New(sasl.Config{AllowWithoutTLS: l.InsecureAuth}, g.verifiers)
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
	if s.mailstore, err = mailstore.Open(ctx, f.Backend.Room(), e.kv, e.pack, s.log.Named("mailstore")); err != nil {
		return fmt.Errorf("open the mailboxes: %w", err)
	}
	for i, l := range f.Backend.Listeners {
		if l.Kind == config.KindLMTP {
			err = openDoor(s, i, lmtpDialect, s.lmtpDoor)
		} else {
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
		entry := &listening{name: at.name, Listener: l, serve: serve}
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
		if l.name == config.KindLMTP || l.name == config.KindIMAP || l.name == config.KindIMAPS {
			back = append(back, t)
		} else {
			front = append(front, t)
		}
		s.log.Info("listening", "listener", l.name, "address", l.Addr())
	}
	var middle, ground phase
	if s.queue != nil {
		middle = append(middle, task{"queue", s.queue.Run})
	}
	if r := s.tlsSessions.Load(); r != nil {
		back = append(back, task{"TLS reports", r.Run}) // after the last delivery
	}
	if s.mailstore != nil {
		ground = append(ground, task{"mailboxes", s.mailstore.Run})
	}
	for _, e := range s.stores {
		ground = append(ground, task{e.name + " bodies", e.pack.Run}, task{e.name + " store", e.watch})
	}
	ground = append(ground, task{"configuration", s.runGenerations}, task{"control socket", s.admin.Run})
	s.audit.Record(mail.Event{Kind: mail.EventLifecycle, Result: "started", Detail: versionText()})
	s.audit.Record(mail.Event{Kind: mail.EventConfig, Result: "ok", Detail: strings.Join(s.current.Load().file.Sources(), " ")})
	err := runPhases(ctx, []phase{front, middle, back, ground, {{"audit", s.audit.Run}}})
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
	for i := len(s.stores) - 1; i >= 0; i-- {
		if s.stores[i].pack != nil {
			err = errors.Join(err, s.stores[i].pack.Close())
		}
		err = errors.Join(err, s.stores[i].kv.Close())
	}
	if s.audit.Log != nil {
		err = errors.Join(err, s.audit.Close())
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
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/internal/logs"
	"github.com/postern-mail/postern/mail"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the roles of the configuration", Args: cobra.NoArgs,
		Long: "Runs the gateway, the backend or both, as the configuration says, in the foreground.\n" +
			"SIGHUP or postern reload takes over a changed configuration without dropping a session;\n" +
			"SIGTERM or Ctrl-C stops after transfers under way have ended.",
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), configPath(c)) },
	}
}

func serve(ctx context.Context, path string) error {
	// From here on the signal is a request; before, it would end the process.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	f, err := config.Load(path)
	if err != nil {
		return err
	}
	out, err := openLog(f.Log.File)
	if err != nil {
		return err
	}
	log := logs.New(f.Log.Room(), out)
	s, err := newServer(ctx, path, f, log, out)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var reloader sync.WaitGroup
	defer reloader.Wait()
	defer stop()
	reloader.Go(func() {
		for {
			select {
			case <-running.Done():
				return
			case <-hangup:
				if _, err := s.reload(); err != nil {
					log.Error("the changed configuration is not taken over", "err", err)
				}
			}
		}
	})
	log.Info("started", "version", versionText(), "config", path)
	notify(log, daemon.SdNotifyReady)
	stopping := context.AfterFunc(ctx, func() {
		notify(log, daemon.SdNotifyStopping)
		log.Info("stopping: no new sessions, transfers under way may finish", "grace", f.Grace)
	})
	defer stopping()
	err = s.Run(ctx)
	log.Info("stopped", "err", err)
	return err
}

// notify tells systemd, where it started us.
func notify(log hclog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told", "state", state, "err", err)
	}
}

// reopenable is the log's file, opened again by name after rotation.
type reopenable struct {
	path string

	mu  sync.Mutex
	out *os.File
}

func openLog(path string) (*reopenable, error) {
	r := &reopenable{path: path, out: os.Stderr}
	return r, r.reopen()
}

func (r *reopenable) reopen() error {
	if r.path == "" {
		return nil
	}
	file, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out != os.Stderr {
		_ = r.out.Close() // rotated away
	}
	r.out = file
	return nil
}

// close closes a file; standard error stays open.
func (r *reopenable) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == os.Stderr {
		return nil
	}
	return r.out.Close()
}

func (r *reopenable) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

// reload takes over a changed configuration for everything that comes after.
// It changes nothing when anything is wrong, and tells what only a restart
// can change.
func (s *server) reload() (restart []string, err error) {
	s.reloads.Lock()
	defer s.reloads.Unlock()
	defer func() {
		e := mail.Event{Kind: mail.EventConfig, Result: "ok", Detail: s.path}
		if err != nil {
			e.Result, e.Detail = "refused", err.Error()
		}
		s.audit.Record(e)
	}()
	f, err := config.Load(s.path)
	if err != nil {
		return nil, err
	}
	before := s.current.Load().file
	restart = needsRestart(before, f)
	if slices.ContainsFunc(restart, func(what string) bool { return strings.Contains(what, "listener") }) {
		return restart, fmt.Errorf("listeners were added, removed or moved, which takes a restart: %s", strings.Join(restart, ", "))
	}
	g, err := newGeneration(f, s.audit, s.metrics, s.log, s.lived())
	if err != nil {
		return nil, err
	}
	if err := g.certificates(); err != nil {
		return nil, err
	}
	if err := s.logins.takeOver(f); err != nil {
		return nil, err
	}
	present := s.current.Load()
	if err := s.install(g); err != nil {
		return nil, errors.Join(err, s.install(present))
	}
	s.replicas.adopt(g)
	select {
	case s.generations <- g:
	case <-s.ended:
		return nil, errors.New("the server is stopping")
	}
	err = errors.Join(s.logFile.reopen(), s.audit.Reopen(), s.audit.lines.takeOver(s.current.Load().file))
	s.log.SetLevel(hclog.LevelFromString(f.Log.Level))
	s.log.Info("configuration taken over", "config", s.path, "after restart", strings.Join(restart, ", "))
	return restart, err
}

// install puts a generation in force for what begins from now on.
func (s *server) install(g *generation) error {
	s.current.Store(g)
	var err error
	for _, l := range s.listeners {
		if l.reconfigure != nil {
			err = errors.Join(err, l.reconfigure(g))
		}
	}
	return err
}

// needsRestart names what changed and is only read at the start.
func needsRestart(before, after *config.File) []string {
	var changed []string
	note := func(what string, same bool) {
		if !same {
			changed = append(changed, what)
		}
	}
	note("data_dir", before.DataDir == after.DataDir)
	note("log.file", before.Log.File == after.Log.File)
	note("log.postfix_file", before.Log.PostfixFile == after.Log.PostfixFile)
	note("log.format", before.Log.Format == after.Log.Format)
	note("audit.file", before.Audit.File == after.Audit.File)
	note("control", before.Control.Socket == after.Control.Socket && before.Control.Metrics == after.Control.Metrics && before.Control.HealthFile == after.Control.HealthFile)
	note("listener addresses", slices.Equal(before.Addresses(), after.Addresses()))
	note("mirror", sameMirrors(before, after))
	note("audit.sync_interval", before.Audit.Sync == after.Audit.Sync)
	if before.Gateway != nil && after.Gateway != nil {
		note("gateway.policy_server", reflect.DeepEqual(before.Gateway.AskedServers(), after.Gateway.AskedServers()))
		note("gateway.peers", before.Gateway.Peers.Same(after.Gateway.Peers))
		note("gateway.dmarc.reports", reflect.DeepEqual(before.DMARCReports(), after.DMARCReports()))
		note("gateway.tls_reports", reflect.DeepEqual(before.TLSReports(), after.TLSReports()))
		note("gateway.content", before.Gateway.Content.Room(before) == after.Gateway.Content.Room(after))
		note("gateway.queue", before.Queue() == after.Queue() && before.MinFree("queue") == after.MinFree("queue"))
	}
	if before.Backend != nil && after.Backend != nil {
		note("backend.mailbox_limits", reflect.DeepEqual(before.Backend.Limits, after.Backend.Limits))
		note("backend.search_index", reflect.DeepEqual(before.Backend.Index.Room(), after.Backend.Index.Room()))
		note("backend.mailbox", reflect.DeepEqual(before.Backend.Room().Mailboxes, after.Backend.Room().Mailboxes))
		note("backend.node", before.Backend.Node == after.Backend.Node)
		note("backend.replica", before.Backend.Replica.Same(after.Backend.Replica))
		note("backend.minfree", before.MinFree("mail") == after.MinFree("mail"))
		note("backend.detail_mailboxes", before.Deliveries().DetailMailboxes == after.Deliveries().DetailMailboxes)
	}
	return changed
}

func reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Have the running server take over the changed configuration", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return callServer(c, "reload", nil) },
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Tell how the running server does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return callServer(c, "status", nil) },
	}
}

// replyReload answers the reload command.
func (s *server) replyReload(_ context.Context, _ url.Values, out io.Writer) error {
	restart, err := s.reload()
	if err != nil {
		return fmt.Errorf("not taken over, the configuration before stays in force:\n%w", err)
	}
	fmt.Fprintln(out, "configuration taken over; sessions under way keep the one they began with")
	if len(restart) > 0 {
		fmt.Fprintln(out, "takes effect after a restart only:", strings.Join(restart, ", "))
	}
	return nil
}

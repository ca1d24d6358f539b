package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

// pairing is what this server has to know of its pair to say how it is, and to
// leave it for a while.
type pairing interface {
	// Linked reports whether the partner is connected.
	Linked() bool
	// Joining reports whether this server has not all mailboxes yet.
	Joining() bool
	// Stale reports whether this server came from a backup and must not serve.
	Stale() bool
	// Behind is how many operations the partner has not confirmed.
	Behind(ctx context.Context) (uint64, error)
}

// The words of the page /pair and of the health file.
const (
	healthReady      = "ready"
	healthCatchingUp = "catching-up"
	healthIsolated   = "isolated"
	healthDraining   = "draining"
)

// health says in a word whether clients should be sent here. isolated serves:
// its partner is away, and this is where everything is.
func (s *server) health() string {
	switch {
	case s.drain.isOn():
		return healthDraining
	case s.pairing == nil:
		return healthReady
	case s.pairing.Stale():
		return pairStale
	case s.pairing.Joining():
		return healthCatchingUp
	case !s.pairing.Linked():
		return healthIsolated
	default:
		return healthReady
	}
}

// serveHealth answers load balancers: 200 where clients are served, else 503.
func (s *server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	word := s.health()
	if err := s.ready(); err != nil {
		word = "failed"
	}
	if word != healthReady && word != healthIsolated {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, word+"\n") // the monitor that hung up learns nothing
}

// healthEvery is how old the health file may be.
const healthEvery = time.Second

// keepHealthFile writes the word of the health page to a file for those who
// read files, and takes the file away at the end.
func (s *server) keepHealthFile(ctx context.Context, path string) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	written := ""
	for {
		if word := s.health(); word != written {
			if err := replaceFile(path, word+"\n"); err != nil {
				s.log.Error("health file", "err", err)
			} else {
				written = word
			}
		}
		select {
		case <-ctx.Done():
			return os.Remove(path)
		case <-tick.C:
		}
	}
}

// replaceFile lets readers see the old text or the new one. Nothing depends on
// it after a crash, so it is not synced.
func replaceFile(path, text string) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// drainable is a server whose clients can be sent elsewhere.
type drainable interface {
	Drain(on bool)
	Dismiss(most int) (left int)
	Sessions() int
}

const (
	// drainStep is how often some sessions are dismissed.
	drainStep = 100 * time.Millisecond
	// drainPatience is how long the sessions stay for the partner to have
	// everything. After it they go: what is not there yet comes all the same,
	// and nothing is lost by it.
	drainPatience = 30 * time.Second
)

// drain is whether this server is left for a while, and how far that is.
type drain struct {
	changed chan struct{} // capacity 1

	mu     sync.Mutex
	on     bool
	spread time.Duration
	phase  string
	doors  []drainable
}

func newDrain() *drain { return &drain{changed: make(chan struct{}, 1), phase: "serving"} }

func (d *drain) isOn() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.on
}

// add has a server take part.
func (d *drain) add(door drainable) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.doors = append(d.doors, door)
}

func (d *drain) set(on bool, spread time.Duration) {
	d.mu.Lock()
	d.on, d.spread, d.phase = on, spread, "serving"
	if on {
		d.phase = "waiting for the partner to have everything"
	}
	doors := d.doors
	d.mu.Unlock()
	for _, door := range doors {
		door.Drain(on)
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *drain) state() (on bool, phase string, sessions int, spread time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, door := range d.doors {
		sessions += door.Sessions()
	}
	return d.on, d.phase, sessions, d.spread
}

func (d *drain) enter(phase string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.on {
		d.phase = phase
	}
}

const phaseDrained = "drained: no client is left, and the server can be stopped"

// run sees drains through until ctx ends.
func (d *drain) run(ctx context.Context, pair pairing, log hclog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
			if d.isOn() {
				d.follow(ctx, pair, log)
			}
		}
	}
}

// follow waits for the partner and sends the clients away, some at a time.
func (d *drain) follow(ctx context.Context, pair pairing, log hclog.Logger) {
	began := time.Now()
	step := time.NewTicker(drainStep)
	defer step.Stop()
	waiting, share := pair != nil, 0
	for d.isOn() {
		select {
		case <-ctx.Done():
			return
		case <-step.C:
		}
		if waiting {
			behind, err := pair.Behind(ctx)
			if waiting = (err != nil || behind > 0) && time.Since(began) < drainPatience; waiting {
				continue
			}
			if err != nil || behind > 0 {
				log.Warn("the partner does not have everything; clients are sent to it all the same", "operations", behind, "err", err)
			}
		}
		_, _, sessions, spread := d.state()
		if sessions == 0 {
			d.enter(phaseDrained)
			log.Info("drained", "took", time.Since(began))
			return
		}
		if share == 0 {
			share = max(1, int(int64(sessions)*int64(drainStep)/max(int64(spread), 1)))
			d.enter("sending clients away")
		}
		d.dismiss(share)
	}
}

func (d *drain) dismiss(most int) {
	d.mu.Lock()
	doors := d.doors
	d.mu.Unlock()
	for _, door := range doors {
		door.Dismiss(most)
	}
}

// replyDrain answers the drain command.
func (s *server) replyDrain(ctx context.Context, args url.Values, out io.Writer) error {
	if args.Get("undo") == "true" {
		s.drain.set(false, 0)
		s.log.Info("draining is over: clients are taken again")
		fmt.Fprintln(out, "serving again")
		return nil
	}
	if err := s.mayDrain(); err != nil && args.Get("force") != "true" {
		return fmt.Errorf("%w; --force drains all the same", err)
	}
	seconds, err := strconv.ParseFloat(args.Get("spread"), 64)
	if err != nil || seconds < 0 || seconds > 3600 {
		return fmt.Errorf("spread of %q seconds: write 0 to 3600", args.Get("spread"))
	}
	s.drain.set(true, time.Duration(seconds*float64(time.Second)))
	s.log.Info("draining: mail and clients go to the partner")
	if args.Get("wait") != "true" {
		fmt.Fprintln(out, "draining; postern status tells how far it is")
		return nil
	}
	return s.tellDrain(ctx, out)
}

// mayDrain tells why a drain would leave clients with nowhere to go.
func (s *server) mayDrain() error {
	switch {
	case s.mailstore == nil:
		return nil // proxies have likes
	case s.pairing == nil:
		return errors.New("this server has no partner that would take its clients")
	case !s.pairing.Linked():
		return errors.New("the partner is not connected, and would not have what its clients want")
	}
	return nil
}

// tellDrain tells of the drain until it is done, or the operator had enough.
func (s *server) tellDrain(ctx context.Context, out io.Writer) error {
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	told, at := "", time.Time{}
	for {
		on, phase, sessions, _ := s.drain.state()
		switch {
		case !on:
			return errors.New("the drain was undone")
		case phase == phaseDrained:
			fmt.Fprintln(out, phase)
			return nil
		case phase != told || time.Since(at) > time.Second:
			fmt.Fprintf(out, "%s; %d client(s)\n", phase, sessions)
			told, at = phase, time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func drainCommand() *cobra.Command {
	var undo, force, noWait bool
	spread := 5 * time.Second
	c := &cobra.Command{
		Use: "drain", Short: "Send mail and clients of this server to its partner, before maintenance", Args: cobra.NoArgs,
		Long: "The server answers 421 to LMTP and BYE to new IMAP connections, tells load balancers that it is draining,\n" +
			"waits until the partner has everything, and then asks its IMAP clients, some at a time, to connect again:\n" +
			"gateways and proxies bring what comes to the partner. It goes on until a restart, or postern drain --undo.",
		RunE: func(c *cobra.Command, _ []string) error {
			return callServer(c, "drain", url.Values{
				"undo": {strconv.FormatBool(undo)}, "force": {strconv.FormatBool(force)}, "wait": {strconv.FormatBool(!noWait)},
				"spread": {strconv.FormatFloat(spread.Seconds(), 'f', -1, 64)},
			})
		},
	}
	c.Flags().BoolVar(&undo, "undo", false, "serve again")
	c.Flags().BoolVar(&force, "force", false, "drain also where nobody takes the clients")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is done")
	c.Flags().DurationVar(&spread, "spread", spread, "`TIME` over which clients are sent away")
	return c
}

var (
	metricDraining = newMetric(prometheus.GaugeValue, "gateway_drain_active", "1 while this server is drained: mail and clients go to its partner.")
	drainMetrics   = []metric{metricDraining}
)

// draining is asked by the LMTP listener.
func (s *server) draining() bool { return s.drain.isOn() }

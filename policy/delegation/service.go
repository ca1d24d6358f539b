package delegation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
)

// How long a service that failed is left alone: doubled with each failure.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// Service is one program that is asked. It is safe for concurrent use.
type Service struct {
	cfg     Config
	pool    *pool
	log     hclog.Logger
	metrics *metrics

	mu      sync.Mutex
	failure error     // nil while it answers
	since   time.Time // of the failure
	again   time.Time // when it is asked again
	pause   time.Duration
	probing bool // somebody asks again
}

// NewService returns a service. Nothing is connected before it is asked. A nil
// registry counts nowhere.
func NewService(cfg Config, log hclog.Logger, registry prometheus.Registerer) (*Service, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	network, address, err := cfg.place()
	if err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	m, err := newMetrics(registry)
	if err != nil {
		return nil, err
	}
	m.up(cfg.Name, true)
	dial := func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, address) }
	p := &pool{cfg: cfg, dial: dial, open: make(chan struct{}, cfg.Connections)}
	return &Service{cfg: cfg, pool: p, log: log.With("service", cfg.Name), metrics: m}, nil
}

// Run closes connections that are unused for too long, and all at the end.
func (s *Service) Run(ctx context.Context) error {
	defer s.pool.close()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.pool.sweep(now)
		}
	}
}

// Status is how a service does.
type Status struct {
	Name    string
	Address string
	Failure error // why it does not answer; nil while it does
	Since   time.Time
}

// Status tells how the service does.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{s.cfg.Name, s.cfg.Address, s.failure, s.since}
}

// Ask returns the action that the service wants. It takes no longer than the
// tries need, or ctx lets it. After an error the service is left alone for a
// while, and the error comes at once.
func (s *Service) Ask(ctx context.Context, tx *mail.Transaction) (action string, err error) {
	if err := s.admit(); err != nil {
		s.metrics.asked(s.cfg.Name, resultSkipped, 0)
		return "", err
	}
	began := time.Now()
	action, err = s.ask(ctx, appendMessage(nil, attributesOf(tx, &s.cfg)))
	result := resultAnswered
	if err != nil {
		result = resultFailed
	}
	s.metrics.asked(s.cfg.Name, result, time.Since(began))
	s.settle(err)
	return action, err
}

// admit lets a question through, unless the service failed a short while ago.
func (s *Service) admit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		return nil
	}
	if s.probing || time.Now().Before(s.again) {
		return fmt.Errorf("not asked, since it failed %s ago: %w", time.Since(s.since).Round(time.Second), s.failure)
	}
	s.probing = true
	return nil
}

// settle notes what a question came to; a change of state is logged.
func (s *Service) settle(err error) {
	s.mu.Lock()
	before := s.failure
	s.probing = false
	switch {
	case err == nil:
		s.failure, s.pause = nil, 0
	case errors.Is(err, errBusy) && before == nil:
		s.mu.Unlock()
		return // it answers others
	default:
		if before == nil {
			s.since = time.Now()
		}
		s.pause = min(max(2*s.pause, firstPause), lastPause)
		s.failure, s.again = err, time.Now().Add(s.pause)
	}
	since := s.since
	s.mu.Unlock()
	s.metrics.up(s.cfg.Name, err == nil)
	switch {
	case err != nil && before == nil:
		s.log.Warn("a policy service does not answer: its default action holds", "address", s.cfg.Address, "action", s.cfg.DefaultAction, "error", err)
	case err == nil && before != nil:
		s.log.Info("a policy service answers again", "address", s.cfg.Address, "after", time.Since(since).Round(time.Second))
	}
}

// ask tries as often as configured.
func (s *Service) ask(ctx context.Context, request []byte) (action string, err error) {
	for try := 1; ; try++ {
		action, err = s.try(ctx, request)
		if err == nil || try >= s.cfg.Tries || errors.Is(err, errBusy) {
			return action, err
		}
		timer := time.NewTimer(s.cfg.RetryDelay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return "", err
		case <-timer.C:
		}
	}
}

// try asks over one connection. That a kept one was closed meanwhile by the
// other end is no failure: others follow, until one is fresh.
func (s *Service) try(ctx context.Context, request []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for {
		c, used, err := s.pool.take(ctx)
		if err != nil {
			return "", err
		}
		action, heard, err := exchange(ctx, c, request)
		if err == nil {
			s.pool.give(c)
			return action, nil
		}
		s.pool.drop(c)
		if !used || heard || ctx.Err() != nil {
			return "", err
		}
	}
}

// exchange sends a request and reads its answer. heard tells that some of an
// answer came.
func exchange(ctx context.Context, c *connection, request []byte) (action string, heard bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", false, err
	}
	if _, err := c.Write(request); err != nil {
		return "", false, fmt.Errorf("ask: %w", err)
	}
	answer, err := readMessage(c.in, func() { heard = true })
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", heard, fmt.Errorf("read the answer: %w", err)
	}
	action, found := valueOf(answer, "action")
	if !found || action == "" {
		return "", heard, errors.New("the answer has no action")
	}
	return action, heard, nil
}

// The results in metrics.
const (
	resultAnswered = "answered"
	resultFailed   = "failed"
	resultSkipped  = "skipped"
)

// metrics are those of all services. A nil *metrics counts nothing.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	state    *prometheus.GaugeVec
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	if registry == nil {
		return nil, nil
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_policy_service_requests_total", Help: "Questions to policy services, by service and result: answered, failed, skipped.",
		}, []string{"service", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gateway_policy_service_seconds", Help: "How long answers of policy services took.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"service"}),
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "gateway_policy_service_up", Help: "1 while the policy service answers.",
		}, []string{"service"}),
	}
	for _, c := range []struct {
		made prometheus.Collector
		take func(prometheus.Collector)
	}{
		{m.requests, func(c prometheus.Collector) { m.requests = c.(*prometheus.CounterVec) }},
		{m.seconds, func(c prometheus.Collector) { m.seconds = c.(*prometheus.HistogramVec) }},
		{m.state, func(c prometheus.Collector) { m.state = c.(*prometheus.GaugeVec) }},
	} {
		if err := registry.Register(c.made); err != nil {
			known, ok := err.(prometheus.AlreadyRegisteredError)
			if !ok {
				return nil, err
			}
			c.take(known.ExistingCollector)
		}
	}
	return m, nil
}

func (m *metrics) asked(service, result string, took time.Duration) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(service, result).Inc()
	if result == resultAnswered {
		m.seconds.WithLabelValues(service).Observe(took.Seconds())
	}
}

func (m *metrics) up(service string, up bool) {
	if m == nil {
		return
	}
	value := 0.0
	if up {
		value = 1
	}
	m.state.WithLabelValues(service).Set(value)
}

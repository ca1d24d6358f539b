package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// DB is a database on one or more hosts. It may be used concurrently.
type DB struct {
	cfg   Config
	hosts []*host
	log   hclog.Logger
}

// host is one of them, with what is known of its health.
type host struct {
	name string
	pool *sql.DB

	mu    sync.Mutex
	until time.Time // left alone until then
	pause time.Duration
	last  error
}

// New returns a database. It reads certificates and the password, and connects
// nowhere.
func New(cfg Config, log hclog.Logger) (*DB, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("database %q: %w", cfg.Name, err)
	}
	d := &DB{cfg: cfg, log: log}
	for _, text := range cfg.Hosts {
		p, err := cfg.parseHost(text)
		if err != nil {
			return nil, fmt.Errorf("database %q: %w", cfg.Name, err)
		}
		pool, err := cfg.open(p)
		if err != nil {
			return nil, fmt.Errorf("database %q: %w", cfg.Name, err)
		}
		d.hosts = append(d.hosts, &host{name: text, pool: pool})
	}
	return d, nil
}

// Name returns the database's name.
func (d *DB) Name() string { return d.cfg.Name }

// Driver returns which kind of database it is.
func (d *DB) Driver() string { return d.cfg.Driver }

// Run closes the connections when ctx ends.
func (d *DB) Run(ctx context.Context) error {
	<-ctx.Done()
	d.Close()
	return nil
}

// Close closes the connections.
func (d *DB) Close() {
	for _, h := range d.hosts {
		_ = h.pool.Close() // nothing is written
	}
}

// Row is a row's columns, in order, with their values as texts. NULL is a nil
// value.
type Row struct {
	Columns []string
	Values  []*string
}

// Select asks a query about a key. asked is false when the key lacks a part
// that the query needs, so that there is nothing to ask. More than limit rows
// are an error. Every error is status.DirectoryDown.
func (d *DB) Select(ctx context.Context, s *Statement, key *directory.Key, limit int) (rows []Row, asked bool, err error) {
	parameters, ok := s.fill(key.Part)
	if !ok {
		return nil, false, nil
	}
	rows, err = d.ask(ctx, s.text, parameters, limit)
	if err != nil {
		err = status.Errorf(status.DirectoryDown, "database %s: %w", d.cfg.Name, err)
	}
	return rows, true, err
}

// ask goes through the hosts until one answers.
func (d *DB) ask(ctx context.Context, query string, parameters []any, limit int) ([]Row, error) {
	var failures error
	asked := false
	for _, h := range d.order() {
		if resting, why := h.resting(time.Now()); resting {
			failures = errors.Join(failures, fmt.Errorf("%s is left alone for a while: %w", h.name, why))
			continue
		}
		asked = true
		rows, err := d.askHost(ctx, h, query, parameters, limit)
		if err == nil || ctx.Err() != nil || !isOutage(err) {
			return rows, err
		}
		failures = errors.Join(failures, fmt.Errorf("%s: %w", h.name, err))
	}
	if !asked {
		return nil, fmt.Errorf("no host can be asked: %w", failures)
	}
	return nil, failures
}

func (d *DB) order() []*host {
	if !d.cfg.Shuffle || len(d.hosts) < 2 {
		return d.hosts
	}
	all := append([]*host(nil), d.hosts...)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// askHost asks one host. A connection that was good may have died with a
// server that is back already: it is tried twice then.
func (d *DB) askHost(ctx context.Context, h *host, query string, parameters []any, limit int) (rows []Row, err error) {
	for range 2 {
		started := time.Now()
		rows, err = h.query(ctx, d.cfg.Timeout, query, parameters, limit)
		if err == nil || !isOutage(err) {
			h.answered(d.log)
			return rows, err
		}
		if ctx.Err() != nil {
			return nil, err // the caller gave up, which says nothing of the host
		}
		if time.Since(started) >= d.cfg.Timeout {
			break
		}
	}
	h.failed(err, d.cfg.RetryInterval, d.log)
	return nil, err
}

func (h *host) query(ctx context.Context, timeout time.Duration, query string, parameters []any, limit int) ([]Row, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	found, err := h.pool.QueryContext(ctx, query, parameters...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		return nil, err
	}
	var rows []Row
	octets := maxOctets + limit*rowOctets
	for found.Next() {
		if len(rows) == limit {
			return nil, tooMany(limit)
		}
		row := Row{columns, make([]*string, len(columns))}
		into := make([]any, len(columns))
		for i := range into {
			into[i] = &row.Values[i]
		}
		if err := found.Scan(into...); err != nil {
			return nil, err
		}
		for _, v := range row.Values {
			if v != nil {
				octets -= len(*v)
			}
		}
		if octets < 0 {
			return nil, errLarge
		}
		rows = append(rows, row)
	}
	return rows, found.Err()
}

// maxOctets and rowOctets bound a result: so much, and so much more for each
// row that is allowed.
const (
	maxOctets = 4 << 20
	rowOctets = 256
)

// errLarge is the error of a result that is larger than allowed.
var errLarge error = large{}

type large struct{}

func (large) Error() string {
	return "the result is too large: select only the columns that are needed"
}

// Code makes it none of the host's.
func (large) Code() int { return 0 }

// tooMany is the error of a result with more rows than allowed.
type tooMany int

func (n tooMany) Error() string { return fmt.Sprintf("more than %d rows", int(n)) }

// Code makes it none of the host's.
func (n tooMany) Code() int { return 0 }

// resting reports whether the host is left alone, and why.
func (h *host) resting(now time.Time) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.until), h.last
}

func (h *host) failed(err error, longest time.Duration, log hclog.Logger) {
	h.mu.Lock()
	first := h.pause == 0
	h.pause = min(max(2*h.pause, time.Second), longest)
	h.until, h.last = time.Now().Add(h.pause), err
	h.mu.Unlock()
	if first {
		log.Warn("database does not answer", "host", h.name, "error", err)
	}
}

func (h *host) answered(log hclog.Logger) {
	h.mu.Lock()
	was := h.pause > 0
	h.pause, h.until, h.last = 0, time.Time{}, nil
	h.mu.Unlock()
	if was {
		log.Info("database answers again", "host", h.name)
	}
}

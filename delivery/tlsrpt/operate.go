package tlsrpt

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/store"
)

// Entry tells operators about one report.
type Entry struct {
	Domain    string    `json:"domain"`
	Day       string    `json:"day"` // 2026-11-21
	Succeeded int64     `json:"succeeded"`
	Failed    int64     `json:"failed"`
	Due       time.Time `json:"due"`
	Attempts  int       `json:"attempts"`
	Last      string    `json:"last,omitempty"` // why the last attempt failed
}

// List calls each for every report that is being counted or waits to be sent,
// by day and domain.
func (r *Reporter) List(ctx context.Context, each func(Entry) error) error {
	return r.loop.Do(ctx, func(ctx context.Context) error {
		return r.scan(ctx, func(w waiting) error { return each(r.entry(w)) })
	})
}

// scan goes through everything in the store.
func (r *Reporter) scan(ctx context.Context, look func(waiting) error) error {
	return store.Scan(ctx, r.deps.Store, []byte{tag}, []byte{tag + 1}, 100, func(_ store.Snapshot, key, value []byte) error {
		s, err := parseKey(key)
		if err != nil {
			return err
		}
		c, err := decode(value)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", s.domain, s.day, err)
		}
		return look(waiting{s, c})
	})
}

func (r *Reporter) entry(w waiting) Entry {
	e := Entry{Domain: w.domain, Day: w.day.String(), Due: r.cfg.Due(w.day, w.count.Sending)}
	for _, p := range w.count.Policies {
		e.Succeeded += p.Succeeded
		e.Failed += p.Failed
	}
	if w.count.Sending != nil {
		e.Attempts, e.Last = w.count.Sending.Attempts, w.count.Sending.Last
	}
	return e
}

// Show returns the reports about a domain as they would be sent now, in JSON,
// the one of today last.
func (r *Reporter) Show(ctx context.Context, domain string) (reports []string, err error) {
	domain = strings.ToLower(domain)
	err = r.loop.Do(ctx, func(ctx context.Context) error {
		return r.scan(ctx, func(w waiting) error {
			if w.domain != domain {
				return nil
			}
			text, err := r.reportOf(w.subject, w.count).json()
			reports = append(reports, string(text))
			return err
		})
	})
	return reports, err
}

// Send tries the reports about a domain on past days now, and returns how many
// there were and what kept one from being sent.
func (r *Reporter) Send(ctx context.Context, domain string) (n int, err error) {
	domain = strings.ToLower(domain)
	err = r.loop.Do(ctx, func(ctx context.Context) (err error) {
		n, err = r.round().Now(ctx, func(w waiting) bool { return w.domain == domain }, r.sendAll)
		return err
	})
	return n, err
}

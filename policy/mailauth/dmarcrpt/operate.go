package dmarcrpt

import (
	"context"
	"strings"
	"time"
)

// Entry tells operators about one report.
type Entry struct {
	Domain   string    `json:"domain"`
	Day      string    `json:"day"` // 2026-11-21
	Messages int64     `json:"messages"`
	Failed   int64     `json:"failed"` // of them, without DMARC's pass
	Due      time.Time `json:"due"`
	Attempts int       `json:"attempts"`
	Last     string    `json:"last,omitempty"` // why the last attempt failed
}

// everything returns what is in the store, by day and domain.
func (r *Reporter) everything(ctx context.Context) (all []waiting, err error) {
	err = r.scan(ctx, []byte{tag}, []byte{tag + 1}, func(w waiting) error {
		all = append(all, w)
		return nil
	})
	return all, err
}

// List calls each for every report that is being counted or waits to be sent,
// by day and domain.
func (r *Reporter) List(ctx context.Context, each func(Entry) error) error {
	return r.loop.Do(ctx, func(ctx context.Context) error {
		all, err := r.everything(ctx)
		for _, w := range all {
			if err == nil {
				err = r.entry(ctx, w, each)
			}
		}
		return err
	})
}

func (r *Reporter) entry(ctx context.Context, w waiting, each func(Entry) error) error {
	e := Entry{Domain: w.domain, Day: w.day.String(), Due: r.cfg.Due(w.day, w.head.Sending)}
	err := r.eachRow(ctx, w.subject, func(one *row) error {
		e.Messages += one.N
		if !one.DKIM && !one.SPF {
			e.Failed += one.N
		}
		return nil
	})
	if err != nil {
		return err
	}
	if w.head.Sending != nil {
		e.Attempts, e.Last = w.head.Sending.Attempts, w.head.Sending.Last
	}
	return each(e)
}

// Show returns the reports about a domain as they would be sent now, in XML, the
// one of today last.
func (r *Reporter) Show(ctx context.Context, domain string) (reports []string, err error) {
	domain = strings.ToLower(domain)
	err = r.loop.Do(ctx, func(ctx context.Context) error {
		all, err := r.everything(ctx)
		for _, w := range all {
			if err == nil && w.domain == domain {
				var text string
				text, err = r.text(ctx, w.subject, w.head.Published)
				reports = append(reports, text)
			}
		}
		return err
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

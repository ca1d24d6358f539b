package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

const (
	// minDelay leaves the last counts of a day the time to be written,
	// maxDelay is RFC 8460's (section 4.1): reporters spread over four hours.
	minDelay = 5 * time.Minute
	maxDelay = 4 * time.Hour
	// A report that a receiver does not take is tried again after firstRetry,
	// then twice as long, up to maxRetry; it is given up after maxAttempts, about
	// a day.
	firstRetry  = 5 * time.Minute
	maxRetry    = 4 * time.Hour
	maxAttempts = 12
	// maxRound bounds the reports whose counts are in memory at once.
	maxRound = 64
)

// sending is how far the sending of a report has come.
type sending struct {
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next"`
	Done     []string  `json:"done,omitempty"` // receivers
	Last     string    `json:"last,omitempty"` // why the last attempt failed
}

// reportTime is when the reports about a day are sent: always the same, and for
// each host another.
func (r *Reporter) reportTime(d day) time.Time {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", r.cfg.Hostname, d)
	spread := uint64((maxDelay - minDelay) / time.Second)
	return d.end().Add(minDelay + time.Duration(h.Sum64()%spread)*time.Second)
}

// due returns when the report about a subject is to be tried.
func (r *Reporter) due(s subject, c *count) time.Time {
	if c.Sending != nil {
		return c.Sending.Next
	}
	return r.reportTime(s.day)
}

// waiting is a report that is to be sent.
type waiting struct {
	subject
	count *count
}

// sendDue sends the reports whose time has come.
func (r *Reporter) sendDue(ctx context.Context) {
	if time.Now().Before(r.wake) {
		return
	}
	for ctx.Err() == nil {
		now := time.Now()
		round, err := r.collect(ctx, func(w waiting) bool { return !now.Before(r.due(w.subject, w.count)) })
		if err != nil {
			r.log.Error("TLS reports cannot be read", "err", err)
			return
		}
		if len(round) == 0 {
			return
		}
		if err := r.sendAll(ctx, round, now); err != nil {
			r.log.Error("TLS reports cannot be recorded as sent", "err", err)
			return
		}
		r.flush(ctx)
	}
}

// collect returns up to maxRound reports of past days for which pick says so,
// and notes in wake when the earliest of the others is due.
func (r *Reporter) collect(ctx context.Context, pick func(waiting) bool) ([]waiting, error) {
	today := dayOf(time.Now())
	r.wake = r.reportTime(today)
	var round []waiting
	errFull := errors.New("round is full")
	err := store.Scan(ctx, r.deps.Store, day(0).lo(), today.lo(), 100, func(_ store.Snapshot, key, value []byte) error {
		s, err := parseKey(key)
		if err != nil {
			r.log.Error("record in the place of TLS reports", "err", err)
			return nil
		}
		c, err := decode(value)
		if err != nil {
			r.log.Error("counts of TLS sessions cannot be read", "domain", s.domain, "day", s.day.String(), "err", err)
			return nil
		}
		if w := (waiting{s, c}); pick(w) {
			round = append(round, w)
		} else {
			r.wakeAt(r.due(s, c))
		}
		if len(round) == maxRound {
			r.wake = time.Time{}
			return errFull
		}
		return nil
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return round, err
}

// sendAll tries each report once and records what came of it, in one commit.
func (r *Reporter) sendAll(ctx context.Context, round []waiting, now time.Time) error {
	settled := make([]bool, len(round))
	var senders errgroup.Group
	senders.SetLimit(maxLookups)
	for i, w := range round {
		senders.Go(func() error {
			settled[i] = r.send(ctx, w, now)
			return nil
		})
	}
	_ = senders.Wait() // nobody returns an error
	b := store.NewBatch()
	b.UseReserve = true
	octets := 0
	for i, w := range round {
		if settled[i] {
			b.Delete(w.key())
			continue
		}
		r.wakeAt(w.count.Sending.Next)
		value, err := w.count.encode()
		if err != nil {
			return err
		}
		if octets += len(value); octets > batchOctets {
			if _, err := r.deps.Store.Commit(context.WithoutCancel(ctx), b); err != nil {
				return err
			}
			b, octets = store.NewBatch(), len(value)
			b.UseReserve = true
		}
		b.Put(w.key(), value)
	}
	_, err := r.deps.Store.Commit(context.WithoutCancel(ctx), b)
	return err
}

// send tries a report at every receiver that has not got it. It reports true
// when there is nothing left to do.
func (r *Reporter) send(ctx context.Context, w waiting, now time.Time) (settled bool) {
	state := w.count.Sending
	if state == nil {
		state = &sending{}
		w.count.Sending = state
	}
	state.Last = ""
	receivers, err := r.receivers(ctx, w.domain)
	if err == nil && len(receivers) == 0 {
		r.log.Info("TLS report is not wanted any more", "domain", w.domain, "day", w.day.String())
		return true
	}
	packed, failed := r.reportOf(w.subject, w.count).compressed()
	err = errors.Join(err, failed)
	if err == nil {
		for _, to := range receivers {
			if slices.Contains(state.Done, to.String()) {
				continue
			}
			failed := r.sendTo(ctx, w.subject, to, packed, now)
			if failed == nil && len(to.String()) <= maxURIOctets {
				state.Done = append(state.Done, to.String())
			}
			err = errors.Join(err, failed)
		}
	}
	if err == nil {
		return true
	}
	if ctx.Err() != nil { // it is we who stop
		return false
	}
	state.Attempts++
	state.Last = plain(err.Error(), maxWhyOctets)
	state.Next = now.Add(min(firstRetry<<min(state.Attempts-1, 10), maxRetry))
	if state.Attempts < maxAttempts {
		r.record(w.subject, "deferred", "", err.Error())
		return false
	}
	r.counts.givenUp.Inc()
	r.record(w.subject, "given up", "", err.Error())
	return true
}

// maxURIOctets is how long the URI of a receiver may be to be remembered.
const maxURIOctets = 500

// sendTo brings a report to one receiver.
func (r *Reporter) sendTo(ctx context.Context, s subject, to Receiver, packed []byte, now time.Time) error {
	var id mail.QueueID
	var err error
	method := "mail"
	if to.URL != "" {
		method = "https"
		err = r.poster.post(ctx, to.URL, packed)
	} else {
		envelope, message := r.compose(s, to.Mail, packed, now)
		id, err = r.deps.Mailer.Send(ctx, envelope, message)
	}
	if err != nil {
		r.counts.reports.WithLabelValues(method, "failed").Inc()
		return fmt.Errorf("%s: %w", to, err)
	}
	r.counts.reports.WithLabelValues(method, "sent").Inc()
	r.record(s, "sent", id, to.String())
	return nil
}

// record logs and audits what became of a report.
func (r *Reporter) record(s subject, result string, id mail.QueueID, detail string) {
	r.log.Info("TLS report "+result, "domain", s.domain, "day", s.day.String(), "qid", id, "detail", detail)
	if r.deps.Audit != nil {
		r.deps.Audit.Record(mail.Event{
			Kind: mail.EventTLSReport, Result: result, Service: "tlsrpt", Queue: id, Peer: s.domain,
			Detail: r.id(s) + ": " + detail,
		})
	}
}

package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/store"
)

// maxRound bounds the reports whose counts are in memory at once.
const maxRound = 64

// waiting is a report that is to be sent.
type waiting struct {
	subject
	count *count
}

// sendDue sends the reports whose time has come.
func (r *Reporter) sendDue(ctx context.Context) {
	if !r.wake.Passed(time.Now()) {
		return
	}
	for ctx.Err() == nil {
		now := time.Now()
		round, err := r.round().Due(ctx, now)
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

// round chooses among the reports of past days.
func (r *Reporter) round() dailyreport.Round[waiting] {
	return dailyreport.Round[waiting]{
		Submitter: r.cfg.Submitter, Wake: &r.wake, Most: maxRound, Scan: r.past,
		State: func(w waiting) (day, *dailyreport.Sending) { return w.day, w.count.Sending },
	}
}

// past goes through what was counted before today. What is damaged is told of
// and passed over.
func (r *Reporter) past(ctx context.Context, today day, look func(waiting) error) error {
	return store.Scan(ctx, r.deps.Store, lo(0), lo(today), 100, func(_ store.Snapshot, key, value []byte) error {
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
		return look(waiting{s, c})
	})
}

// sendAll tries each report once and records what came of it, in one commit.
func (r *Reporter) sendAll(ctx context.Context, round []waiting, now time.Time) error {
	settled := dailyreport.Each(round, maxLookups, func(w waiting) bool { return r.send(ctx, w, now) })
	b := store.NewBatch()
	b.UseReserve = true
	octets := 0
	for i, w := range round {
		if settled[i] {
			b.Delete(w.key())
			continue
		}
		r.wake.At(w.count.Sending.Next)
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
		state = &dailyreport.Sending{}
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
		names := make([]string, len(receivers))
		for i, to := range receivers {
			names[i] = to.String()
		}
		err = state.Try(names, func(i int) error { return r.sendTo(ctx, w.subject, receivers[i], packed, now) })
	}
	if err == nil {
		return true
	}
	if ctx.Err() != nil { // it is we who stop
		return false
	}
	last := state.Failed(err, now)
	if !last {
		r.record(w.subject, "deferred", "", err.Error())
		return false
	}
	r.counts.givenUp.Inc()
	r.record(w.subject, "given up", "", err.Error())
	return true
}

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
			Detail: r.cfg.ID(s.day, s.domain) + ": " + detail,
		})
	}
}

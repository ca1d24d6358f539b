package dmarcrpt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dmarc"
	"github.com/postern-mail/postern/store"
)

// maxRound bounds the reports of one round; there is one each minute, so that a
// day with very many domains does not flood the queue.
const maxRound = 60

// waiting is a report that is to be sent.
type waiting struct {
	subject
	head *head
}

// sendDue sends a round of the reports whose time has come.
func (r *Reporter) sendDue(ctx context.Context) {
	now := time.Now()
	if !r.wake.Passed(now) {
		return
	}
	round, err := r.round().Due(ctx, now)
	if err != nil {
		r.log.Error("DMARC reports cannot be read", "err", err)
		return
	}
	if err := r.sendAll(ctx, round, now); err != nil {
		r.log.Error("DMARC reports cannot be recorded as sent", "err", err)
	}
}

// round chooses among the reports of past days.
func (r *Reporter) round() dailyreport.Round[waiting] {
	return dailyreport.Round[waiting]{
		Submitter: r.cfg.Submitter, Wake: &r.wake, Most: maxRound,
		Scan: func(ctx context.Context, today day, look func(waiting) error) error {
			return r.scan(ctx, lo(0), lo(today), look)
		},
		State: func(w waiting) (day, *dailyreport.Sending) { return w.day, w.head.Sending },
	}
}

// scan goes through the heads of reports. Damaged ones are told of and passed
// over.
func (r *Reporter) scan(ctx context.Context, lo, hi []byte, look func(waiting) error) error {
	return store.Scan(ctx, r.deps.Store, lo, hi, 100, func(_ store.Snapshot, key, value []byte) error {
		s, shard, err := parseKey(key)
		if err != nil {
			r.log.Error("record in the place of DMARC reports", "err", err)
			return nil
		}
		if shard != headShard {
			return nil
		}
		h, err := decodeHead(value)
		if err != nil {
			r.log.Error("DMARC report cannot be read", "domain", s.domain, "day", s.day.String(), "err", err)
			return nil
		}
		return look(waiting{s, h})
	})
}

// sendAll tries each report once and records what came of it.
func (r *Reporter) sendAll(ctx context.Context, round []waiting, now time.Time) error {
	if len(round) == 0 {
		return nil
	}
	settled := dailyreport.Each(round, maxSenders, func(w waiting) bool { return r.send(ctx, w, now) })
	b := store.NewBatch()
	b.UseReserve = true
	for i, w := range round {
		if settled[i] {
			b.DeleteRange(w.lo(), w.hi())
			continue
		}
		if w.head.Sending == nil {
			continue // it is we who stop
		}
		r.wake.At(w.head.Sending.Next)
		value, err := w.head.encode()
		if err != nil {
			return err
		}
		b.Put(w.key(headShard), value)
	}
	if len(b.Ops) == 0 {
		return nil
	}
	_, err := r.deps.Store.Commit(context.WithoutCancel(ctx), b)
	return err
}

// send tries a report at every address that has not got it. It reports true
// when there is nothing left to do.
func (r *Reporter) send(ctx context.Context, w waiting, now time.Time) (settled bool) {
	state := dailyreport.Sending{}
	if w.head.Sending != nil {
		state = *w.head.Sending
	}
	state.Last = ""
	receivers, err := r.receivers(ctx, w.domain)
	if err == nil && len(receivers) == 0 {
		r.log.Info("DMARC report is not wanted any more", "domain", w.domain, "day", w.day.String())
		return true
	}
	packed, failed := r.compressed(ctx, w.subject, w.head.Published)
	if err = errors.Join(err, failed); err == nil {
		names := make([]string, len(receivers))
		for i, to := range receivers {
			names[i] = to.Address.String()
		}
		err = state.Try(names, func(i int) error { return r.sendTo(ctx, w.subject, receivers[i], packed, now) })
	}
	if err == nil {
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	last := state.Failed(err, now)
	w.head.Sending = &state
	if !last {
		r.record(w.subject, "deferred", "", err.Error())
		return false
	}
	r.counts.givenUp.Inc()
	r.record(w.subject, "given up", "", err.Error())
	return true
}

// receivers asks where a domain wants its reports, and leaves out who does not
// want them. An error means that nobody knows.
func (r *Reporter) receivers(ctx context.Context, domain string) ([]dmarc.ReportURI, error) {
	if slices.Contains(r.cfg.Exclude, domain) {
		return nil, nil
	}
	record, err := r.deps.Records.Lookup(ctx, domain)
	if err != nil || record == nil {
		return nil, err
	}
	var all []dmarc.ReportURI
	for _, to := range record.Aggregate {
		if slices.Contains(r.cfg.Exclude, string(to.Address.Domain)) {
			continue
		}
		wanted, err := r.deps.Records.Authorized(ctx, domain, to)
		if err != nil {
			return nil, err
		}
		if !wanted {
			r.log.Info("address does not want DMARC reports of another organization", "domain", domain, "address", to.Address.String())
			continue
		}
		all = append(all, to)
	}
	return all, nil
}

// sendTo brings a report to one address, or the news that it is too large.
func (r *Reporter) sendTo(ctx context.Context, s subject, to dmarc.ReportURI, packed []byte, now time.Time) error {
	envelope, message := r.compose(s, to.Address, packed, now)
	result := "sent"
	if to.MaxOctets > 0 && int64(len(message)) > to.MaxOctets {
		result = "too large"
		envelope, message = r.tooLarge(s, to.Address, len(message), to.MaxOctets, now)
	}
	id, err := r.deps.Mailer.Send(ctx, envelope, message)
	if err != nil {
		r.counts.reports.WithLabelValues("failed").Inc()
		return fmt.Errorf("%s: %w", to.Address, err)
	}
	r.counts.reports.WithLabelValues(result).Inc()
	r.record(s, result, id, to.Address.String())
	return nil
}

// record logs and audits what became of a report.
func (r *Reporter) record(s subject, result string, id mail.QueueID, detail string) {
	r.log.Info("DMARC report "+result, "domain", s.domain, "day", s.day.String(), "qid", id, "detail", detail)
	if r.deps.Audit != nil {
		r.deps.Audit.Record(mail.Event{
			Kind: mail.EventDMARC, Result: result, Service: "dmarcrpt", Queue: id, Peer: s.domain,
			Detail: r.cfg.ID(s.day, s.domain) + ": " + detail,
		})
	}
}

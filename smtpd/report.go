package smtpd

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// The results of messages in metrics and audit.
const (
	resultAccepted  = "accepted"
	resultHeld      = "held"
	resultDiscarded = "discarded"
	resultRefused   = "refused"
	resultDeferred  = "deferred"
	resultCopied    = "copied" // in audit only
)

func resultOf(err error) string {
	if status.ReplyOf(err).Permanent() {
		return resultRefused
	}
	return resultDeferred
}

// report logs, counts and audits a message that was answered 250. The queue's
// record of the acceptance tells who gets it; this one tells whose it is, who
// was named, and what granted relaying.
func (t *transaction) report() {
	result := resultAccepted
	switch {
	case t.decision.Discard:
		result = resultDiscarded
	case t.decision.Hold:
		result = resultHeld
	}
	took := time.Since(t.tx.Started)
	t.session.handler.count.message(result)
	t.session.handler.count.received(t.tx.Octets, took)
	e := t.session.event(mail.EventPolicy)
	from := t.tx.Envelope.ReversePath
	e.Result, e.Phase, e.Stage, e.Queue, e.From, e.To = result, t.tx.Phase.String(), t.decision.PermittedBy, t.tx.QueueID, &from, t.named()
	e.MessageID, e.Octets, e.Duration = t.messageID, t.tx.Octets, took
	e.Detail, e.Steps = t.rewritten.detail(from), t.steps
	if more := t.changed.detail(); more != "" {
		e.Detail = strings.TrimPrefix(e.Detail+"; "+more, "; ")
	}
	t.session.handler.deps.Audit.Record(e)
	if result != resultDiscarded {
		t.recordCopies()
	}
	t.log("message "+result, "", nil)
}

// recordCopies audits who got the message without being named.
func (t *transaction) recordCopies() {
	for _, c := range t.rewritten.copies {
		e := t.session.event(mail.EventPolicy)
		from := t.tx.Envelope.ReversePath
		e.Result, e.Stage, e.Queue, e.From, e.To = resultCopied, c.By, t.tx.QueueID, &from, []mail.Address{c.To}
		t.session.handler.deps.Audit.Record(e)
	}
}

// recordRefusal audits what was refused or put off, unless the chain did.
func (t *transaction) recordRefusal(err error, to []mail.Address) {
	t.session.refused++
	if t.audited {
		return
	}
	e := t.session.event(mail.EventPolicy)
	from, reply := t.tx.Envelope.ReversePath, status.ReplyOf(err)
	e.Result, e.Reason, e.Reply, e.Detail = resultOf(err), status.Of(err).String(), reply.String(), err.Error()
	e.Queue, e.From, e.To, e.Phase, e.Octets = t.tx.QueueID, &from, to, t.tx.Phase.String(), t.tx.Octets
	t.session.handler.deps.Audit.Record(e)
	if t.tx.Phase == mail.PhaseRecipient {
		t.session.handler.deps.Logger.Info("recipient not accepted", t.session.keys("qid", t.tx.QueueID,
			"from", from.String(), "rcpt", to[0].String(), "reason", e.Reason, "reply", e.Reply, "error", err)...)
	}
}

// named returns the accepted recipients as RCPT named them.
func (t *transaction) named() []mail.Address {
	addresses := make([]mail.Address, len(t.tx.Envelope.Recipients))
	for i, r := range t.tx.Envelope.Recipients {
		addresses[i] = r.Accepted
	}
	return addresses
}

// log writes the transaction's line.
func (t *transaction) log(what, reason string, err error) {
	keys := t.session.keys("qid", t.tx.QueueID, "from", t.tx.Envelope.ReversePath.String(),
		"rcpt", len(t.tx.Envelope.Recipients), "refused", t.refused, "octets", t.tx.Octets, "dur", time.Since(t.tx.Started))
	if reason != "" {
		keys = append(keys, "reason", reason)
	}
	if err != nil {
		keys = append(keys, "reply", status.ReplyOf(err).String(), "error", err)
	}
	keys = append(keys, forwardedKeys(t.tx.Client.Forwarded)...)
	t.session.handler.deps.Logger.Info(what, keys...)
}

// forwardedKeys names, by Postfix's names, whom a content filter has the message
// from.
func forwardedKeys(f *mail.Forwarded) []any {
	if f == nil {
		return nil
	}
	name, address := cmp.Or(f.Name, "unknown"), cmp.Or(f.Address, "unknown")
	keys := []any{"orig_client", name + "[" + address + "]"}
	if f.QueueID != "" {
		keys = append(keys, "orig_queue_id", f.QueueID)
	}
	if f.Helo != "" {
		keys = append(keys, "orig_helo", f.Helo)
	}
	return keys
}

// counters are the room's metrics, labels resolved. A nil *counters counts
// nothing.
type counters struct {
	sessions   prometheus.Counter
	open       prometheus.Gauge
	messages   map[string]prometheus.Counter
	recipients map[bool]prometheus.Counter
	octets     prometheus.Counter
	seconds    prometheus.Observer
	slowed     prometheus.Counter
}

// newCounters registers the metrics, or finds them registered by a handler
// before this one.
func newCounters(registry prometheus.Registerer, service string) (*counters, error) {
	if registry == nil {
		return nil, nil
	}
	r := registrar{registry: registry}
	c := &counters{
		sessions:   r.counter("gateway_smtpd_sessions_total", "Sessions begun.", "service").WithLabelValues(service),
		open:       r.gauge("gateway_smtpd_sessions_open", "Sessions open now.", "service").WithLabelValues(service),
		octets:     r.counter("gateway_smtpd_message_octets_total", "Octets of messages answered 250.", "service").WithLabelValues(service),
		seconds:    r.histogram("gateway_smtpd_transaction_seconds", "Time from MAIL to the 250 for the message.", "service").WithLabelValues(service),
		slowed:     r.counter("gateway_smtpd_slowed_total", "Answers held back by in_flow_delay.", "service").WithLabelValues(service),
		messages:   map[string]prometheus.Counter{},
		recipients: map[bool]prometheus.Counter{},
	}
	messages := r.counter("gateway_smtpd_messages_total", "Messages received, by what became of them.", "service", "result")
	for _, result := range []string{resultAccepted, resultHeld, resultDiscarded, resultRefused, resultDeferred} {
		c.messages[result] = messages.WithLabelValues(service, result)
	}
	recipients := r.counter("gateway_smtpd_recipients_total", "Recipients named, by answer.", "service", "result")
	c.recipients[true] = recipients.WithLabelValues(service, resultAccepted)
	c.recipients[false] = recipients.WithLabelValues(service, resultRefused)
	return c, r.err
}

// registrar registers collectors and keeps the first error.
type registrar struct {
	registry prometheus.Registerer
	err      error
}

func register[C prometheus.Collector](r *registrar, c C) C {
	err := r.registry.Register(c)
	var known prometheus.AlreadyRegisteredError
	if errors.As(err, &known) {
		if existing, ok := known.ExistingCollector.(C); ok {
			return existing
		}
	}
	if err != nil && r.err == nil {
		r.err = err
	}
	return c
}

func (r *registrar) counter(name, help string, labels ...string) *prometheus.CounterVec {
	return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

func (r *registrar) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels))
}

func (r *registrar) histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
	}, labels))
}

func (c *counters) sessionBegins() {
	if c != nil {
		c.sessions.Inc()
		c.open.Inc()
	}
}

func (c *counters) sessionEnds() {
	if c != nil {
		c.open.Dec()
	}
}

func (c *counters) recipient(accepted bool) {
	if c != nil {
		c.recipients[accepted].Inc()
	}
}

func (c *counters) heldBack() {
	if c != nil {
		c.slowed.Inc()
	}
}

func (c *counters) message(result string) {
	if c != nil {
		c.messages[result].Inc()
	}
}

func (c *counters) received(octets int64, took time.Duration) {
	if c != nil {
		c.octets.Add(float64(octets))
		c.seconds.Observe(took.Seconds())
	}
}

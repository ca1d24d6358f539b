package policy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
)

// The results of decisions in log, audit and metrics.
const (
	resultPermitted = "permitted"
	resultRefused   = "refused"
	resultDeferred  = "deferred"
	resultWarned    = "warned"
	resultHeld      = "held"
	resultDiscarded = "discarded"
	resultInformed  = "informed"
	resultFiltered  = "filtered"
	resultRedirect  = "redirected"
	resultCopied    = "copied"
)

// resultOf names what a verdict that neither permits nor refuses does.
func resultOf(v *mail.Verdict) string {
	for _, e := range v.Edits {
		switch {
		case e.Route != nil:
			return resultFiltered
		case e.Redirect != nil:
			return resultRedirect
		case e.Copy != nil:
			return resultCopied
		}
	}
	if v.Info {
		return resultInformed
	}
	return resultWarned
}

// report logs, counts and audits one decision.
func (r *run) report(result string, v mail.Verdict) {
	if r.quiet {
		return
	}
	var reply, reason string
	if v.Action == mail.Reject || v.Action == mail.DeferIfPermit {
		reply, reason = v.WireReply().String(), v.Reason.String()
	}
	r.chain.counter.decided(v.Stage, string(r.current.name), result)
	r.chain.deps.Logger.Info(result,
		r.keys("list", string(r.current.name), "stage", v.Stage, "reason", reason, "reply", reply, "detail", v.Detail)...)
	e := r.event(result, reason, reply, v)
	if result == resultRefused || result == resultDeferred {
		e.Steps = r.session.Audited(r.tx)
	}
	r.chain.deps.Audit.Record(e)
}

func (r *run) event(result, reason, reply string, v mail.Verdict) mail.Event {
	tx := r.tx
	e := mail.Event{
		Kind:    mail.EventPolicy,
		Result:  result,
		Reason:  reason,
		Service: tx.Client.Listener,
		Session: tx.Client.Session,
		Queue:   tx.QueueID,
		Remote:  tx.Client.Remote,
		Client:  tx.Client.Hostname, Helo: tx.Client.Helo, Protocol: tx.Client.Protocol(),
		Stage:  v.Stage,
		Phase:  tx.Phase.String(),
		Reply:  reply,
		Detail: v.Detail,
	}
	if tx.Client.Identity != nil {
		e.Login = tx.Client.Identity.Authentication
	}
	if tx.Phase >= mail.PhaseMail {
		from := tx.Envelope.ReversePath
		e.From = &from
	}
	if tx.Recipient != nil {
		e.To = []mail.Address{tx.Recipient.Address}
	}
	return e
}

// keys returns the log keys of the transaction, followed by more.
func (r *run) keys(more ...any) []any {
	tx := r.tx
	keys := append(make([]any, 0, 14+len(more)), "sid", tx.Client.Session, "remote", tx.Client.Peer())
	if tx.QueueID != "" {
		keys = append(keys, "qid", tx.QueueID)
	}
	if tx.Client.Helo != "" {
		keys = append(keys, "helo", tx.Client.Helo)
	}
	if tx.Client.Identity != nil {
		keys = append(keys, "login", tx.Client.Identity.Authentication)
	}
	if tx.Phase >= mail.PhaseMail {
		keys = append(keys, "from", tx.Envelope.ReversePath.String())
	}
	if tx.Recipient != nil {
		keys = append(keys, "rcpt", tx.Recipient.Address.String())
	}
	return append(keys, more...)
}

// counters are the room's metrics. A nil *counters counts nothing.
type counters struct {
	decisions *prometheus.CounterVec
	permits   prometheus.Counter
}

// newCounters registers the metrics. Chains of several listeners, and of
// configurations that follow each other, share them.
func newCounters(registry prometheus.Registerer) (*counters, error) {
	if registry == nil {
		return nil, nil
	}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_policy_decisions_total",
		Help: "Decisions of policy stages, by stage, restriction list and result.",
	}, []string{"stage", "list", "result"})
	if err := registry.Register(vec); err != nil {
		known, ok := err.(prometheus.AlreadyRegisteredError)
		if !ok {
			return nil, err
		}
		vec = known.ExistingCollector.(*prometheus.CounterVec)
	}
	return &counters{decisions: vec, permits: vec.WithLabelValues("", "", resultPermitted)}, nil
}

func (c *counters) decided(stage, list, result string) {
	if c != nil {
		c.decisions.WithLabelValues(stage, list, result).Inc()
	}
}

func (c *counters) permitted() {
	if c != nil {
		c.permits.Inc()
	}
}

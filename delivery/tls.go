package delivery

import (
	"context"
	"time"

	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// planTime bounds what it takes to learn how one host must be protected.
const planTime = 60 * time.Second

// Rule returns what the target asks of connections that no rule in Policies is
// about.
func (t Target) Rule() tlspolicy.Rule {
	level := t.TLS
	switch {
	case level == "" && t.ImplicitTLS:
		level = tlspolicy.Verify
	case level == "" && t.byMX():
		level = tlspolicy.DANE
	}
	return tlspolicy.Rule{Level: level, Match: t.TLSMatch, CAFile: t.CAFile, ServerName: t.ServerName, MTASTS: !t.IgnoreMTASTS}
}

// demandOf returns what the sender of a message asks of its way. A report on a
// message that required TLS is better sent without than lost (RFC 8689 section
// 5): of it nothing more is asked than of other mail.
func demandOf(e *mail.Envelope) tlspolicy.Demand {
	switch {
	case e.RequireTLS && !e.ReversePath.IsNull():
		return tlspolicy.Required
	case e.TLSOptional && !e.RequireTLS:
		return tlspolicy.Optional
	default:
		return tlspolicy.AsPolicy
	}
}

// asksRequireTLS reports whether a message goes over c with REQUIRETLS. One
// that needs it goes nowhere without, but for a mailbox server of our own,
// which is the end of the way, and for reports.
func (p *Pool) asksRequireTLS(e *mail.Envelope, c *smtp.Client) bool {
	return e.RequireTLS && (c.OffersRequireTLS() || demandOf(e) == tlspolicy.Required && !p.cfg.Client.LMTP)
}

// planned returns e with its plan made for a demand.
func (e Endpoint) planned(ctx context.Context, what tlspolicy.Demand) (Endpoint, error) {
	if e.Plan == nil {
		return e, nil
	}
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	plan, err := e.Plan(ctx, what)
	e.plan = plan
	return e, err
}

// same reports whether a connection to e will do for o: it leads to the same
// place, is protected in the same way and authenticated as the same.
func (e Endpoint) same(o Endpoint) bool {
	return e.Network == o.Network && e.Address == o.Address && e.Host == o.Host && e.login == o.login && e.planKey() == o.planKey()
}

func (e Endpoint) planKey() string {
	if e.plan == nil {
		return ""
	}
	return e.plan.Key()
}

// protect makes cfg what the plan asks for.
func protect(cfg smtp.ClientConfig, plan *tlspolicy.Plan) smtp.ClientConfig {
	switch plan.Level {
	case tlspolicy.None:
		cfg.TLS = smtp.ClientTLSNone
	case tlspolicy.May:
		cfg.TLS = smtp.ClientTLSMay
	default:
		cfg.TLS = smtp.ClientTLSEncrypt // what else is asked for, Verify checks
	}
	cfg.ServerName = plan.ServerName
	if plan.Authenticates() {
		cfg.TLSConfig = cfg.TLSConfig.Clone()
		cfg.TLSConfig.VerifyConnection = plan.Verify
		// A resumed session shows the certificate of the first one, not the one
		// the server would show now.
		cfg.TLSConfig.ClientSessionCache = nil
	}
	return cfg
}

// protectionFailed reports whether a server was reached and did not meet the
// plan: for another destination it may be good enough.
func protectionFailed(err error) bool {
	reason := status.Of(err)
	return reason == status.PeerNotTrusted || reason == status.PeerNeedsTLS
}

// unprotected is the error of a host that did not meet the plan, for a demand:
// where the sender requires protection that is final once no host is left.
func unprotected(err error, what tlspolicy.Demand) error {
	if what == tlspolicy.Required && protectionFailed(err) {
		return status.New(status.RequireTLSUnmet, err)
	}
	return err
}

// noteTLS keeps how a new connection is protected, for outcomes, and logs it.
func (p *Pool) noteTLS(c *Conn) {
	plan := c.endpoint.plan
	if plan == nil {
		return
	}
	state, encrypted := c.Client.TLS()
	if encrypted {
		c.tls = plan.Describe(&state)
		p.log.Info("TLS connection", "remote", c.endpoint.String(), "tls", c.tls, "why", plan.Why)
	}
	if plan.Testing == nil {
		return
	}
	err := error(tlspolicy.NoSTARTTLS)
	if encrypted {
		err = plan.Testing.Verify(state)
	}
	if err != nil {
		p.log.Warn("connection would fail if the policy were not being tested", "remote", c.endpoint.String(),
			"why", plan.Testing.Why, "reason", tlspolicy.FailureOf(err).Error(), "err", err)
	}
}

package mailauth

import (
	"errors"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/mail"
)

// counters are the room's metrics. A nil *counters counts nothing. All labels
// come from closed sets.
type counters struct {
	results  *prometheus.CounterVec
	policies *prometheus.CounterVec
}

// newCounters registers the metrics. The restrictions of several lists, and of
// configurations that follow each other, share them.
func newCounters(registry prometheus.Registerer) (*counters, error) {
	if registry == nil {
		return nil, nil
	}
	c := &counters{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_mailauth_results_total", Help: "Results of iprev, auth, SPF, DKIM, ARC and DMARC, as restrictions found them.",
		}, []string{"method", "result"}),
		policies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gateway_mailauth_dmarc_applied_total", Help: "Messages that failed DMARC, by the policy their domain asks for and what was done.",
		}, []string{"policy", "applied"}),
	}
	for _, metric := range []**prometheus.CounterVec{&c.results, &c.policies} {
		var known prometheus.AlreadyRegisteredError
		switch err := registry.Register(*metric); {
		case errors.As(err, &known):
			*metric = known.ExistingCollector.(*prometheus.CounterVec)
		case err != nil:
			return nil, err
		}
	}
	return c, nil
}

var (
	knownMethods = []string{"iprev", "auth", "spf", "dkim", "arc", "dmarc"}
	knownResults = []string{"none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"}
)

func (c *counters) found(f mail.Finding) {
	if c != nil && slices.Contains(knownMethods, f.Method) && slices.Contains(knownResults, f.Result) {
		c.results.WithLabelValues(f.Method, f.Result).Inc()
	}
}

func (c *counters) applied(policy, what string) {
	if c != nil {
		c.policies.WithLabelValues(policy, what).Inc()
	}
}

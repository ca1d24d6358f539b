package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"time"

	"github.com/postern-mail/postern/delivery/tlspolicy"
)

// report is a report as RFC 8460 section 4.4 writes it.
type report struct {
	Organization string         `json:"organization-name"`
	Range        dateRange      `json:"date-range"`
	Contact      string         `json:"contact-info"`
	ID           string         `json:"report-id"`
	Policies     []policyResult `json:"policies"`
}

type dateRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

type policyResult struct {
	Policy   policy    `json:"policy"`
	Summary  summary   `json:"summary"`
	Failures []failure `json:"failure-details,omitempty"`
}

type policy struct {
	Type   tlspolicy.PolicyType `json:"policy-type"`
	Text   []string             `json:"policy-string,omitempty"`
	Domain string               `json:"policy-domain"`
	MX     []string             `json:"mx-host,omitempty"`
}

type summary struct {
	Succeeded int64 `json:"total-successful-session-count"`
	Failed    int64 `json:"total-failure-session-count"`
}

type failure struct {
	Result tlspolicy.Failure `json:"result-type"`
	Local  string            `json:"sending-mta-ip,omitempty"`
	Host   string            `json:"receiving-mx-hostname,omitempty"`
	Helo   string            `json:"receiving-mx-helo,omitempty"`
	Remote string            `json:"receiving-ip,omitempty"`
	N      int64             `json:"failed-session-count"`
	Why    string            `json:"failure-reason-code,omitempty"`
}

// reportOf writes what was counted about a subject as a report.
func (r *Reporter) reportOf(s subject, c *count) report {
	all := report{
		Organization: r.cfg.Organization, Contact: r.cfg.Contact, ID: r.cfg.ID(s.day, s.domain),
		Range:    dateRange{s.day.Start(), s.day.Last()},
		Policies: []policyResult{},
	}
	for _, p := range c.Policies {
		result := policyResult{
			Policy:  policy{p.Type, p.Text, s.domain, p.MX},
			Summary: summary{p.Succeeded, p.Failed},
		}
		for _, d := range p.Details {
			result.Failures = append(result.Failures, failure{d.Result, d.Local, d.Host, d.Helo, d.Remote, d.N, d.Why})
		}
		all.Policies = append(all.Policies, result)
	}
	return all
}

func (a report) json() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(a)
	return b.Bytes(), err
}

// compressed returns the report in gzip.
func (a report) compressed() ([]byte, error) {
	text, err := a.json()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(text); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

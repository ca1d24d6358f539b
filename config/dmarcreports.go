package config

import (
	"strings"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/mailauth/dmarcrpt"
)

// DMARCReports says who reports to other domains about mail in their name.
type DMARCReports struct {
	block
	Organization string        `conf:"organization" required:"who reports, such as \"Example Ltd\"" doc:"Name of the organisation, for the report."`
	Contact      mail.Address  `conf:"contact" required:"an address at which people of other domains reach you" doc:"Whom to write to about a report."`
	From         mail.Address  `conf:"from" doc:"Address that reports are sent from. Empty: contact."`
	Exclude      []mail.Domain `conf:"exclude" doc:"Domains that get no reports: those that publish a policy, or those of the addresses for reports."`
}

// DMARCReports returns who reports on DMARC; the zero Config where nobody does.
func (f *File) DMARCReports() dmarcrpt.Config {
	if f.Gateway == nil || f.Gateway.DMARC == nil || f.Gateway.DMARC.Reports == nil {
		return dmarcrpt.Config{}
	}
	r := f.Gateway.DMARC.Reports
	c := dmarcrpt.Config{
		Submitter: dailyreport.Submitter{Organization: r.Organization, Contact: r.Contact.String(), From: r.From, Hostname: f.Hostname},
		Exclude:   texts(r.Exclude),
	}
	if c.From.IsNull() {
		c.From = r.Contact
	}
	return c
}

func (c checker) dmarcReports(r *DMARCReports) {
	if r == nil {
		return
	}
	for _, a := range []struct {
		name    string
		address mail.Address
	}{{"contact", r.Contact}, {"from", r.From}} {
		if !a.address.IsNull() && (a.address.Domain == "" || !a.address.IsASCII()) {
			c.errorf(r.rangeOf(a.name), "Wrong value", "%s is the address postmasters elsewhere write to: LOCAL@DOMAIN in ASCII.", a.name)
		}
	}
	if strings.TrimSpace(r.Organization) == "" && r.wrote("organization") {
		c.errorf(r.rangeOf("organization"), "Wrong value", "organization is empty.")
	}
}

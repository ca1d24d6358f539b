package config

import (
	"strings"

	"github.com/postern-mail/postern/delivery/tlsrpt"
	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/mail"
)

// TLSReports says who reports to other domains about the TLS of their servers.
type TLSReports struct {
	block
	Organization string       `conf:"organization" required:"who reports, such as \"Example Ltd\"" doc:"Name of the organisation, for the report."`
	Contact      mail.Address `conf:"contact" required:"an address at which people of other domains reach you" doc:"Whom to write to about a report."`
	From         mail.Address `conf:"from" doc:"Address that reports are sent from. Empty: contact."`
}

func (t *TLSReports) room(f *File) tlsrpt.Config {
	c := tlsrpt.Config{Submitter: dailyreport.Submitter{Organization: t.Organization, Contact: t.Contact.String(), From: t.From, Hostname: f.Hostname}}
	if c.From.IsNull() {
		c.From = t.Contact
	}
	return c
}

// TLSReports returns who reports on TLS; the zero Config where nobody does.
func (f *File) TLSReports() tlsrpt.Config {
	if f.Gateway == nil || f.Gateway.TLSReports == nil {
		return tlsrpt.Config{}
	}
	return f.Gateway.TLSReports.room(f)
}

func (c checker) tlsReports(t *TLSReports) {
	if t == nil {
		return
	}
	for _, a := range []struct {
		name    string
		address mail.Address
	}{{"contact", t.Contact}, {"from", t.From}} {
		if !a.address.IsNull() && (a.address.Domain == "" || !a.address.IsASCII()) {
			c.errorf(t.rangeOf(a.name), "Wrong value", "%s is the address postmasters elsewhere write to: LOCAL@DOMAIN in ASCII.", a.name)
		}
	}
	if strings.TrimSpace(t.Organization) == "" && t.wrote("organization") {
		c.errorf(t.rangeOf("organization"), "Wrong value", "organization is empty.")
	}
}

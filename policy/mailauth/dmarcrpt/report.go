package dmarcrpt

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/postern-mail/postern/store"
)

// The elements of appendix C, in its order.
type (
	metadata struct {
		Organization string    `xml:"org_name"`
		Email        string    `xml:"email"`
		ID           string    `xml:"report_id"`
		Range        dateRange `xml:"date_range"`
	}
	dateRange struct {
		Begin int64 `xml:"begin"`
		End   int64 `xml:"end"`
	}
	policyPublished struct {
		Domain  string `xml:"domain"`
		ADKIM   string `xml:"adkim"`
		ASPF    string `xml:"aspf"`
		Policy  string `xml:"p"`
		Sub     string `xml:"sp"`
		Percent int    `xml:"pct"`
		FO      string `xml:"fo"`
	}
	record struct {
		Row struct {
			Client    string    `xml:"source_ip"`
			Count     int64     `xml:"count"`
			Evaluated evaluated `xml:"policy_evaluated"`
		} `xml:"row"`
		Identifiers struct {
			EnvelopeFrom string `xml:"envelope_from"`
			HeaderFrom   string `xml:"header_from"`
		} `xml:"identifiers"`
		Results struct {
			DKIM []dkimResult `xml:"dkim"`
			SPF  spfResult    `xml:"spf"`
		} `xml:"auth_results"`
	}
	evaluated struct {
		Disposition string    `xml:"disposition"`
		DKIM        string    `xml:"dkim"`
		SPF         string    `xml:"spf"`
		Reason      *override `xml:"reason"`
	}
	override struct {
		Type    string `xml:"type"`
		Comment string `xml:"comment,omitempty"`
	}
	dkimResult struct {
		Domain   string `xml:"domain"`
		Selector string `xml:"selector,omitempty"`
		Result   string `xml:"result"`
	}
	spfResult struct {
		Domain string `xml:"domain"`
		Scope  string `xml:"scope"`
		Result string `xml:"result"`
	}
)

func passed(yes bool) string {
	if yes {
		return "pass"
	}
	return "fail"
}

func alignment(strict bool) string {
	if strict {
		return "s"
	}
	return "r"
}

// record returns a row as appendix C writes it.
func (r *row) record() record {
	var out record
	out.Row.Client, out.Row.Count = r.Client, r.N
	out.Row.Evaluated = evaluated{Disposition: r.Disposition, DKIM: passed(r.DKIM), SPF: passed(r.SPF)}
	if r.Override != "" {
		out.Row.Evaluated.Reason = &override{r.Override, r.Comment}
	}
	out.Identifiers.EnvelopeFrom, out.Identifiers.HeaderFrom = r.MailFrom, r.HeaderFrom
	for _, s := range r.Signatures {
		out.Results.DKIM = append(out.Results.DKIM, dkimResult{s.Domain, s.Selector, s.Result})
	}
	out.Results.SPF = spfResult{r.Sender.Domain, r.Scope, r.Sender.Result}
	return out
}

// writeXML writes a report as it is in the store now, row by row.
func (r *Reporter) writeXML(ctx context.Context, w io.Writer, s subject, p published) error {
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	root := xml.StartElement{Name: xml.Name{Local: "feedback"}}
	if err := e.EncodeToken(root); err != nil {
		return err
	}
	subdomains, failures := p.Subdomains, p.Failures
	if subdomains == "" {
		subdomains = p.Policy
	}
	if failures == "" {
		failures = "0"
	}
	for _, part := range []struct {
		name  string
		value any
	}{
		{"version", "1.0"},
		{"report_metadata", metadata{r.cfg.Organization, r.cfg.Contact, r.cfg.ID(s.day, s.domain), dateRange{s.day.Start().Unix(), s.day.Last().Unix()}}},
		{"policy_published", policyPublished{s.domain, alignment(p.StrictDKIM), alignment(p.StrictSPF), p.Policy, subdomains, p.Percent, failures}},
	} {
		if err := e.EncodeElement(part.value, xml.StartElement{Name: xml.Name{Local: part.name}}); err != nil {
			return err
		}
	}
	err := r.eachRow(ctx, s, func(one *row) error {
		return e.EncodeElement(one.record(), xml.StartElement{Name: xml.Name{Local: "record"}})
	})
	if err != nil {
		return err
	}
	if err := e.EncodeToken(root.End()); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// eachRow goes through the rows of a report.
func (r *Reporter) eachRow(ctx context.Context, s subject, each func(*row) error) error {
	return store.Scan(ctx, r.deps.Store, s.lo(), s.hi(), 8, func(_ store.Snapshot, key, value []byte) error {
		if _, shard, err := parseKey(key); err != nil || shard == headShard {
			return err
		}
		c, err := decodeRows(value)
		if err != nil {
			r.log.Error("counts for a DMARC report cannot be read", "domain", s.domain, "day", s.day.String(), "err", err)
			return nil
		}
		for _, one := range c.Rows {
			if err := each(one); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxPacked bounds a report in gzip; what is larger nobody takes by mail.
const maxPacked = 20 << 20

// compressed returns the report in gzip.
func (r *Reporter) compressed(ctx context.Context, s subject, p published) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := r.writeXML(ctx, z, s, p); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() > maxPacked {
		return nil, fmt.Errorf("the report has %d octets", b.Len())
	}
	return b.Bytes(), nil
}

// text returns the report as XML.
func (r *Reporter) text(ctx context.Context, s subject, p published) (string, error) {
	var b strings.Builder
	err := r.writeXML(ctx, &b, s, p)
	return b.String(), err
}

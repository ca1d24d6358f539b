package tlsrpt

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// maxReceivers bounds the places one domain's reports go to.
const maxReceivers = 3

// Receiver is a place that a domain wants its reports at.
type Receiver struct {
	Mail mail.Address // the null address for one by HTTPS
	URL  string
}

// String returns the receiver's URI.
func (r Receiver) String() string {
	if r.URL != "" {
		return r.URL
	}
	return "mailto:" + r.Mail.String()
}

// parseRecord returns the receivers that the TXT records at _smtp._tls.domain
// name (RFC 8460 section 3): nobody unless exactly one of them is a TLSRPT
// record. URIs of other schemes, and malformed ones, are left out.
func parseRecord(texts []string) []Receiver {
	var record string
	for _, text := range texts {
		if version, _, _ := strings.Cut(text, ";"); strings.TrimRight(version, " \t") == "v=TLSRPTv1" {
			if record != "" {
				return nil
			}
			record = text
		}
	}
	for _, field := range strings.Split(record, ";")[1:] {
		name, value, _ := strings.Cut(field, "=")
		if strings.TrimSpace(name) == "rua" {
			return parseReceivers(value)
		}
	}
	return nil
}

func parseReceivers(list string) []Receiver {
	var all []Receiver
	for text := range strings.SplitSeq(list, ",") {
		if r, err := parseReceiver(strings.TrimSpace(text)); err == nil {
			if all = append(all, r); len(all) == maxReceivers {
				break
			}
		}
	}
	return all
}

func parseReceiver(text string) (Receiver, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Receiver{}, err
	}
	switch {
	case strings.EqualFold(u.Scheme, "https") && u.Hostname() != "" && u.User == nil:
		u.Fragment = ""
		return Receiver{URL: u.String()}, nil
	case strings.EqualFold(u.Scheme, "mailto"):
		decoded, err := url.PathUnescape(u.Opaque)
		if err != nil {
			return Receiver{}, err
		}
		address, err := mail.ParseAddress(decoded)
		if err == nil && !address.IsASCII() {
			err = fmt.Errorf("receiver %q is not ASCII", text) // reports do without SMTPUTF8
		}
		return Receiver{Mail: address}, err
	default:
		return Receiver{}, fmt.Errorf("receiver %q is neither a mailto nor an https URI", text)
	}
}

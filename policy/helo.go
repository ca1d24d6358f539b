package policy

import (
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// rejectInvalidHelo refuses a HELO argument that is neither a host name nor
// an address, with or without the brackets of a literal. Names are judged as
// loosely as Postfix does: an underscore and a single label pass.
func rejectInvalidHelo(tx *mail.Transaction) mail.Verdict {
	helo := tx.Client.Helo
	if helo == "" {
		return mail.Verdict{}
	}
	if _, err := netip.ParseAddr(helo); err == nil {
		return mail.Verdict{}
	}
	switch _, err := mail.ParseDomain(helo); {
	case err != nil && strings.HasPrefix(helo, "["):
		return aboutHelo.refuse(tx, mail.Reject, status.HeloInvalid, "invalid ip address")
	case err != nil || strings.Trim(helo, "0123456789.") == "":
		return aboutHelo.refuse(tx, mail.Reject, status.HeloInvalid, "Invalid name")
	}
	return mail.Verdict{}
}

// rejectUnqualifiedHelo refuses a HELO argument that is not a name with a dot.
// A literal is checked for its form, not for being a name.
func rejectUnqualifiedHelo(tx *mail.Transaction) mail.Verdict {
	helo := tx.Client.Helo
	if helo == "" {
		return mail.Verdict{}
	}
	domain, err := mail.ParseDomain(helo)
	switch {
	case err != nil && strings.HasPrefix(helo, "["):
		return aboutHelo.refuse(tx, mail.Reject, status.HeloInvalid, "invalid ip address")
	case err != nil || !qualified(domain):
		return aboutHelo.say(tx, mail.Reject, status.HeloNotQualified)
	}
	return mail.Verdict{}
}

// qualified reports whether d can be looked up anywhere: it has a dot, and is
// not all digits like an address without its brackets. Literals pass.
func qualified(d mail.Domain) bool {
	if d.IsLiteral() {
		return true
	}
	dot := strings.LastIndexByte(string(d), '.')
	if dot < 0 {
		return false
	}
	return strings.Trim(string(d[dot+1:]), "0123456789") != ""
}

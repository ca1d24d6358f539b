package directory

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"golang.org/x/net/idna"
)

// claim is what one value of an address attribute says: an address, or with an
// empty local-part a whole domain (catch-all).
type claim struct {
	address mail.Address
	primary bool // marked "SMTP:"
}

// parseClaim reads a value of an address attribute. It is false for values
// that are no mail address: X.500 and SIP addresses, junk.
func parseClaim(v string) (claim, bool) {
	v = strings.TrimSpace(v)
	var c claim
	if prefix, rest, found := strings.Cut(v, ":"); found && !strings.HasPrefix(v, `"`) {
		if !strings.EqualFold(prefix, "smtp") {
			return claim{}, false
		}
		c.primary = prefix == "SMTP"
		v = rest
	}
	if domain, ok := strings.CutPrefix(v, "@"); ok {
		d, err := mail.ParseDomain(domain)
		c.address.Domain = d
		return c, err == nil
	}
	a, err := mail.ParseAddress(v)
	c.address = a
	return c, err == nil
}

// claims returns what the entry's values of attributes say, in order.
func claims(e Entry, attributes []string) []claim {
	var all []claim
	for _, name := range attributes {
		for _, v := range e.Values(name) {
			if c, ok := parseClaim(v); ok {
				all = append(all, c)
			}
		}
	}
	return all
}

// addressSpellings returns the texts under which a directory may hold an
// address: the domain in its A-label form, and in U-labels if it has them.
func addressSpellings(a mail.Address) []string {
	local := ""
	if a.Local != "" {
		local = a.Local.String()
	}
	spellings := []string{local + "@" + string(a.Domain)}
	if strings.Contains(string(a.Domain), "xn--") {
		if unicode, err := idna.Display.ToUnicode(string(a.Domain)); err == nil {
			spellings = append(spellings, local+"@"+unicode)
		}
	}
	return spellings
}

// addresses returns the addresses of an account, the primary one first and the
// rest in the attributes' order.
func (d *Directory) addresses(e Entry) []mail.Address {
	var list []mail.Address
	best, bestRank := -1, 0
	for i, name := range d.mapping.AddressAttributes {
		for _, c := range claims(e, []string{name}) {
			if c.address.Local == "" || slices.Contains(list, c.address) {
				continue
			}
			rank := d.primaryRank(c, i)
			list = append(list, c.address)
			if best < 0 || rank < bestRank || rank == bestRank && c.address.String() < list[best].String() {
				best, bestRank = len(list)-1, rank
			}
		}
	}
	for _, c := range d.localPartClaims(e, d.mapping.LocalPartAttributes) {
		if !slices.ContainsFunc(list, func(a mail.Address) bool { return a.Fold() == c.address.Fold() }) {
			list = append(list, c.address)
		}
	}
	if best > 0 {
		primary := list[best]
		list = slices.Insert(slices.Delete(list, best, best+1), 0, primary)
	}
	return list
}

// primaryRank orders an account's addresses: those marked as primary, then by
// attribute, then by the order of the configured domains. LDAP values have no
// order of their own, so ties go by name, the same on every server.
func (d *Directory) primaryRank(c claim, attribute int) int {
	if c.primary {
		return -1
	}
	domain := slices.Index(d.cfg.Domains, c.address.Domain)
	if domain < 0 {
		domain = len(d.cfg.Domains)
	}
	return attribute*(len(d.cfg.Domains)+1) + domain
}

// parseQuota reads a mailbox limit in octets: digits and an optional unit. A
// value without a unit counts in unit octets. Junk and "unlimited" give 0.
func parseQuota(v string, unit int64) int64 {
	v = strings.TrimSpace(v)
	digits := len(v)
	for i := 0; i < len(v); i++ {
		if v[i] < '0' || v[i] > '9' {
			digits = i
			break
		}
	}
	n, err := strconv.ParseInt(v[:digits], 10, 64)
	if err != nil {
		return 0
	}
	switch suffix, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(v[digits:])), ","); suffix {
	case "":
	case "S", "B": // maildir++ writes octets as "S"
		unit = 1
	case "K", "KB", "KIB":
		unit = 1 << 10
	case "M", "MB", "MIB":
		unit = 1 << 20
	case "G", "GB", "GIB":
		unit = 1 << 30
	case "T", "TB", "TIB":
		unit = 1 << 40
	default:
		return 0
	}
	if n > (1<<62)/unit {
		return 0
	}
	return n * unit
}

// parseMessageQuota reads the limit of messages in the notation of Maildir++,
// "1000000S,5000C"; 0 when there is none.
func parseMessageQuota(v string) int64 {
	for part := range strings.SplitSeq(v, ",") {
		digits, counts := strings.CutSuffix(strings.ToUpper(strings.TrimSpace(part)), "C")
		if n, err := strconv.ParseInt(digits, 10, 64); counts && err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// parseExpiry reads GeneralizedTime (RFC 4517 section 3.3.13) or AD's FILETIME.
// It is false when the value is neither or means never.
func parseExpiry(v string) (time.Time, bool) {
	for _, layout := range []string{"20060102150405Z0700", "20060102150405.999999999Z0700", "200601021504Z0700", "2006010215Z0700"} {
		if t, err := time.Parse(layout, v); err == nil {
			return t, true
		}
	}
	const neverExpires = 1<<63 - 1
	ticks, err := strconv.ParseInt(v, 10, 64)
	if err != nil || ticks <= 0 || ticks == neverExpires {
		return time.Time{}, false
	}
	const ticksPerSecond, secondsTo1970 = 10_000_000, 11_644_473_600
	return time.Unix(ticks/ticksPerSecond-secondsTo1970, ticks%ticksPerSecond*100), true
}

// cutExtension splits a local-part at the first delimiter. It is false when
// there is none, and for the names that programs of ours own (RFC 5321 section
// 4.5.1; Postfix keeps the same ones whole).
func (d *Directory) cutExtension(a mail.Address) (base mail.Address, extension string, ok bool) {
	if d.cfg.RecipientDelimiter == "" || a.Local == "" {
		return a, "", false
	}
	local := string(a.Local)
	switch strings.ToLower(local) {
	case "mailer-daemon", "double-bounce", "postmaster":
		return a, "", false
	}
	at := strings.IndexAny(local, d.cfg.RecipientDelimiter)
	if at <= 0 {
		return a, "", false
	}
	return mail.Address{Local: a.Local[:at], Domain: a.Domain}, local[at:], true
}

package config

import (
	"net/url"
	"strings"

	"github.com/postern-mail/postern/directory"
)

// impliedBase returns the base of a directory that does not write one: FreeIPA,
// Active Directory and most others name their tree after a domain (RFC 2247), and
// the service account and the URIs by which servers are found tell which. It is
// "" when neither does. Nobody is asked.
func (d *Directory) impliedBase() string {
	if base := domainSuffix(d.BindDN); base != "" {
		return base
	}
	for _, uri := range d.URIs {
		if base := discoveredBase(uri); base != "" {
			return base
		}
	}
	return ""
}

// discoveredBase returns the base of "srv:example.com" and
// "ldaps:///dc=example,dc=com".
func discoveredBase(uri string) string {
	if domain, ok := strings.CutPrefix(strings.ToLower(uri), "srv:"); ok && domain != "" {
		return "dc=" + strings.ReplaceAll(strings.TrimSuffix(domain, "."), ".", ",dc=")
	}
	if _, rest, ok := strings.Cut(uri, ":///"); ok {
		dn, _, _ := strings.Cut(rest, "?")
		if text, err := url.PathUnescape(dn); err == nil {
			return domainSuffix(text)
		}
	}
	return ""
}

// domainSuffix returns the dc= parts at the end of a DN, or "" when it has none
// or is none: an account may also be written as user@domain.
func domainSuffix(dn string) string {
	if _, err := directory.ParseDN(dn); err != nil {
		return ""
	}
	suffix := ""
	for rest := directory.DN(dn).Key(); rest != ""; rest = directory.ParentKey(rest) {
		if !strings.HasPrefix(rest, "dc=") {
			suffix = ""
		} else if suffix == "" {
			suffix = rest
		}
	}
	return suffix
}

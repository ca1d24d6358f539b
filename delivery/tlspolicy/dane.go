package tlspolicy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/dns"
)

// The numbers of TLSA records (RFC 7218).
const (
	usageTA      = 2
	usageEE      = 3
	selectCert   = 0
	selectKey    = 1
	matchFull    = 0
	matchSHA256  = 1
	matchSHA512  = 2
	maxTLSA      = 100     // more records than that are not looked at
	maxTLSAOctet = 1 << 14 // of one record
)

// usable returns the records that count: usage 2 and 3 only (RFC 7672 section
// 3.1.3), well formed, and of those that differ in the digest alone only the
// ones with the strongest (RFC 7671 section 9).
func usable(records []dns.TLSA) []dns.TLSA {
	type kind struct{ usage, selector uint8 }
	strongest := make(map[kind]uint8)
	var good []dns.TLSA
	for _, r := range records[:min(len(records), maxTLSA)] {
		if wellFormed(r) {
			good = append(good, r)
			k := kind{r.Usage, r.Selector}
			strongest[k] = max(strongest[k], r.MatchingType)
		}
	}
	var counting []dns.TLSA
	for _, r := range good {
		if r.MatchingType == matchFull || r.MatchingType == strongest[kind{r.Usage, r.Selector}] {
			counting = append(counting, r)
		}
	}
	// Servers shuffle; equal sets must give equal plans.
	slices.SortFunc(counting, func(a, b dns.TLSA) int {
		return cmp.Or(cmp.Compare(a.Usage, b.Usage), cmp.Compare(a.Selector, b.Selector),
			cmp.Compare(a.MatchingType, b.MatchingType), bytes.Compare(a.Data, b.Data))
	})
	return counting
}

func wellFormed(r dns.TLSA) bool {
	if r.Usage != usageTA && r.Usage != usageEE || r.Selector != selectCert && r.Selector != selectKey {
		return false
	}
	switch r.MatchingType {
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	case matchFull:
		var err error
		if len(r.Data) > maxTLSAOctet {
			return false
		}
		if r.Selector == selectCert {
			_, err = x509.ParseCertificate(r.Data)
		} else {
			_, err = x509.ParsePKIXPublicKey(r.Data)
		}
		return err == nil
	default:
		return false
	}
}

// verifyTLSA checks certs, the server's own first, against usable records.
// With usage 3 the key is all that counts: neither names nor dates (RFC 7672
// section 3.1.1). With usage 2 the authority issues the certificate, which
// must be valid now and have one of names (section 3.1.2).
func verifyTLSA(certs []*x509.Certificate, records []dns.TLSA, names []string, now time.Time) error {
	failed := fmt.Errorf("%w: no TLSA record matches", ValidationFailure)
	for _, r := range records {
		if r.Usage == usageEE {
			if associated(certs[0], r) {
				return nil
			}
			continue
		}
		for _, authority := range authorities(certs, r) {
			roots := x509.NewCertPool()
			roots.AddCert(authority)
			err := verifyChain(certs, roots, names, now)
			if err == nil {
				return nil
			}
			failed = err
		}
	}
	return failed
}

// authorities returns the certificates that a record of usage 2 makes trusted:
// those the server sent, and the one the record holds itself.
func authorities(certs []*x509.Certificate, r dns.TLSA) []*x509.Certificate {
	var found []*x509.Certificate
	for _, c := range certs[1:] {
		if associated(c, r) {
			found = append(found, c)
		}
	}
	if len(found) == 0 && r.MatchingType == matchFull && r.Selector == selectCert {
		if c, err := x509.ParseCertificate(r.Data); err == nil {
			found = append(found, c)
		}
	}
	return found
}

// associated reports whether the record is about the certificate (RFC 6698
// section 2.1).
func associated(cert *x509.Certificate, r dns.TLSA) bool {
	data := cert.Raw
	if r.Selector == selectKey {
		data = cert.RawSubjectPublicKeyInfo
	}
	switch r.MatchingType {
	case matchSHA256:
		sum := sha256.Sum256(data)
		return bytes.Equal(sum[:], r.Data)
	case matchSHA512:
		sum := sha512.Sum512(data)
		return bytes.Equal(sum[:], r.Data)
	default:
		return bytes.Equal(data, r.Data)
	}
}

package dns

import (
	"fmt"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// maxRecords bounds the answer section that is looked at. Nobody who means it
// publishes so much; a part of it would be a lie.
const maxRecords = 1000

// reading is what one message says about a name.
type reading struct {
	outcome    Outcome
	records    []wire.RR
	canonical  string
	aliases    int
	unfinished bool // it ends at an alias, canonical, that must be asked about
	ttl        time.Duration
	octets     int
}

// read takes the answer for name out of m: aliases from name on, and the
// records of qtype at their end. Whatever else m holds is left alone.
func read(m *wire.Msg, name string, qtype uint16) (reading, error) {
	if len(m.Answer) > maxRecords {
		return reading{}, fmt.Errorf("%w: %d records", ErrBadAnswer, len(m.Answer))
	}
	r := reading{canonical: name, octets: m.Len()}
	ttl := uint32(maxTTL)
	for {
		for _, rr := range m.Answer {
			if h := rr.Header(); h.Rrtype == qtype && h.Class == wire.ClassINET && strings.EqualFold(h.Name, r.canonical) {
				r.records = append(r.records, rr)
				ttl = min(ttl, life(h.Ttl))
			}
		}
		target, targetTTL := alias(m, r.canonical, qtype)
		if len(r.records) > 0 || target == "" {
			break
		}
		ttl = min(ttl, life(targetTTL))
		r.canonical = strings.ToLower(target)
		if r.aliases++; r.aliases > maxAliases {
			return reading{}, ErrAliasLoop
		}
	}
	if len(r.records) == 0 {
		if err := r.nothing(m, &ttl); err != nil {
			return reading{}, err
		}
	}
	r.ttl = time.Duration(ttl) * time.Second
	return r, nil
}

// maxTTL is the largest TTL there is; what is larger counts as none (RFC 2181
// section 8).
const maxTTL = 1<<31 - 1

func life(ttl uint32) uint32 {
	if ttl > maxTTL {
		return 0
	}
	return ttl
}

// alias returns where name is an alias for, or "".
func alias(m *wire.Msg, name string, qtype uint16) (target string, ttl uint32) {
	if qtype == wire.TypeCNAME {
		return "", 0
	}
	for _, rr := range m.Answer {
		if c, ok := rr.(*wire.CNAME); ok && strings.EqualFold(c.Hdr.Name, name) {
			return c.Target, c.Hdr.Ttl
		}
	}
	return "", 0
}

// nothing says which kind of nothing an answer without records is, and how
// long it holds: as long as the zone's SOA says (RFC 2308 section 5).
func (r *reading) nothing(m *wire.Msg, ttl *uint32) error {
	var soa *wire.SOA
	delegation := false
	for _, rr := range m.Ns {
		switch rr := rr.(type) {
		case *wire.SOA:
			if wire.IsSubDomain(rr.Hdr.Name, r.canonical) {
				soa = rr
			}
		case *wire.NS:
			delegation = true
		}
	}
	r.outcome = NoData
	if m.Rcode == wire.RcodeNameError {
		r.outcome = NXDomain
	}
	switch {
	case r.outcome == NoData && r.aliases == 0 && slices.ContainsFunc(m.Answer, meant):
		return fmt.Errorf("%w: records of another name or type", ErrBadAnswer)
	case soa != nil:
		*ttl = min(*ttl, life(soa.Hdr.Ttl), life(soa.Minttl))
	case r.outcome == NoData && r.aliases > 0:
		// The server did not follow the alias itself.
		r.unfinished = true
	case r.outcome == NoData && (delegation || !m.RecursionAvailable && !m.Authoritative):
		return fmt.Errorf("%w: a referral", ErrBadAnswer)
	default:
		*ttl = 0 // RFC 2308 section 5: not to be kept
	}
	return nil
}

// meant reports whether a record is there for its own sake and not to sign
// another.
func meant(rr wire.RR) bool { return rr.Header().Rrtype != wire.TypeRRSIG }

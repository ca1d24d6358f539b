package dns

import (
	"context"
	"encoding/hex"
	"net/netip"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// MX returns the mail exchangers of a domain, in no order. The name is taken
// as absolute, as in all methods but Addresses and those named Lookup.
func (r *Resolver) MX(ctx context.Context, name string) (Answer[MX], error) {
	return records(ctx, r, name, wire.TypeMX, func(rr *wire.MX) (MX, bool) {
		return MX{rr.Preference, withoutDot(rr.Mx)}, true
	})
}

// NS returns the name servers of a zone, in no order.
func (r *Resolver) NS(ctx context.Context, name string) (Answer[string], error) {
	return records(ctx, r, name, wire.TypeNS, func(rr *wire.NS) (string, bool) {
		return withoutDot(rr.Ns), true
	})
}

// TXT returns the texts of a name, each with its strings joined.
func (r *Resolver) TXT(ctx context.Context, name string) (Answer[string], error) {
	return records(ctx, r, name, wire.TypeTXT, func(rr *wire.TXT) (string, bool) {
		return unescape(strings.Join(rr.Txt, "")), true
	})
}

// TLSA returns the certificate associations of a name such as
// "_25._tcp.mx.example.com". Where the answer is not Secure they mean nothing.
func (r *Resolver) TLSA(ctx context.Context, name string) (Answer[TLSA], error) {
	return records(ctx, r, name, wire.TypeTLSA, func(rr *wire.TLSA) (TLSA, bool) {
		data, err := hex.DecodeString(rr.Certificate)
		return TLSA{rr.Usage, rr.Selector, rr.MatchingType, data}, err == nil
	})
}

// CNAME returns the alias that stands at the name itself, without following it.
func (r *Resolver) CNAME(ctx context.Context, name string) (Answer[string], error) {
	return records(ctx, r, name, wire.TypeCNAME, func(rr *wire.CNAME) (string, bool) {
		return withoutDot(rr.Target), true
	})
}

// PTR returns the names of an address. What the hosts file says comes before
// the DNS, and is not Secure.
func (r *Resolver) PTR(ctx context.Context, addr netip.Addr) (Answer[string], error) {
	addr = addr.Unmap()
	if known := r.system.names(addr); known != nil {
		return Answer[string]{Records: known, Expires: time.Now().Add(recheck)}, nil
	}
	name, err := wire.ReverseAddr(addr.WithZone("").String())
	if err != nil {
		return Answer[string]{Outcome: NXDomain}, nil // the zero Addr has no name
	}
	return records(ctx, r, name, wire.TypePTR, func(rr *wire.PTR) (string, bool) {
		return withoutDot(rr.Ptr), true
	})
}

// Addresses returns the IPv4 and IPv6 addresses of a host. A name without a
// final dot is tried with the search list of resolv.conf. What the hosts file
// says comes before the DNS, and is not Secure. When one family cannot be
// learned, the other's addresses are the answer; there is none without any.
func (r *Resolver) Addresses(ctx context.Context, name string) (Answer[netip.Addr], error) {
	_, conf := r.system.servers()
	var answer Answer[netip.Addr]
	var err error
	for _, candidate := range conf.candidates(name) {
		if known := r.system.addresses(strings.ToLower(candidate)); known != nil {
			return Answer[netip.Addr]{Records: known, Canonical: withoutDot(candidate), Expires: time.Now().Add(recheck)}, nil
		}
		answer, err = r.bothFamilies(ctx, candidate)
		if err != nil || answer.Outcome == Found {
			return answer, err
		}
	}
	return answer, nil
}

// bothFamilies asks for A and AAAA at once.
func (r *Resolver) bothFamilies(ctx context.Context, name string) (Answer[netip.Addr], error) {
	var v6 Answer[netip.Addr]
	var failed6 error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6, failed6 = r.AAAA(ctx, name)
	}()
	v4, failed4 := r.A(ctx, name)
	<-done
	switch {
	case failed4 != nil && failed6 == nil && v6.Outcome == Found:
		return v6, nil
	case failed6 != nil && failed4 == nil && v4.Outcome == Found:
		return v4, nil
	case failed4 != nil:
		return v4, failed4
	case failed6 != nil:
		return v6, failed6
	case v4.Outcome == Found && v6.Outcome == Found:
		v4.Records = append(v6.Records, v4.Records...)
		v4.Secure = v4.Secure && v6.Secure
		v4.Expires = earlier(v4.Expires, v6.Expires)
		return v4, nil
	case v6.Outcome == Found:
		return v6, nil
	default:
		return v4, nil
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// records looks up one type and returns its records as pick sees them; what it
// does not take is left out.
func records[R wire.RR, T any](ctx context.Context, r *Resolver, name string, qtype uint16, pick func(R) (T, bool)) (Answer[T], error) {
	res, err := r.lookup(ctx, name, qtype)
	if err != nil {
		return Answer[T]{}, err
	}
	a := Answer[T]{Outcome: res.outcome, Canonical: withoutDot(res.canonical), Secure: res.secure, Expires: res.expires}
	for _, rr := range res.records {
		if typed, ok := rr.(R); ok {
			if record, ok := pick(typed); ok {
				a.Records = append(a.Records, record)
			}
		}
	}
	if a.Outcome == Found && len(a.Records) == 0 {
		return Answer[T]{}, key{name, qtype}.failed(ErrBadAnswer)
	}
	return a, nil
}

func withoutDot(name string) string { return strings.TrimSuffix(name, ".") }

// unescape undoes the presentation format in which the wire library hands out
// text: \DDD and \X.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]) {
			c = (s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0'
			i += 3
		} else if c == '\\' && i+1 < len(s) {
			i++
			c = s[i]
		}
		out = append(out, c)
	}
	return string(out)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

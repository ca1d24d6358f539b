package tlsrpt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/dns"
)

const (
	// postTime bounds one report by HTTPS as a whole, dialTime one address.
	postTime    = 30 * time.Second
	dialTime    = 6 * time.Second
	maxAddress  = 3
	maxResponse = 16 << 10 // of an answer that nobody reads
)

// poster brings reports to HTTPS receivers. Strangers name them, so it goes to
// public addresses only.
type poster struct {
	resolver Resolver
	private  bool // other addresses will do, too
	client   *http.Client
}

func newPoster(resolver Resolver, roots *x509.CertPool, private bool) *poster {
	p := &poster{resolver: resolver, private: private}
	p.client = &http.Client{
		Timeout:       postTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            p.dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    dialTime,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxResponse,
		},
	}
	return p
}

// post sends a report (RFC 8460 section 5.4).
func (p *poster) post(ctx context.Context, url string, packed []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(packed))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/tlsrpt+gzip")
	req.Header.Set("User-Agent", "Postern")
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The answer's text matters to nobody; an error in it changes nothing.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponse))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("receiver answered %s", resp.Status)
	}
	return nil
}

var errNotPublic = errors.New("address is not public")

func (p *poster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := p.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTime}
	err = fmt.Errorf("host %s has no address", host)
	for _, a := range addresses[:min(len(addresses), maxAddress)] {
		if !p.private && !public(a) {
			err = fmt.Errorf("%s: %w", a, errNotPublic)
			continue
		}
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (p *poster) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	found, err := p.resolver.Addresses(ctx, host+".")
	if err == nil && found.Outcome != dns.Found {
		err = fmt.Errorf("host %s: %v", host, found.Outcome)
	}
	return found.Records, err
}

// shared are networks that are global unicast by form and public to nobody:
// carrier NAT (RFC 6598), protocol assignments, benchmarks and the like (RFC
// 6890).
var shared = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"),
}

func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range shared {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

package tlspolicy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/dns"
)

const (
	// fetchTime bounds a fetch as a whole; mail waits for it.
	fetchTime = 20 * time.Second
	// dialTime bounds one address, maxPolicyAddresses how many are tried.
	dialTime           = 6 * time.Second
	maxPolicyAddresses = 3
)

// fetcher gets policies from their hosts.
type fetcher struct {
	port     string
	resolver Resolver
	client   *http.Client
}

func newFetcher(port string, roots *x509.CertPool, resolver Resolver) *fetcher {
	f := &fetcher{port: port, resolver: resolver}
	f.client = &http.Client{
		// RFC 8461 section 3.3: redirects are not followed, nothing is cached.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            f.dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    dialTime,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}
	return f
}

// fetch gets the policy of a domain. Errors wrap STSPolicyFetchError,
// STSWebPKIInvalid or STSPolicyInvalid.
func (f *fetcher) fetch(ctx context.Context, domain string) (text string, policy *STSPolicy, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	url := "https://" + net.JoinHostPort("mta-sts."+domain, f.port) + "/.well-known/mta-sts.txt"
	if f.port == "443" {
		url = "https://mta-sts." + domain + "/.well-known/mta-sts.txt"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", STSPolicyFetchError, err)
	}
	req.Header.Set("Accept", "text/plain")
	resp, err := f.client.Do(req)
	if err != nil {
		return "", nil, fetchFailed(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("%w: %s", STSPolicyFetchError, resp.Status)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return "", nil, fmt.Errorf("%w: Content-Type is not text/plain", STSPolicyInvalid)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPolicyOctets+1))
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", STSPolicyFetchError, err)
	}
	policy, err = parseSTSPolicy(string(body))
	return string(body), policy, err
}

func fetchFailed(err error) error {
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return fmt.Errorf("%w: %w", STSWebPKIInvalid, err)
	}
	return fmt.Errorf("%w: %w", STSPolicyFetchError, err)
}

// dial connects to a policy host by our own resolver, at one address after the
// other.
func (f *fetcher) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	found, err := f.resolver.Addresses(ctx, host+".")
	if err == nil && found.Outcome != dns.Found {
		err = fmt.Errorf("host %s: %v", host, found.Outcome)
	}
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTime}
	for _, addr := range found.Records[:min(len(found.Records), maxPolicyAddresses)] {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, net.JoinHostPort(addr.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// Resolver asks the DNS; *dns.Resolver is one.
type Resolver interface {
	TLSA(ctx context.Context, name string) (dns.Answer[dns.TLSA], error)
	CNAME(ctx context.Context, name string) (dns.Answer[string], error)
	TXT(ctx context.Context, name string) (dns.Answer[string], error)
	Addresses(ctx context.Context, name string) (dns.Answer[netip.Addr], error)
}

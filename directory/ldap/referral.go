package ldap

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/status"
)

// maxReferrals bounds how far referrals lead, one after another; RFC 4511
// section 4.1.10 asks for a bound against loops.
const maxReferrals = 5

// referralsOf returns the URLs of a referral (RFC 4511 section 4.1.10), which
// the library leaves in the packet.
func referralsOf(err error) []string {
	var result *goldap.Error
	if !errors.As(err, &result) || result.ResultCode != goldap.LDAPResultReferral || result.Packet == nil || len(result.Packet.Children) < 2 {
		return nil
	}
	var uris []string
	for _, part := range result.Packet.Children[1].Children {
		if part.ClassType != ber.ClassContext || part.Tag != 3 {
			continue
		}
		for _, uri := range part.Children {
			if uri.Data != nil {
				uris = append(uris, uri.Data.String())
			}
		}
	}
	return uris
}

// listed returns the server of Config.ChaseReferrals that an LDAP URL names, or
// nil.
func (c *Client) listed(uri string) *server {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" {
		return nil
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"ldap": "389", "ldaps": "636"}[strings.ToLower(u.Scheme)]
	}
	for _, s := range c.chased {
		at, err := url.Parse(s.uri)
		if err != nil || !strings.EqualFold(at.Scheme, u.Scheme) || !strings.EqualFold(at.Hostname(), u.Hostname()) {
			continue
		}
		if strings.HasSuffix(s.address, ":"+port) {
			return s
		}
	}
	return nil
}

// listedOf returns those of the URLs that may be followed.
func (c *Client) listedOf(uris []string) (listed []string) {
	if len(c.chased) == 0 {
		return nil
	}
	for _, uri := range uris {
		if c.listed(uri) != nil {
			listed = append(listed, uri)
		}
	}
	return listed
}

// referred is a request that goes on at another server.
type referred struct {
	server  *server
	request directory.Request
}

func (r referred) key() string {
	return strings.Join([]string{r.server.uri, r.request.Base.Key(), r.request.Scope.String(), r.request.Filter.String()}, "\n")
}

// chase follows the references of an answer to the listed servers and returns
// the entries of all. What cannot be asked leaves no answer at all: a part that
// is missing must not pass for the whole. A reference that leads back to what
// was asked already ends there.
func (c *Client) chase(ctx context.Context, req directory.Request, first found) ([]directory.Entry, error) {
	entries := first.entries
	seen := map[string]bool{}
	have := map[string]bool{}
	for _, e := range entries {
		have[e.DN.Key()] = true
	}
	next, circle := first.elsewhere, false
	for hop := 0; len(next) > 0; hop++ {
		if hop == maxReferrals {
			return nil, status.Errorf(status.DirectoryDown, "referrals lead through more than %d servers", maxReferrals)
		}
		step := next
		next = nil
		for _, uri := range step {
			to, ok := c.follow(uri, req)
			if !ok {
				return nil, status.Errorf(status.DirectoryDown, "the server refers to %.200q, which makes no sense", uri)
			}
			if seen[to.key()] {
				circle = true
				continue
			}
			seen[to.key()] = true
			part, err := try(ctx, c, to.server, searches, func(l *goldap.Conn) (found, error) { return c.search(l, to.request) })
			if err != nil && !errors.Is(err, directory.ErrNoSuchBase) {
				return nil, fmt.Errorf("referred to %s: %w", to.server.uri, err)
			}
			for _, e := range part.entries {
				if key := e.DN.Key(); !have[key] {
					have[key] = true
					entries = append(entries, e)
				}
			}
			if req.SizeLimit > 0 && len(entries) > req.SizeLimit {
				return nil, fmt.Errorf("%w (%d)", directory.ErrSizeLimit, req.SizeLimit)
			}
			next = append(next, part.elsewhere...)
		}
	}
	if circle && len(entries) == 0 {
		return nil, status.Errorf(status.DirectoryDown, "referrals lead in a circle")
	}
	return entries, nil
}

// follow returns the request that an LDAP URL stands for: what it leaves out is
// as in req (RFC 4511 section 4.5.3).
func (c *Client) follow(uri string, req directory.Request) (referred, bool) {
	s := c.listed(uri)
	if s == nil {
		return referred{}, false
	}
	u, err := url.Parse(uri)
	if err != nil {
		return referred{}, false
	}
	to := referred{server: s, request: req}
	if base := strings.TrimPrefix(u.Path, "/"); base != "" {
		dn, err := directory.ParseDN(base)
		if err != nil {
			return referred{}, false
		}
		to.request.Base = dn
	}
	// attributes ? scope ? filter ? extensions; only the scope may be another.
	if fields := strings.Split(u.RawQuery, "?"); len(fields) > 1 {
		if scope, err := directory.ParseScope(fields[1]); err == nil {
			to.request.Scope = scope
		}
	}
	return to, true
}

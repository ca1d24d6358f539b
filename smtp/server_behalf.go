package smtp

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// XCLIENT and XFORWARD are Postfix's: https://www.postfix.org/XCLIENT_README.html
// and https://www.postfix.org/XFORWARD_README.html. A filter or proxy tells whose
// mail it brings, as the client's own (XCLIENT) or for the log (XFORWARD).

// Attributes, in the order Postfix announces them.
const (
	xclientAttributes  = "NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT"
	xforwardAttributes = "NAME ADDR PROTO HELO SOURCE PORT IDENT"
)

const (
	unavailable    = "[UNAVAILABLE]"
	tempUnavail    = "[TEMPUNAVAIL]"
	maxBehalfValue = 255 // octets, as a domain name
)

// mayClaim reports whether the session's peer is in one of the networks. What
// XCLIENT said of the client does not count here, what a PROXY header said does.
func (s *serverSession) mayClaim(networks []netip.Prefix) bool {
	addr := s.peer.Addr().Unmap().WithZone("")
	return addr.IsValid() && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// attribute is one of XCLIENT or XFORWARD. The value is "" when it is not
// available; later tells that it may be.
type attribute struct {
	name, value string
	later       bool
}

// parseAttributes reads NAME=value, as often as there are, where value is xtext.
func parseAttributes(arg, known string) ([]attribute, error) {
	names := strings.Fields(known)
	var all []attribute
	for word := range strings.FieldsSeq(arg) {
		name, value, found := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		if !found || !slices.Contains(names, name) {
			return nil, status.Errorf(status.SyntaxError, "attribute %q", word)
		}
		if len(all) == 4*len(names) {
			return nil, status.Errorf(status.SyntaxError, "too many attributes")
		}
		decoded, err := decodeXtext(value)
		if err != nil || decoded == "" || len(decoded) > maxBehalfValue {
			return nil, badAttribute(name, value)
		}
		a := attribute{name: name, value: decoded}
		if upper := strings.ToUpper(decoded); upper == unavailable || upper == tempUnavail {
			a.value, a.later = "", upper == tempUnavail
		}
		all = append(all, a)
	}
	if len(all) == 0 {
		return nil, status.Errorf(status.SyntaxError, "no attribute")
	}
	return all, nil
}

func badAttribute(name, value string) error {
	err := status.Errorf(status.SyntaxError, "value %q of %s", value, name)
	err.Text = "Bad " + name + " syntax"
	return err
}

// behalfAddress reads an address as both commands write it: IPv6 with a prefix.
func behalfAddress(a attribute) (netip.Addr, error) {
	text := a.value
	if len(text) > 5 && strings.EqualFold(text[:5], "IPV6:") {
		text = text[5:]
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, badAttribute(a.name, a.value)
	}
	return addr.Unmap(), nil
}

func behalfPort(a attribute) (uint16, error) {
	if a.value == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(a.value, 10, 16)
	if err != nil {
		return 0, badAttribute(a.name, a.value)
	}
	return uint16(n), nil
}

// xclient begins the session anew, as that of another client.
func (s *serverSession) xclient(arg string) error {
	if err := s.mayTell(s.set.XClientHosts); err != nil {
		return s.refuse(err)
	}
	attributes, err := parseAttributes(arg, xclientAttributes)
	if err != nil {
		return s.refuse(err)
	}
	claimed, err := s.claim(attributes)
	if err != nil {
		return s.refuse(err)
	}
	s.roster.leave(s)
	s.policy.Close(nil)
	s.policy, s.errors, s.junk, s.authFailures = nil, 0, 0, 0
	s.client, s.behalf = claimed, true
	if id := claimed.Identity; id != nil {
		s.roster.enter(s, *id)
	}
	return s.greet()
}

// mayTell reports why XCLIENT or XFORWARD is not possible now.
func (s *serverSession) mayTell(hosts []netip.Prefix) error {
	switch {
	case !s.mayClaim(hosts):
		return status.New(status.NotAuthorized, nil)
	case s.tx != nil:
		return status.New(status.BadSequence, errors.New("inside a transaction"))
	}
	return nil
}

// claim returns the client that attributes describe. What they do not tell stays
// as it was, but the name of another address and who logged in.
func (s *serverSession) claim(attributes []attribute) (mail.Client, error) {
	c := s.client
	c.Helo, c.Extended, c.Identity, c.Forwarded = "", false, nil, nil
	c.Via, c.ViaTCP = s.peer, false
	var named bool
	name := mail.ClientName{Reverse: c.ReverseName, Hostname: c.Hostname, Naming: c.Naming}
	for _, a := range attributes {
		var err error
		switch a.name {
		case "ADDR":
			err = claimAddress(a, &c.Remote)
			if !named {
				name = mail.ClientName{}
			}
		case "PORT":
			var port uint16
			port, err = behalfPort(a)
			c.Remote = netip.AddrPortFrom(c.Remote.Addr(), port)
		case "DESTADDR":
			err = claimAddress(a, &c.Local)
		case "DESTPORT":
			var port uint16
			port, err = behalfPort(a)
			c.Local = netip.AddrPortFrom(c.Local.Addr(), port)
		case "NAME":
			named = true
			name.Hostname, name.Naming = harmlessName(a.value), namingOf(a)
		case "REVERSE_NAME":
			name.Reverse = harmlessName(a.value)
		case "HELO":
			c.Helo = harmlessName(a.value)
		case "PROTO":
			c.Extended, err = claimProtocol(a)
		case "LOGIN":
			c.Identity = nil
			if a.value != "" {
				c.Identity = &mail.Identity{Authentication: a.value, Authorization: a.value, Mechanism: "XCLIENT", Verifier: "xclient"}
			}
		}
		if err != nil {
			return mail.Client{}, err
		}
	}
	if name.Naming == mail.NameMissing && name.Reverse != "" {
		name.Naming = mail.NameForged
	}
	if name.Naming == mail.NameVerified && name.Reverse == "" {
		name.Reverse = name.Hostname
	}
	c.SetName(name)
	return c, nil
}

// namingOf tells what the peer found out about a name.
func namingOf(a attribute) mail.Naming {
	switch {
	case a.value != "":
		return mail.NameVerified
	case a.later:
		return mail.NameUnknown
	default:
		return mail.NameMissing
	}
}

// claimAddress sets the address of an end. One that is not available is that of
// no network anybody would trust.
func claimAddress(a attribute, end *netip.AddrPort) error {
	addr := netip.IPv4Unspecified()
	if a.value != "" {
		var err error
		if addr, err = behalfAddress(a); err != nil {
			return err
		}
	}
	*end = netip.AddrPortFrom(addr, end.Port())
	return nil
}

func claimProtocol(a attribute) (extended bool, err error) {
	switch strings.ToUpper(a.value) {
	case "ESMTP":
		return true, nil
	case "SMTP", "":
		return false, nil
	}
	return false, badAttribute(a.name, a.value)
}

// xforward takes down where the peer has the next message from.
func (s *serverSession) xforward(arg string) error {
	if err := s.mayTell(s.set.XForwardHosts); err != nil {
		return s.refuse(err)
	}
	attributes, err := parseAttributes(arg, xforwardAttributes)
	if err != nil {
		return s.refuse(err)
	}
	var told mail.Forwarded
	if s.client.Forwarded != nil {
		told = *s.client.Forwarded
	}
	for _, a := range attributes {
		if err := takeForwarded(&told, a); err != nil {
			return s.refuse(err)
		}
	}
	s.client.Forwarded = &told
	s.say(status.OK)
	return nil
}

func takeForwarded(f *mail.Forwarded, a attribute) error {
	switch a.name {
	case "NAME":
		f.Name = harmlessName(a.value)
	case "ADDR":
		f.Address = ""
		if a.value != "" {
			addr, err := behalfAddress(a)
			if err != nil {
				return err
			}
			f.Address = addr.String()
		}
	case "PORT":
		if _, err := behalfPort(a); err != nil {
			return err
		}
		f.Port = a.value
	case "PROTO":
		f.Protocol = harmlessName(a.value)
	case "HELO":
		f.Helo = harmlessName(a.value)
	case "IDENT":
		f.QueueID = harmlessName(a.value)
	case "SOURCE":
		f.Source = strings.ToUpper(a.value)
		if f.Source != "" && f.Source != "LOCAL" && f.Source != "REMOTE" {
			return badAttribute(a.name, a.value)
		}
	}
	return nil
}

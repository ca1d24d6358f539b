package milter

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// shown is a client as filters are told of it.
type shown struct {
	name    string
	family  byte // '4', '6', 'L' or 'U'
	port    uint16
	address string
}

// shown returns what filters hear of the client. Who came by a unix socket is a
// program of this machine; filters that know networks only are told so in
// their terms, as Postfix does, unless the configuration has it otherwise.
func (m *Milter) shown(c *mail.Client) shown {
	s := shown{name: c.Hostname, family: 'U', address: "unknown"}
	if s.name == "" {
		s.name = "unknown"
	}
	switch addr := c.Remote.Addr().Unmap(); {
	case c.Remote.IsValid() && addr.Is4():
		s.family, s.port, s.address = '4', c.Remote.Port(), addr.String()
	case c.Remote.IsValid():
		s.family, s.port, s.address = '6', c.Remote.Port(), addr.WithZone("").String()
	case m.cfg.LocalAsUnix:
		s.name, s.family, s.address = "localhost", 'L', "local"
	default:
		s.name, s.family, s.address = "localhost", '4', "127.0.0.1"
	}
	return s
}

// connectPacket tells of the connection.
func (m *Milter) connectPacket(p packet, c *mail.Client) []byte {
	s := m.shown(c)
	p = append(p.begin(cmdConnect).text(s.name), s.family)
	if s.family != 'U' {
		p = p.uint16(s.port).text(s.address)
	}
	return p.end()
}

// mailPacket tells of MAIL, with the parameters as the client would write them.
func mailPacket(p packet, e *mail.Envelope) []byte {
	p = p.begin(cmdMail).text(e.ReversePath.Path())
	if e.DeclaredOctets > 0 {
		p = p.text("SIZE=" + strconv.FormatInt(e.DeclaredOctets, 10))
	}
	if e.Body != "" {
		p = p.text("BODY=" + string(e.Body))
	}
	if e.SMTPUTF8 {
		p = p.text("SMTPUTF8")
	}
	if e.Return != "" {
		p = p.text("RET=" + string(e.Return))
	}
	if e.EnvelopeID != "" {
		p = p.text("ENVID=" + xtext(e.EnvelopeID))
	}
	if e.RequireTLS {
		p = p.text("REQUIRETLS")
	}
	return p.end()
}

var notifyWords = []struct {
	flag mail.Notify
	word string
}{{mail.NotifyNever, "NEVER"}, {mail.NotifySuccess, "SUCCESS"}, {mail.NotifyFailure, "FAILURE"}, {mail.NotifyDelay, "DELAY"}}

// rcptPacket tells of RCPT.
func rcptPacket(p packet, r *mail.Recipient) []byte {
	p = p.begin(cmdRcpt).text(r.Address.Path())
	if r.Notify != 0 {
		var words []string
		for _, n := range notifyWords {
			if r.Notify&n.flag != 0 {
				words = append(words, n.word)
			}
		}
		p = p.text("NOTIFY=" + strings.Join(words, ","))
	}
	if kind, address, ok := strings.Cut(r.Original, ";"); ok {
		p = p.text("ORCPT=" + kind + ";" + xtext(address))
	}
	return p.end()
}

// xtext encodes a parameter's value (RFC 3461 section 4).
func xtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c > ' ' && c < 0x7f && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}

// parsePath reads an address that a filter names, with or without brackets.
func parsePath(s string) (mail.Address, error) {
	s = strings.TrimSpace(s)
	if inner, ok := strings.CutPrefix(s, "<"); ok {
		s = strings.TrimSuffix(inner, ">")
	}
	if s == "" {
		return mail.Address{}, nil
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		return a, protocolError("address %.80q: %v", s, err)
	}
	return a, nil
}

// parseRcpt reads a recipient that a filter adds, with the parameters it may have.
func parseRcpt(path, args string) (*mail.Recipient, error) {
	a, err := parsePath(path)
	if err != nil {
		return nil, err
	}
	if a.IsNull() {
		return nil, protocolError("a recipient without an address is added")
	}
	r := &mail.Recipient{Address: a, Accepted: a}
	for _, arg := range strings.Fields(args) {
		name, value, _ := strings.Cut(arg, "=")
		if !strings.EqualFold(name, "NOTIFY") {
			continue // nothing that changes what becomes of the message
		}
		for word := range strings.SplitSeq(value, ",") {
			for _, n := range notifyWords {
				if strings.EqualFold(word, n.word) {
					r.Notify |= n.flag
				}
			}
		}
	}
	return r, nil
}

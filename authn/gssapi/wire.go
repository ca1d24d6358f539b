package gssapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Begin opens an exchange: the client's first token, and what it may be for.
type Begin struct {
	// Service and Hosts are the principals whose tickets are taken:
	// service/host. No hosts take any that the keytab has a key of.
	Service string
	Hosts   []string
	// Bindings are the channel bindings of the client's TLS connection, such as
	// "tls-server-end-point:" with its digest (RFC 5929); "" when there is none.
	Bindings string
	Policy   BindingPolicy
	Token    []byte
}

// BindingPolicy says what channel bindings are worth.
type BindingPolicy uint8

// The policies.
const (
	BindingsIgnored  BindingPolicy = iota
	BindingsChecked                // wrong ones are refused
	BindingsRequired               // none are refused, too
)

// Confirm ends an exchange: the client's choice of a security layer.
type Confirm struct{ Token []byte }

// Reply answers either.
type Reply struct {
	Outcome Outcome
	// Token is for the client to prove ourselves, "" when it asked for no proof;
	// Offer is the message after it, with the security layers there are. Both
	// come with Challenge.
	Token, Offer []byte
	// Principal is who the client is, and Authorization whom it wants to act as,
	// "" for itself. Both come with Accepted, the first with Challenge, too.
	Principal, Authorization string
	// Detail is for the audit, never for a client.
	Detail string
}

// Outcome of a step. The zero Outcome tells nothing about a person.
type Outcome uint8

// The outcomes.
const (
	Unknown Outcome = iota
	Challenge
	Accepted
	Refused
)

// MaxMessageOctets bounds a message on the socket. Tickets of people in many
// groups are large.
const MaxMessageOctets = 64 << 10

// MaxTokenOctets bounds a token of a client.
const MaxTokenOctets = 48 << 10

// MaxConfirmOctets bounds a Confirm on the socket.
const MaxConfirmOctets = 2 << 10

const wireVersion = 1

// Messages begin with what they are and the version of this notation.
const (
	KindBegin   = 'G'
	kindConfirm = 'C'
	kindReply   = 'g'
)

var (
	errMessageLong      = errors.New("message too long")
	errMessageMalformed = errors.New("malformed message")
	errMessageVersion   = errors.New("message of another version: the helper and the daemon are of different releases")
	errName             = errors.New("name with a character that names do not have")
)

// AppendBinary appends the message to buf.
func (b Begin) AppendBinary(buf []byte) ([]byte, error) {
	buf = append(buf, KindBegin, wireVersion, byte(b.Policy))
	return appendFields(buf, MaxMessageOctets, []byte(b.Service), []byte(strings.Join(b.Hosts, " ")), []byte(b.Bindings), b.Token)
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
// The token stays a part of message.
func (b *Begin) UnmarshalBinary(message []byte) error {
	body, err := open(message, KindBegin, MaxMessageOctets)
	if err != nil {
		return err
	}
	if len(body) < 1 || BindingPolicy(body[0]) > BindingsRequired {
		return errMessageMalformed
	}
	b.Policy = BindingPolicy(body[0])
	var service, hosts, bindings []byte
	if err := readFields(body[1:], &service, &hosts, &bindings, &b.Token); err != nil {
		return err
	}
	b.Service, b.Bindings, b.Hosts = string(service), string(bindings), nil
	if len(hosts) > 0 {
		b.Hosts = strings.Split(string(hosts), " ")
	}
	for _, name := range append([]string{b.Service}, b.Hosts...) {
		if !isName(name) {
			return errName
		}
	}
	return nil
}

// isName holds service names and host names, as they stand in principals.
func isName(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// AppendBinary appends the message to buf.
func (c Confirm) AppendBinary(buf []byte) ([]byte, error) {
	return appendFields(append(buf, kindConfirm, wireVersion), MaxConfirmOctets, c.Token)
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
func (c *Confirm) UnmarshalBinary(message []byte) error {
	body, err := open(message, kindConfirm, MaxConfirmOctets)
	if err != nil {
		return err
	}
	return readFields(body, &c.Token)
}

// AppendBinary appends the message to buf.
func (r Reply) AppendBinary(buf []byte) ([]byte, error) {
	buf = append(buf, kindReply, wireVersion, byte(r.Outcome))
	return appendFields(buf, MaxMessageOctets, r.Token, r.Offer, []byte(r.Principal), []byte(r.Authorization), []byte(r.Detail))
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
// Names hold no control characters: they go into logs and audit.
func (r *Reply) UnmarshalBinary(message []byte) error {
	body, err := open(message, kindReply, MaxMessageOctets)
	if err != nil {
		return err
	}
	if len(body) < 1 || Outcome(body[0]) > Refused {
		return errMessageMalformed
	}
	r.Outcome = Outcome(body[0])
	var principal, authorization, detail []byte
	if err := readFields(body[1:], &r.Token, &r.Offer, &principal, &authorization, &detail); err != nil {
		return err
	}
	r.Principal, r.Authorization, r.Detail = string(principal), string(authorization), string(detail)
	if !isText(r.Principal) || !isText(r.Authorization) {
		return errName
	}
	return nil
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func open(message []byte, kind byte, most int) (body []byte, err error) {
	switch {
	case len(message) > most:
		return nil, errMessageLong
	case len(message) < 2 || message[0] != kind:
		return nil, errMessageMalformed
	case message[1] != wireVersion:
		return nil, fmt.Errorf("%w (%d here, %d there)", errMessageVersion, wireVersion, message[1])
	}
	return message[2:], nil
}

func appendFields(buf []byte, most int, fields ...[]byte) ([]byte, error) {
	for _, field := range fields {
		if len(buf)+4+len(field) > most {
			return nil, errMessageLong
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(field)))
		buf = append(buf, field...)
	}
	return buf, nil
}

// readFields fills fields with parts of body.
func readFields(body []byte, fields ...*[]byte) error {
	for _, field := range fields {
		if len(body) < 4 {
			return errMessageMalformed
		}
		n := binary.BigEndian.Uint32(body)
		if body = body[4:]; uint64(n) > uint64(len(body)) {
			return errMessageMalformed
		}
		*field, body = body[:n:n], body[n:]
	}
	if len(body) != 0 {
		return errMessageMalformed
	}
	return nil
}

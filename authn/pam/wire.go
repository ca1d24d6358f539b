package pam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Request is one question to the helper. It prints without the password.
type Request struct {
	Service    string // PAM service, a file name of its configuration
	User       string
	Password   string
	RemoteHost string // PAM_RHOST; "" when unknown
}

// String describes the request without its password.
func (r Request) String() string { return "PAM request for " + r.User + " to " + r.Service }

// GoString is String, so that no verb prints the password.
func (r Request) GoString() string { return r.String() }

// Response is what PAM said: the code that ended the transaction and the phase
// it came from.
type Response struct {
	Phase Phase
	Code  Code
	// User is PAM_USER after a success: modules may have changed it.
	User string
	// Detail is for the audit, never for a client.
	Detail string
}

// Phase is a step of a PAM transaction.
type Phase uint8

// The phases. PhaseHelper is none of PAM's: the helper failed before or around
// it.
const (
	PhaseHelper Phase = iota
	PhaseStart
	PhaseAuthenticate
	PhaseAccount
)

// Code is a return value of Linux-PAM (_pam_types.h).
type Code uint16

// MaxMessageOctets bounds a request or a response on the socket.
const MaxMessageOctets = 4096

const wireVersion = 1

// Messages begin with what they are and the version of this notation.
const (
	kindRequest  = 'Q'
	kindResponse = 'A'
)

var (
	errMessageLong      = errors.New("message too long")
	errMessageMalformed = errors.New("malformed message")
	errMessageVersion   = errors.New("message of another version: the helper and the daemon are of different releases")
	errMessageNUL       = errors.New("NUL in message")
)

// AppendBinary appends the request to buf. A NUL anywhere is an error: for the
// C code at the other end the string would end there.
func (r Request) AppendBinary(buf []byte) ([]byte, error) {
	return appendStrings(append(buf, kindRequest, wireVersion), r.Service, r.User, r.Password, r.RemoteHost)
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
func (r *Request) UnmarshalBinary(message []byte) error {
	body, err := open(message, kindRequest)
	if err != nil {
		return err
	}
	return readStrings(body, &r.Service, &r.User, &r.Password, &r.RemoteHost)
}

// AppendBinary appends the response to buf.
func (r Response) AppendBinary(buf []byte) ([]byte, error) {
	buf = append(buf, kindResponse, wireVersion, byte(r.Phase))
	buf = binary.BigEndian.AppendUint16(buf, uint16(r.Code))
	return appendStrings(buf, r.User, r.Detail)
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
func (r *Response) UnmarshalBinary(message []byte) error {
	body, err := open(message, kindResponse)
	if err != nil {
		return err
	}
	if len(body) < 3 || Phase(body[0]) > PhaseAccount {
		return errMessageMalformed
	}
	r.Phase, r.Code = Phase(body[0]), Code(binary.BigEndian.Uint16(body[1:]))
	return readStrings(body[3:], &r.User, &r.Detail)
}

func open(message []byte, kind byte) (body []byte, err error) {
	switch {
	case len(message) > MaxMessageOctets:
		return nil, errMessageLong
	case len(message) < 2 || message[0] != kind:
		return nil, errMessageMalformed
	case message[1] != wireVersion:
		return nil, fmt.Errorf("%w (%d here, %d there)", errMessageVersion, wireVersion, message[1])
	}
	return message[2:], nil
}

func appendStrings(buf []byte, values ...string) ([]byte, error) {
	for _, s := range values {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, errMessageNUL
		}
		if len(s) > MaxMessageOctets {
			return nil, errMessageLong
		}
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(s)))
		buf = append(buf, s...)
	}
	if len(buf) > MaxMessageOctets {
		return nil, errMessageLong
	}
	return buf, nil
}

func readStrings(body []byte, values ...*string) error {
	for _, value := range values {
		if len(body) < 2 {
			return errMessageMalformed
		}
		n := int(binary.BigEndian.Uint16(body))
		if body = body[2:]; n > len(body) {
			return errMessageMalformed
		}
		if *value = string(body[:n]); strings.IndexByte(*value, 0) >= 0 {
			return errMessageNUL
		}
		body = body[n:]
	}
	if len(body) != 0 {
		return errMessageMalformed
	}
	return nil
}

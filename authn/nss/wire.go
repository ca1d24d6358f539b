// Package nss asks the helper process (package helper) who the machine's own
// users and groups are: those of /etc/passwd and of whatever else the name
// service switch names, such as SSSD. The C library's own answer loses the
// difference between "there is no such user" and "one of those who would know
// did not answer"; here every source of the switch is asked for itself, and the
// difference stays.
//
// Nobody is listed: only names are asked for.
package nss

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Kind says what a name is of.
type Kind byte

// The kinds.
const (
	User  Kind = 'u'
	Group Kind = 'g'
)

// Question asks for one name.
type Question struct {
	Kind Kind
	Name string
}

// Answer to a question.
type Answer struct {
	Outcome Outcome
	// Name as the machine writes it: some sources do not tell case apart.
	Name string
	// UID of a user; GID of a group, or of a user's first one.
	UID, GID uint32
	// Comment, Home and Shell are a user's.
	Comment, Home, Shell string
	// Members are a group's, by name.
	Members []string
	// Detail tells why it is not known.
	Detail string
}

// Outcome of a question. The zero Outcome says nothing about the name.
type Outcome uint8

// The outcomes.
const (
	Unknown Outcome = iota
	Found
	Absent
)

// MaxMessageOctets bounds a message on the socket, and so the members of a
// group: one with more is not known.
const MaxMessageOctets = 128 << 10

// MaxNameOctets bounds a name.
const MaxNameOctets = 256

const wireVersion = 1

// Messages begin with what they are and the version of this notation.
const (
	KindQuestion = 'N'
	kindAnswer   = 'n'
)

var (
	errMessageLong      = errors.New("message too long")
	errMessageMalformed = errors.New("malformed message")
	errMessageVersion   = errors.New("message of another version: the helper and the daemon are of different releases")
	errName             = errors.New("name that no user or group can have")
)

// IsName reports whether a user or a group can have the name: /etc/passwd, and
// every source of the switch with it, separates by colons and line ends.
func IsName(name string) bool {
	if name == "" || len(name) > MaxNameOctets || strings.ContainsAny(name, ":/,") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// AppendBinary appends the question to buf.
func (q Question) AppendBinary(buf []byte) ([]byte, error) {
	if !IsName(q.Name) {
		return nil, errName
	}
	return append(append(buf, KindQuestion, wireVersion, byte(q.Kind)), q.Name...), nil
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
func (q *Question) UnmarshalBinary(message []byte) error {
	body, err := open(message, KindQuestion)
	if err != nil {
		return err
	}
	if len(body) < 1 || body[0] != byte(User) && body[0] != byte(Group) {
		return errMessageMalformed
	}
	q.Kind, q.Name = Kind(body[0]), string(body[1:])
	if !IsName(q.Name) {
		return errName
	}
	return nil
}

// AppendBinary appends the answer to buf.
func (a Answer) AppendBinary(buf []byte) ([]byte, error) {
	buf = append(buf, kindAnswer, wireVersion, byte(a.Outcome))
	buf = binary.BigEndian.AppendUint32(buf, a.UID)
	buf = binary.BigEndian.AppendUint32(buf, a.GID)
	for _, field := range []string{a.Name, a.Comment, a.Home, a.Shell, strings.Join(a.Members, ","), a.Detail} {
		if len(buf)+4+len(field) > MaxMessageOctets {
			return nil, errMessageLong
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(field)))
		buf = append(buf, field...)
	}
	return buf, nil
}

// UnmarshalBinary reads what AppendBinary wrote, nothing less and nothing more.
func (a *Answer) UnmarshalBinary(message []byte) error {
	body, err := open(message, kindAnswer)
	if err != nil {
		return err
	}
	if len(body) < 9 || Outcome(body[0]) > Absent {
		return errMessageMalformed
	}
	a.Outcome = Outcome(body[0])
	a.UID, a.GID = binary.BigEndian.Uint32(body[1:]), binary.BigEndian.Uint32(body[5:])
	body = body[9:]
	var members string
	for _, field := range []*string{&a.Name, &a.Comment, &a.Home, &a.Shell, &members, &a.Detail} {
		if len(body) < 4 {
			return errMessageMalformed
		}
		n := binary.BigEndian.Uint32(body)
		if body = body[4:]; uint64(n) > uint64(len(body)) {
			return errMessageMalformed
		}
		*field, body = string(body[:n]), body[n:]
	}
	if a.Members = nil; members != "" {
		a.Members = strings.Split(members, ",")
	}
	if len(body) != 0 || a.Outcome == Found && !IsName(a.Name) {
		return errMessageMalformed
	}
	return nil
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

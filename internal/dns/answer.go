package dns

import (
	"errors"
	"fmt"
	"time"

	wire "github.com/miekg/dns"
)

// Outcome is what is certain about a name and a type.
type Outcome int

// The outcomes. NoData means that the name exists without records of the type.
const (
	Found Outcome = iota
	NXDomain
	NoData
)

var outcomeNames = [...]string{"found", "NXDOMAIN", "no data"}

// String returns the outcome's name in logs.
func (o Outcome) String() string { return outcomeNames[o] }

// Answer is a certain answer. It may be shared: readers must not change it.
type Answer[T any] struct {
	Outcome Outcome
	Records []T // in the order of the server; none unless Found
	// Canonical is the name at the end of the aliases, without a final dot;
	// the name asked for when there are none.
	Canonical string
	// Secure tells that a trusted server validated all of the answer, or that
	// there is none.
	Secure bool
	// Expires is until when the answer may be used.
	Expires time.Time
}

// MX is one mail exchanger.
type MX struct {
	Preference uint16
	Host       string // without a final dot; "" in a null MX (RFC 7505)
}

// TLSA is one certificate association (RFC 6698).
type TLSA struct {
	Usage, Selector, MatchingType uint8
	Data                          []byte
}

// The reasons of a failure.
var (
	ErrServerFailure = errors.New("server failure")        // SERVFAIL and what amounts to it
	ErrNoAnswer      = errors.New("no answer")             // silence, or a connection that broke
	ErrBadAnswer     = errors.New("answer makes no sense") // malformed, lame or too large
	ErrAliasLoop     = errors.New("aliases loop or are too many")
)

// Error is a failure to learn anything: it says nothing about the name.
type Error struct {
	Name string
	Type string // "MX"
	Err  error  // wraps one of the reasons, or the end of the context
}

// Error describes the failure for the log.
func (e *Error) Error() string { return fmt.Sprintf("look up %s %s: %v", e.Type, e.Name, e.Err) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

func (k key) failed(err error) error {
	return &Error{Name: k.name, Type: wire.TypeToString[k.qtype], Err: err}
}

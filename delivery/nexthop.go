package delivery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/postern-mail/postern/delivery/tlspolicy"
)

// NextHop is a next hop as configuration and routes write it.
type NextHop struct {
	// Path is the path of a unix socket; the other fields are then empty.
	Path string
	// Host is a name, with A-labels, or an IP address, Port a number or "" for the
	// protocol's own.
	Host, Port string
	// Literal is true for a host in brackets, and for an IP address: its MX
	// records are not looked up.
	Literal bool
}

var errNextHop = errors.New("malformed next hop")

func malformedNextHop(s string) (NextHop, error) {
	return NextHop{}, fmt.Errorf("%w: %q; write HOST, HOST:PORT, [HOST]:PORT or unix:/PATH", errNextHop, s)
}

// ParseNextHop reads "unix:/path", "host", "host:port", "[host]",
// "[host]:port", "[IPv6:::1]" and, before any of the latter, "inet:".
func ParseNextHop(s string) (NextHop, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return malformedNextHop(s)
		}
		return NextHop{Path: path}, nil
	}
	rest := strings.TrimPrefix(s, "inet:")
	h := NextHop{Host: rest}
	if inner, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(inner, "[") {
		h.Host, h.Literal = inner[1:], true
		if len(h.Host) > 5 && strings.EqualFold(h.Host[:5], "ipv6:") {
			h.Host = h.Host[5:]
		}
		port, colon := strings.CutPrefix(after, ":")
		if h.Port = port; after != "" && (!colon || port == "") {
			return malformedNextHop(s)
		}
	} else if strings.Count(rest, ":") == 1 {
		h.Host, h.Port, _ = strings.Cut(rest, ":")
		if h.Port == "" {
			return malformedNextHop(s)
		}
	}
	if strings.ContainsFunc(h.Host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		ascii, err := idna.Lookup.ToASCII(h.Host)
		if err != nil {
			return NextHop{}, fmt.Errorf("%w: %q: %w", errNextHop, s, err)
		}
		h.Host = ascii
	}
	isIP := net.ParseIP(h.Host) != nil
	h.Literal = h.Literal || isIP
	if h.Host == "" || !isIP && strings.ContainsAny(h.Host, ":[]/ \t\r\n") || h.Port != "" && !isPort(h.Port) {
		return malformedNextHop(s)
	}
	return h, nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// OwnName is what it means when a host greets with our own name.
type OwnName int

// The meanings.
const (
	// OwnNameAllowed: a host of our choice, at a port that is not that of mail
	// exchange, may well be called as we are.
	OwnNameAllowed OwnName = iota
	// OwnNameLoops: the records of the recipient's domain lead back to us.
	OwnNameLoops
	// OwnNameMistake: a next hop of our choice leads back to us, which is no
	// fault of the recipient's.
	OwnNameMistake
)

// Endpoint is one place to connect to.
type Endpoint struct {
	Network string // "unix" or "tcp"
	Address string // path, or IP address or name with port
	// Host is the name the endpoint was found under: of the certificate, and
	// in reports. "" for a unix socket.
	Host string
	// Plan learns how the connection must be protected for a message whose
	// sender makes a demand; nil means as the target's client configuration
	// says. An error rules the endpoint out.
	Plan func(context.Context, tlspolicy.Demand) (*tlspolicy.Plan, error)
	// Hop is the next hop that led here: an attempt holds only so many
	// conversations for each.
	Hop string
	// OwnName says what it means when the host greets with our own name.
	OwnName OwnName

	plan  *tlspolicy.Plan // what Plan said
	login login           // to authenticate with
	// patience bounds the beginning of a conversation; 0 means dialTime.
	patience time.Duration
}

// Endpoint returns the next hop as a place to connect to without looking
// anything up but the host's addresses.
func (h NextHop) Endpoint(defaultPort string) Endpoint {
	if h.Path != "" {
		return Endpoint{Network: "unix", Address: h.Path}
	}
	port := h.Port
	if port == "" {
		port = defaultPort
	}
	return Endpoint{Network: "tcp", Address: net.JoinHostPort(h.Host, port), Host: h.Host}
}

// String names the endpoint in logs and outcomes: "host[address]:port", or
// the socket's path.
func (e Endpoint) String() string {
	host, port, err := net.SplitHostPort(e.Address)
	if e.Network == "unix" || err != nil || e.Host == "" || e.Host == host {
		return e.Address
	}
	return e.Host + "[" + host + "]:" + port
}

package sessions

import (
	"net/netip"
	"time"

	"github.com/postern-mail/postern/mail"
)

// State is how far a session has come.
type State uint8

// The states, in the words of RFC 9051 section 3; a POP3 session in its
// transaction state has a mailbox selected, and one of ManageSieve has none.
const (
	NotAuthenticated State = iota
	Authenticated
	Selected
	// Idle waits to be told of changes (IDLE).
	Idle
	numStates
)

var stateNames = [numStates]string{"not-authenticated", "authenticated", "selected", "idle"}

// String names the state in lists and metrics.
func (s State) String() string { return stateNames[s] }

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Info is a session at one moment.
type Info struct {
	ID       mail.SessionID `json:"session"`
	Protocol string         `json:"protocol"`
	Listener string         `json:"listener"`
	// Login is who authenticated, Account whose mailboxes they are; both are ""
	// before that.
	Login   string `json:"login,omitempty"`
	Account string `json:"account,omitempty"`
	// Remote is where the client is; Via the proxy that said so, if one did.
	Remote netip.AddrPort `json:"remote,omitzero"`
	Via    netip.AddrPort `json:"via,omitzero"`
	TLS    string         `json:"tls,omitempty"` // the version, "" without TLS
	Since  time.Time      `json:"since"`
	State  State          `json:"state"`
	// Mailbox is the one that is selected.
	Mailbox string `json:"mailbox,omitempty"`
	// Command is the last command, or the one under way, by its name alone.
	Command  string `json:"command,omitempty"`
	Commands int    `json:"commands"`
	// IdleSince is since when nothing is under way; zero while something is.
	IdleSince time.Time `json:"idle_since,omitzero"`
	// Compressed says that the connection is compressed (RFC 4978).
	Compressed bool `json:"compressed,omitempty"`
	// In and Out are octets on the wire, as encrypted and compressed.
	In  uint64 `json:"octets_in"`
	Out uint64 `json:"octets_out"`
	// Ending says that the session has been asked to go.
	Ending bool `json:"ending,omitempty"`
}

// Reason is why a session is asked to go.
type Reason uint8

// The reasons.
const (
	// GoesOn: it is not.
	GoesOn Reason = iota
	// Shutdown: the server ends.
	Shutdown
	// Drained: the server's partner has the mailboxes now.
	Drained
	// Disabled: the account may not be used any more.
	Disabled
	// Kicked: an operator wants it.
	Kicked
)

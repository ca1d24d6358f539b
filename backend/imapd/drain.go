package imapd

import "github.com/postern-mail/postern/backend/sessions"

// How sessions are told to go.
var (
	// errDraining ends sessions on a node that is about to go: its partner has
	// their mailboxes.
	errDraining = &bye{"[UNAVAILABLE] Server is going down for maintenance; please connect again", "drained"}
	// errDisabled ends sessions of accounts that may not log in any more.
	errDisabled = &bye{"[UNAVAILABLE] This account may not be used any more", "account disabled"}
	// errKicked ends those that an operator does not want.
	errKicked = &bye{"[UNAVAILABLE] Ended by the administrator", "kicked"}
)

// whyEnd returns how a session is to end that was asked to go.
func (s *session) whyEnd() error {
	switch s.handle.Why() {
	case sessions.Drained:
		return errDraining
	case sessions.Disabled:
		return errDisabled
	case sessions.Kicked:
		return errKicked
	default:
		return errShutdown
	}
}

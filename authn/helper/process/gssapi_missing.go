//go:build !(cgo && gssapi)

package process

import "github.com/postern-mail/postern/authn/gssapi"

// gssapiAvailable tells whether this binary can take tickets.
const gssapiAvailable = false

// takeTicket cannot be reached: Main has returned ErrMissingGSSAPI before.
func takeTicket(string, gssapi.Begin) (gssapi.Reply, []byte) {
	return unsure(ErrMissingGSSAPI.Error()), nil
}

func judgeChoice(_, _ []byte) gssapi.Reply { return unsure(ErrMissingGSSAPI.Error()) }

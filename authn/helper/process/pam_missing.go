//go:build !(cgo && pam)

package process

import "github.com/postern-mail/postern/authn/pam"

// pamAvailable tells whether this binary can speak to PAM.
const pamAvailable = false

// answerPAM cannot be reached: Main has returned ErrMissing before.
func answerPAM(string, []byte) pam.Response { return failure(ErrMissing) }

//go:build cgo && pam

package process

import (
	"errors"
	"fmt"
	"strings"

	gopam "github.com/msteinert/pam/v2"

	"github.com/postern-mail/postern/authn/pam"
)

// pamAvailable tells whether this binary can speak to PAM.
const pamAvailable = true

// answerPAM runs the transaction that message asks for.
func answerPAM(serviceDir string, message []byte) pam.Response {
	var request pam.Request
	if err := request.UnmarshalBinary(message); err != nil {
		return failure(err)
	}
	return transact(serviceDir, request)
}

// transact runs one PAM transaction: authenticate, then account management.
func transact(serviceDir string, request pam.Request) pam.Response {
	talk := &conversation{user: request.User, password: request.Password}
	tx, err := begin(serviceDir, request, talk)
	if err != nil {
		return result(pam.PhaseStart, err, talk)
	}
	defer func() { _ = tx.End() }() // its code repeats the last one
	if err := describe(tx, request); err != nil {
		return result(pam.PhaseStart, err, talk)
	}
	if err := tx.Authenticate(gopam.DisallowNullAuthtok); err != nil {
		return result(pam.PhaseAuthenticate, err, talk)
	}
	if err := tx.AcctMgmt(gopam.DisallowNullAuthtok); err != nil {
		return result(pam.PhaseAccount, err, talk)
	}
	user, err := tx.GetItem(gopam.User)
	if err != nil {
		return failure(fmt.Errorf("PAM_USER: %w", err))
	}
	return pam.Response{Phase: pam.PhaseAccount, User: user}
}

// describe tells the modules where the question is from. Some, as pam_access
// and pam_time, want a terminal too, which there is none of: it is our name, as
// other mail servers give theirs.
func describe(tx *gopam.Transaction, request pam.Request) error {
	if err := tx.SetItem(gopam.Tty, "postern"); err != nil {
		return err
	}
	if err := tx.SetItem(gopam.Ruser, request.User); err != nil {
		return err
	}
	if request.RemoteHost == "" {
		return nil
	}
	return tx.SetItem(gopam.Rhost, request.RemoteHost)
}

func begin(serviceDir string, request pam.Request, talk *conversation) (*gopam.Transaction, error) {
	if serviceDir == "" {
		return gopam.Start(request.Service, request.User, talk)
	}
	return gopam.StartConfDir(request.Service, request.User, talk, serviceDir)
}

func result(phase pam.Phase, err error, talk *conversation) pam.Response {
	var code gopam.Error
	if !errors.As(err, &code) {
		return failure(err)
	}
	return pam.Response{Phase: phase, Code: pam.Code(code), Detail: talk.said()}
}

// conversation answers the modules' prompts.
type conversation struct {
	user, password string
	prompts        int
	messages       []string
}

// maxPrompts lets a stack of modules ask each for itself, but not for ever.
const maxPrompts = 8

var errConversation = errors.New("prompt cannot be answered")

// RespondPAM implements the binding's handler. Every hidden prompt gets the
// password: it is all we have, and a module that wanted something else refuses
// it.
func (c *conversation) RespondPAM(style gopam.Style, message string) (string, error) {
	if c.prompts++; c.prompts > maxPrompts {
		return "", errConversation
	}
	switch style {
	case gopam.PromptEchoOff:
		return c.password, nil
	case gopam.PromptEchoOn:
		return c.user, nil
	case gopam.ErrorMsg, gopam.TextInfo:
		c.messages = append(c.messages, clip(message))
		return "", nil
	}
	return "", errConversation
}

// said is what the modules wanted the person to read, without the password in
// case one repeats it.
func (c *conversation) said() string {
	text := strings.ReplaceAll(strings.Join(c.messages, "; "), c.password, "***")
	return clip(strings.ToValidUTF8(text, "?"))
}

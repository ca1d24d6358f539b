//go:build cgo && pam

package pamhelper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	gopam "github.com/msteinert/pam/v2"

	"github.com/postern-mail/postern/authn/pam"
)

// Available tells whether this binary can speak to PAM.
const Available = true

// workerGrace is how long after the helper should have killed it a worker ends
// by itself, when there is no helper any more.
const workerGrace = 2 * time.Second

// runWorker answers requests on descriptor 3 until the helper closes it. It
// stays on one thread: some modules keep state there.
func runWorker(serviceDir string, timeout time.Duration) error {
	runtime.LockOSThread()
	// Passwords are in this memory.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("pam-helper worker: forbid core dumps: %w", err)
	}
	file := os.NewFile(3, "helper")
	conn, err := net.FileConn(file)
	if err != nil {
		return fmt.Errorf("pam-helper worker: started by hand? %w", err)
	}
	_ = file.Close()
	buf := make([]byte, pam.MaxMessageOctets+1)
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return nil
		}
		deadman := time.AfterFunc(timeout+workerGrace, func() { os.Exit(1) })
		response := answer(serviceDir, buf[:n])
		deadman.Stop()
		clear(buf)
		message, err := response.AppendBinary(nil)
		if err != nil {
			return fmt.Errorf("pam-helper worker: response: %w", err)
		}
		if _, err := conn.Write(message); err != nil {
			return nil
		}
	}
}

func answer(serviceDir string, message []byte) pam.Response {
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
	if request.RemoteHost != "" {
		if err := tx.SetItem(gopam.Rhost, request.RemoteHost); err != nil {
			return result(pam.PhaseStart, err, talk)
		}
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

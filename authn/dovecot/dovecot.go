package dovecot

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/dovecot/wire"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of a Verifier.
type Config struct {
	// Name of the verifier in logs and audit; default "dovecot".
	Name string
	// Socket of Dovecot's auth service; default "/run/dovecot/auth-client".
	Socket string
	// Service is what Dovecot is told the login is for; default "imap", "pop3"
	// and "sieve" for these and "smtp" for all else.
	Service string
	// Timeout bounds one question, connecting included; default 10 s, more
	// than the two seconds after which Dovecot says no.
	Timeout time.Duration
}

// Verifier asks Dovecot. Safe for concurrent use. It connects when it is first
// asked, and again when the connection ended.
type Verifier struct {
	cfg Config
	log hclog.Logger

	dialing chan struct{} // held by the one who connects

	mu     sync.Mutex // guards the fields below
	link   *link      // nil before the first question
	closed bool
	links  sync.WaitGroup // readers of all links
}

// New returns a verifier. It asks and opens nothing.
func New(cfg Config, log hclog.Logger) (*Verifier, error) {
	if cfg.Name == "" {
		cfg.Name = "dovecot"
	}
	if cfg.Socket == "" {
		cfg.Socket = "/run/dovecot/auth-client"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("authn dovecot: the timeout must not be negative")
	}
	return &Verifier{cfg: cfg, log: log, dialing: make(chan struct{}, 1)}, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Run waits for the end of ctx and closes the connection then.
func (v *Verifier) Run(ctx context.Context) error {
	<-ctx.Done()
	v.mu.Lock()
	v.closed = true
	open := v.link
	v.mu.Unlock()
	if open != nil {
		open.fail(errClosed)
	}
	v.links.Wait()
	return nil
}

var errClosed = errors.New("this verifier was replaced or stopped")

// Verify implements authn.Verifier. A question whose connection ended before
// the answer, as when Dovecot was reloaded, is asked once more.
func (v *Verifier) Verify(ctx context.Context, a authn.Attempt) (mail.Identity, error) {
	if err := authn.CheckPassword(a.Password); err != nil {
		return mail.Identity{}, status.New(status.AuthFailed, err)
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	var answer []string
	var err error
	for range 2 {
		var to *link
		if to, err = v.connected(ctx); err != nil {
			break
		}
		if answer, err = to.ask(ctx, v.request(a)); !errors.Is(err, errLost) {
			break
		}
	}
	if err != nil {
		return mail.Identity{}, fmt.Errorf("ask Dovecot at %s: %w", v.cfg.Socket, err)
	}
	return judge(answer)
}

// request makes the fields of AUTH after the number. The login has gone through
// our own listener's policy on TLS and our own delays, so Dovecot needs neither.
func (v *Verifier) request(a authn.Attempt) []string {
	fields := []string{"PLAIN", "service=" + v.service(a.Service), "nologin", "secured", "no-penalty"}
	if a.Session != "" {
		fields = append(fields, "session="+string(a.Session))
	}
	if a.Remote.IsValid() {
		fields = append(fields, "rip="+a.Remote.Addr().Unmap().WithZone("").String(), "rport="+strconv.Itoa(int(a.Remote.Port())))
	}
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + a.Login + "\x00" + a.Password))
	return append(fields, "resp="+response) // last, by definition
}

// service is Dovecot's word for one of ours.
func (v *Verifier) service(ours string) string {
	switch {
	case v.cfg.Service != "":
		return v.cfg.Service
	case strings.HasPrefix(ours, "imap"):
		return "imap"
	case strings.HasPrefix(ours, "pop3"):
		return "pop3"
	case strings.HasSuffix(ours, "sieve"):
		return "sieve"
	}
	return "smtp"
}

// judge reads the answer to a request: OK or FAIL with parameters.
func judge(answer []string) (mail.Identity, error) {
	command, parameters := answer[0], answer[1:]
	switch command {
	case "OK":
		user, _ := wire.Value(parameters, "user")
		name, err := authn.CanonicalLogin(user)
		if err != nil {
			return mail.Identity{}, fmt.Errorf("user is called %q by Dovecot: %w", user, err)
		}
		return mail.Identity{Authentication: name, Authorization: name}, nil
	case "FAIL":
		return mail.Identity{}, refusal(parameters)
	}
	return mail.Identity{}, fmt.Errorf("unexpected answer %.32q", command)
}

// refusal tells what a FAIL means: the word of version 1.0, and the code of
// later ones.
func refusal(parameters []string) error {
	code, _ := wire.Value(parameters, "code")
	reason, _ := wire.Value(parameters, "reason")
	is := func(word, fullCode string) bool { return slices.Contains(parameters, word) || code == fullCode }
	switch {
	case is("temp", "temp_fail"):
		return fmt.Errorf("temporary failure: %.200q", reason)
	case is("user_disabled", "user_disabled"):
		return status.Errorf(status.AuthFailed, "account is disabled: %w", authn.ErrRefused)
	case is("pass_expired", "pass_expired"):
		return status.Errorf(status.AuthFailed, "password has expired: %w", authn.ErrRefused)
	case is("authz", "authz_fail"):
		return status.Errorf(status.AuthFailed, "not authorized (%.200q): %w", reason, authn.ErrRefused)
	case code != "":
		return fmt.Errorf("cannot be decided: %.64q %.200q", code, reason) // about the mechanism, or TLS
	}
	return status.Errorf(status.AuthFailed, "wrong password or unknown login %.200q", reason)
}

package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/reload"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
)

// A login that was refused is not tried again for a while, longer each time: a
// server that counts wrong passwords would lock the account.
const (
	firstLoginPause = 5 * time.Minute
	maxLoginPause   = time.Hour
	maxLoginStates  = 10000
)

// loginTrust is how long a login that succeeded is used on several new
// connections at once. One that is not known to be right is tried by one at a
// time, or a wrong password would be tried by all.
const loginTrust = 5 * time.Minute

// maxLoginFile bounds a file of logins.
const maxLoginFile = 16 << 20

// login is what a conversation authenticates with; the zero login does not.
type login struct{ name, password string }

// loginState is what is known of a login at an address.
type loginState struct {
	gate    chan struct{} // holds one element while a connection tries
	success time.Time     // the last one
	refusal error         // why it is not tried, with the login that was refused
	login   login
	until   time.Time
	pause   time.Duration
}

// parseLogins reads lines of a key and "login:password", as Postfix's
// smtp_sasl_password_maps does. A key is a sender, as in Rules, or a next hop or
// host. name stands in errors, which carry a line number each, never a
// password, and are joined.
func parseLogins(name string, r io.Reader) (map[string]login, error) {
	logins := make(map[string]login)
	err := eachEntry(name, r, func(key, value string) error {
		user, password, found := strings.Cut(value, ":")
		if !found || user == "" || password == "" {
			return errors.New("not login:password")
		}
		switch {
		case strings.Contains(key, "@"):
			if err := CheckRuleKey(key, true); err != nil {
				return err
			}
			key = foldKey(key)
		default:
			if _, err := ParseNextHop(key); err != nil {
				return err
			}
			key = strings.ToLower(key)
		}
		if _, again := logins[key]; again {
			return fmt.Errorf("%q has a login already", key)
		}
		logins[key] = login{user, password}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return logins, nil
}

// CheckLogins reads a file of logins and returns the mistakes in it.
func CheckLogins(name string, r io.Reader) error {
	_, err := parseLogins(name, r)
	return err
}

// openLogins reads the target's file of logins, if it has one.
func (p *Pool) openLogins(t Target) error {
	if t.LoginsFile == "" {
		p.logins = reload.Fixed(map[string]login(nil))
		return nil
	}
	file, err := reload.Open(reload.Config{File: t.LoginsFile, MaxOctets: maxLoginFile}, parseLogins, p.log)
	if err != nil {
		return fmt.Errorf("delivery target %q: %w", t.Name, err)
	}
	p.logins = file
	return nil
}

// loginFor returns what to authenticate with at e for a message: what the file
// says of its sender, of the host or of the next hop, else the target's own. A
// host that the recipient's domain names gets only what is kept for that very
// name.
func (p *Pool) loginFor(from mail.Address, e Endpoint) login {
	chosen := e.OwnName != OwnNameLoops
	if logins := p.logins.Value(); len(logins) > 0 {
		var keys []string
		if chosen && !from.IsNull() {
			keys = SenderKeys(from, p.cfg.delimiters)
		}
		for _, key := range append(keys, strings.ToLower(e.Host), strings.ToLower(e.Hop)) {
			if l, found := logins[key]; found {
				return l
			}
		}
	}
	if !chosen {
		return login{}
	}
	return login{p.cfg.Client.Login, p.cfg.Client.Password}
}

// loginTurn waits until the login of e may be tried, and returns what to call
// with the result. A login that was refused of late gives its refusal.
func (p *Pool) loginTurn(ctx context.Context, e Endpoint) (done func(error), err error) {
	if e.login == (login{}) {
		return func(error) {}, nil
	}
	s := p.loginState(e)
	p.mu.Lock()
	trusted := s.login == e.login && time.Since(s.success) < loginTrust
	p.mu.Unlock()
	if !trusted {
		select {
		case s.gate <- struct{}{}:
		case <-ctx.Done():
			return nil, status.New(status.ServerBusy, ctx.Err())
		}
	}
	done = func(err error) {
		p.noteLogin(e, s, err)
		if !trusted {
			<-s.gate
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.login == e.login && time.Now().Before(s.until) {
		if !trusted {
			<-s.gate
		}
		return nil, status.New(status.ConnectionFailed, fmt.Errorf("login %s is not tried again before %s: %w",
			e.login.name, s.until.UTC().Format(time.RFC3339), s.refusal))
	}
	return done, nil
}

func (p *Pool) loginState(e Endpoint) *loginState {
	key := e.Address + " " + e.login.name
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.logged[key]
	if s == nil {
		if len(p.logged) >= maxLoginStates {
			clear(p.logged)
		}
		s = &loginState{gate: make(chan struct{}, 1)}
		p.logged[key] = s
	}
	return s
}

// noteLogin keeps what came of a login.
func (p *Pool) noteLogin(e Endpoint, s *loginState, err error) {
	now := time.Now()
	if err == nil {
		p.mu.Lock()
		s.login, s.success, s.refusal, s.until, s.pause = e.login, now, nil, time.Time{}, 0
		p.mu.Unlock()
		return
	}
	var refusal *smtp.HandshakeError
	if !errors.As(err, &refusal) || refusal.Stage != "AUTH" || !refusal.Reply.Permanent() {
		return // an outage says nothing of the password
	}
	p.mu.Lock()
	pause := firstLoginPause
	if s.login == e.login && s.pause > 0 {
		pause = min(2*s.pause, maxLoginPause)
	}
	s.login, s.success, s.refusal, s.until, s.pause = e.login, time.Time{}, refusal, now.Add(pause), pause
	p.mu.Unlock()
	p.log.Error("login refused by the next hop; mail waits", "remote", e.String(), "login", e.login.name,
		"reply", refusal.Reply.String(), "again_in", pause.String())
}

// checkLogin refuses what would give a password to strangers or cannot work.
func (t Target) checkLogin() error {
	switch {
	case t.Login != "" && len(t.Addresses) == 0:
		return fmt.Errorf("delivery target %q: a login needs addresses to go to", t.Name)
	case (t.Login == "") != (t.PasswordFile == ""):
		return fmt.Errorf("delivery target %q: login and password file go together", t.Name)
	}
	for _, m := range t.Mechanisms {
		if !slices.Contains(smtp.ClientMechanisms, m) {
			return fmt.Errorf("delivery target %q: mechanism %q is none of %s", t.Name, m, strings.Join(smtp.ClientMechanisms, ", "))
		}
	}
	return nil
}

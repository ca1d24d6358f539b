package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/smtp"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
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

// LoginUse is what the entries of tables of logins mean: a sender, as in Rules,
// or a next hop or host, and "login:password", as in Postfix's
// smtp_sasl_password_maps. Mistakes never show a password.
var LoginUse = table.Use{
	Key: func(key string) error {
		err := CheckRuleKey(key, true)
		if !strings.Contains(key, "@") {
			_, err = ParseNextHop(key)
		}
		if err != nil {
			return errors.New("the key is neither a sender nor a host")
		}
		return nil
	},
	Value: func(value string) ([]string, error) {
		user, password, found := strings.Cut(value, ":")
		if !found || user == "" || password == "" {
			return nil, errors.New("not login:password")
		}
		return []string{value}, nil
	},
	NoReferences: true,
	Secret:       true,
}

// openLogins reads the target's file of logins, if it has one.
func (p *Pool) openLogins(t Target) error {
	if t.LoginsFile == "" {
		return nil
	}
	logins, err := (&table.Opener{Log: p.log}).Open(t.LoginsFile, LoginUse)
	if err != nil {
		return fmt.Errorf("delivery target %q: %w", t.Name, err)
	}
	p.logins = []table.Opened{logins}
	return nil
}

// loginFor returns what to authenticate with at e for a message: what the file
// says of its sender, of the host or of the next hop, else the target's own. A
// host that the recipient's domain names gets only what is kept for that very
// name.
func (p *Pool) loginFor(from mail.Address, e Endpoint) login {
	chosen := e.OwnName != OwnNameLoops
	forms := func(yield func(table.Form) bool) {
		if chosen && !from.IsNull() {
			for form := range (table.Order{Delimiters: p.cfg.delimiters}).Sender(from) {
				if !yield(form) {
					return
				}
			}
		}
		_ = yield(table.Form{Key: strings.ToLower(e.Host)}) && yield(table.Form{Key: strings.ToLower(e.Hop)})
	}
	// Files always answer.
	if found, _, _, err := table.Find(context.Background(), p.logins, from.String(), forms); err == nil && len(found) > 0 {
		user, password, _ := strings.Cut(found[0], ":")
		return login{user, password}
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

package gssapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/helper"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Config of an Acceptor.
type Config struct {
	// Name in logs and audit; default "gssapi".
	Name string
	// Realms are those whose people are known by their name alone.
	Realms []string
	// Accounts is where principals are somebody's login; nil for every link of
	// the chain in order.
	Accounts authn.Accounts
	// Hosts whose service principals (imap/host, smtp/host) are taken; default
	// every one that the keytab holds.
	Hosts []string
	// Bindings says what channel bindings are worth.
	Bindings BindingPolicy
	// Socket is where a helper listens that somebody else runs; default: the
	// daemon runs it, and so must be able to read the keytab.
	Socket string
	// Timeout bounds each question to the helper; default 15 s.
	Timeout time.Duration

	// The rest is for a helper the daemon runs itself.

	// Keytab is the file with the keys of the service principals.
	Keytab string
	// Krb5Config is the file to use in the place of /etc/krb5.conf.
	Krb5Config string
	// Command starts it; default "/proc/self/exe auth-helper". Arguments are
	// added.
	Command []string
}

// Verifier takes tickets: it implements sasl.Acceptors. Safe for concurrent use.
// Run keeps the helper alive where the daemon runs it.
//
// It stands in the chain as well, for the accounts that its principals are
// logins of, and knows nobody's password.
type Verifier struct {
	cfg    Config
	helper *helper.Client
}

// New returns a verifier. It starts and makes nothing.
func New(cfg Config, log hclog.Logger) (*Verifier, error) {
	if cfg.Name == "" {
		cfg.Name = "gssapi"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("authn gssapi: timeout must not be negative")
	}
	if (cfg.Socket == "") == (cfg.Keytab == "") {
		return nil, errors.New("authn gssapi: give a keytab, or the socket of a helper that has one")
	}
	for _, host := range cfg.Hosts {
		if !isName(host) {
			return nil, fmt.Errorf("authn gssapi: %q is no host name", host)
		}
	}
	args := []string{"--keytab=" + cfg.Keytab}
	if cfg.Krb5Config != "" {
		args = append(args, "--kerberos-config="+cfg.Krb5Config)
	}
	return &Verifier{cfg: cfg, helper: helper.New(helper.Config{Name: cfg.Name, Socket: cfg.Socket, Command: cfg.Command, Args: args}, log)}, nil
}

// Name implements authn.Verifier.
func (v *Verifier) Name() string { return v.cfg.Name }

// Verify implements authn.Verifier: no password is known here.
func (v *Verifier) Verify(context.Context, authn.Attempt) (mail.Identity, error) {
	return mail.Identity{}, fmt.Errorf("%w: tickets only, no passwords", authn.ErrUnknownLogin)
}

// Passwordless marks a verifier that nobody's password is known to.
func (v *Verifier) Passwordless() {}

// Run keeps the helper running until ctx ends.
func (v *Verifier) Run(ctx context.Context) error { return v.helper.Run(ctx) }

// Ready implements sasl.Acceptors: no helper of ours keeps ending.
func (v *Verifier) Ready() bool { return !v.helper.Failing() }

// Open implements sasl.Acceptors. Nothing is held anywhere until the client has
// shown a valid ticket.
func (v *Verifier) Open(_ context.Context, _, service string, client mail.Client) (sasl.Acceptor, error) {
	x := &exchange{verifier: v, service: authn.Protocol(service), bindings: bindingsOf(client)}
	x.next = x.begin
	return x, nil
}

// exchange is one authentication of one client, for one goroutine.
type exchange struct {
	verifier *Verifier
	service  string
	bindings string
	conn     *helper.Conn // from the first token to the end
	next     func(ctx context.Context, token []byte) (reply []byte, done bool, err error)
	asked    bool // the client was asked for its first token
	offer    []byte

	principal, authorization string
}

// Step implements sasl.Acceptor. ctx is that of the whole exchange: its end
// gives free what the helper holds.
func (x *exchange) Step(ctx context.Context, token []byte) ([]byte, bool, sasl.Principal, error) {
	reply, done, err := x.next(ctx, token)
	who := sasl.Principal{Name: x.principal, Accounts: x.verifier.cfg.Accounts}
	if done {
		who.Login, who.Authorization, err = x.login()
	}
	return reply, done && err == nil, who, err
}

// Close implements sasl.Acceptor.
func (x *exchange) Close() {
	if x.conn != nil {
		_ = x.conn.Close()
		x.conn = nil
	}
}

// login is the login that the principal stands for, and whom it wants to act
// as.
func (x *exchange) login() (login, authorization string, err error) {
	realms := x.verifier.cfg.Realms
	if login, err = loginOf(x.principal, realms); err != nil {
		return "", "", status.New(status.AuthFailed, err)
	}
	// A client that names itself by its principal means its own login.
	if x.authorization == x.principal {
		return login, "", nil
	}
	return login, x.authorization, nil
}

// begin takes the first token (RFC 4752 section 3.2). The client speaks first:
// without an initial response it is asked by an empty challenge.
func (x *exchange) begin(ctx context.Context, response []byte) ([]byte, bool, error) {
	if len(response) == 0 && !x.asked {
		x.asked = true
		return []byte{}, false, nil
	}
	if len(response) == 0 {
		return nil, false, status.New(status.AuthFailed, errors.New("no ticket"))
	}
	if len(response) > MaxTokenOctets {
		return nil, false, status.New(status.AuthFailed, errors.New("ticket too long"))
	}
	cfg := x.verifier.cfg
	message, err := Begin{Service: x.service, Hosts: cfg.Hosts, Bindings: x.bindings, Policy: cfg.Bindings, Token: response}.AppendBinary(nil)
	if err != nil {
		return nil, false, status.New(status.AuthFailed, err)
	}
	if x.conn, err = x.verifier.helper.Dial(ctx); err != nil {
		return nil, false, fmt.Errorf("ask auth helper: %w", err)
	}
	reply, err := x.ask(message, Challenge)
	if err != nil {
		return nil, false, err
	}
	if reply.Principal == "" || len(reply.Offer) == 0 {
		return nil, false, errors.New("auth helper took a ticket of nobody")
	}
	x.principal, x.offer = reply.Principal, reply.Offer
	if len(reply.Token) == 0 {
		x.next = x.confirm
		return x.offer, false, nil
	}
	x.next = x.proven
	return reply.Token, false, nil
}

// proven takes the empty response to our own proof.
func (x *exchange) proven(_ context.Context, response []byte) ([]byte, bool, error) {
	if len(response) != 0 {
		return nil, false, status.New(status.AuthFailed, errors.New("response to the server's proof is not empty"))
	}
	x.next = x.confirm
	return x.offer, false, nil
}

// confirm takes the client's choice of a security layer, and with it whom it
// wants to act as.
func (x *exchange) confirm(_ context.Context, response []byte) ([]byte, bool, error) {
	message, err := Confirm{Token: response}.AppendBinary(nil)
	if err != nil {
		return nil, false, status.New(status.AuthFailed, err)
	}
	reply, err := x.ask(message, Accepted)
	if err != nil {
		return nil, false, err
	}
	if reply.Principal != x.principal {
		return nil, false, errors.New("auth helper changed the principal in mid-exchange")
	}
	x.authorization = reply.Authorization
	return nil, true, nil
}

// ask puts a message to the helper and takes only the outcome wanted for a
// yes.
func (x *exchange) ask(message []byte, wanted Outcome) (Reply, error) {
	var reply Reply
	answer, err := x.conn.Ask(message, MaxMessageOctets, x.verifier.cfg.Timeout)
	if err == nil {
		err = reply.UnmarshalBinary(answer)
	}
	switch {
	case err != nil:
		return reply, fmt.Errorf("ask auth helper: %w", err)
	case reply.Outcome == Refused:
		x.principal = reply.Principal
		return reply, status.Errorf(status.AuthFailed, "ticket refused: %s", reply.Detail)
	case reply.Outcome != wanted:
		return reply, fmt.Errorf("auth helper: %s", reply.Detail)
	}
	return reply, nil
}

// bindingsOf returns the channel bindings of a client's connection; "" while
// nothing tells them.
func bindingsOf(mail.Client) string { return "" }

package sasl

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// maxSCRAMOctets bounds a message of SCRAM: two names, escaped, and a nonce.
const maxSCRAMOctets = 8 << 10

const plus = "-PLUS"

var (
	errDowngrade = errors.New("the client saw no mechanism with channel binding, but it was offered: somebody is in between")
	errWrongKey  = errors.New("wrong proof of the password")
	errOtherTLS  = errors.New("bound to another TLS connection: somebody is in between")
)

// scramHash is the hash function of a form.
func scramHash(form string) scram.HashGeneratorFcn {
	if form == authn.FormSCRAMSHA1 {
		return scram.SHA1
	}
	return scram.SHA256
}

// scramSpec is a mechanism of the SCRAM family, with or without -PLUS.
func scramSpec(form string, bound bool) spec {
	s := spec{
		begin:    func(x *Exchange) step { return (&scramExchange{Exchange: x, form: form, bound: bound}).first },
		possible: func(d *Deps) bool { return d.Keys != nil && d.Keys.Covers(form) > authn.CoversNone },
		// Where some people's keys are not held, theirs would be the wrong
		// password, so nobody offers that by accident.
		wanted: func(d *Deps) bool { return d.Keys != nil && d.Keys.Covers(form) == authn.CoversAll },
		most:   maxSCRAMOctets,
		weak:   []Weakness{NoDictionary, ForwardSecrecy},
	}
	if bound {
		s.open = (*Deps).canBind
	}
	return s
}

// scramExchange is one exchange of SCRAM (RFC 5802, RFC 7677).
type scramExchange struct {
	*Exchange
	form  string
	bound bool // -PLUS
	held  *authn.Held
	// conversations are the same but for the binding they ask for; one of them
	// has to succeed.
	conversations []*scram.ServerConversation
}

// first takes the client's first message and answers with salt and iterations.
func (x *scramExchange) first(response []byte) ([]byte, step, error) {
	if response == nil {
		return []byte{}, x.first, nil
	}
	bindings, err := x.choose(string(response))
	if err != nil {
		return nil, nil, err
	}
	var keys scram.StoredCredentials
	nonce := rand.Text()
	var challenge string
	for _, binding := range bindings {
		server, err := scramHash(x.form).NewServer(func(login string) (_ scram.StoredCredentials, err error) {
			if x.held == nil { // the bindings share one answer
				keys, err = x.lookup(login)
			}
			return keys, err
		})
		if err != nil {
			return nil, nil, err
		}
		server = server.WithNonceGenerator(func() string { return nonce })
		c := server.NewConversation()
		if x.bound {
			c = server.NewConversationWithChannelBindingRequired(binding)
		}
		challenge, err = c.Step(string(response))
		var known *status.Error
		switch {
		case errors.As(err, &known):
			return nil, nil, x.refuse(x.login(c), err)
		case err != nil:
			return nil, nil, status.New(status.ParameterSyntax, fmt.Errorf("%w: %w", errMalformed, err))
		}
		x.conversations = append(x.conversations, c)
	}
	return []byte(challenge), x.final, nil
}

// choose returns the channel bindings that may hold, by the flag the client's
// message begins with (RFC 5802 section 6): one empty one without -PLUS.
func (x *scramExchange) choose(message string) ([]scram.ChannelBinding, error) {
	flag, _, _ := strings.Cut(message, ",")
	kind, asked := strings.CutPrefix(flag, "p=")
	switch {
	case asked != x.bound:
		return nil, status.New(status.ParameterSyntax, fmt.Errorf("%w: channel binding %.40q with %s", errMalformed, flag, x.mechanism))
	case flag == "y" && x.mechanisms.offers(x.form+plus, &x.client):
		return nil, x.refuse(authn.Vouched{By: authn.BySCRAM}, status.New(status.AuthFailed, errDowngrade))
	case !x.bound:
		return []scram.ChannelBinding{{}}, nil
	}
	var bindings []scram.ChannelBinding
	for _, data := range x.mechanisms.deps.bindings(&x.client, kind) {
		bindings = append(bindings, scram.ChannelBinding{Type: scram.ChannelBindingType(kind), Data: data})
	}
	if len(bindings) == 0 {
		return nil, status.Errorf(status.AuthMechanism, "channel binding %.40q is not possible here", kind)
	}
	return bindings, nil
}

// lookup finds the keys of a login. One that has none gets keys that nobody has
// the password of, which look the same every time.
func (x *scramExchange) lookup(login string) (keys scram.StoredCredentials, err error) {
	d := &x.mechanisms.deps
	if x.held, err = d.Keys.Held(x.ctx, login, x.form); err != nil {
		return keys, err
	}
	stored := x.held.Stored
	if !x.held.Known() {
		stored = d.Keys.Example(x.form)
	}
	password, clear := strings.CutPrefix(stored, "{"+authn.FormCleartext+"}")
	var found authn.SCRAMKeys
	switch {
	case clear || stored == "":
		if !x.held.Known() {
			password = rand.Text()
		}
		found, err = d.Keys.CleartextKeys(x.ctx, x.form, password, d.salt(x.form, login, 16))
	default:
		found, err = authn.ParseSCRAM(x.form, stored)
		if err == nil && !x.held.Known() {
			found.Salt = d.salt(x.form, login, len(found.Salt))
			rand.Read(found.StoredKey)
			rand.Read(found.ServerKey)
		}
	}
	if err != nil {
		return keys, status.New(status.AuthTemporary, err)
	}
	keys.Salt, keys.Iters, keys.StoredKey, keys.ServerKey = string(found.Salt), found.Iterations, found.StoredKey, found.ServerKey
	return keys, nil
}

// salt derives the salt of a login that has none of its own: the same at every
// try, or else it would tell that nobody has this name.
func (d *Deps) salt(form, login string, octets int) []byte {
	if canonical, err := authn.CanonicalLogin(login); err == nil {
		login = canonical
	}
	mac := hmac.New(sha512.New, d.SaltKey)
	mac.Write([]byte(form + "\x00" + login))
	return mac.Sum(nil)[:octets]
}

// final takes the proof. The server's own travels as a last challenge.
func (x *scramExchange) final(response []byte) ([]byte, step, error) {
	var last string
	var wrong error
	for _, c := range x.conversations {
		answer, err := c.Step(string(response))
		if err == nil && c.Valid() && x.held.Known() {
			v := x.login(c)
			if err := x.vouch(v); err != nil {
				return nil, nil, err
			}
			return []byte(answer), x.farewell, nil
		}
		// Of several bindings, the one that fits says what else is wrong.
		if last != scram.ErrInvalidProof {
			last, wrong = answer, err
		}
	}
	v := x.login(x.conversations[0])
	switch last {
	case scram.ErrInvalidProof:
		cause := errWrongKey
		if !x.held.Known() {
			cause = x.held.Why
		}
		return nil, nil, x.refuse(v, status.New(status.AuthFailed, cause))
	case scram.ErrChannelBindingsDontMatch:
		return nil, nil, x.refuse(v, status.New(status.AuthFailed, errOtherTLS))
	}
	return nil, nil, status.New(status.ParameterSyntax, fmt.Errorf("%w: %w", errMalformed, wrong))
}

// login is whom a conversation is about.
func (x *scramExchange) login(c *scram.ServerConversation) authn.Vouched {
	v := authn.Vouched{Login: c.Username(), Authorization: c.AuthzID(), By: authn.BySCRAM}
	if x.held.Known() {
		v.Held = x.held
	}
	return v
}

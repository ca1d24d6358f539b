package sasl

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gosasl "github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// recorder answers with err and keeps what it was asked.
type recorder struct {
	err  error
	seen []authn.Attempt

	vouched, refused []authn.Vouched
	cause            error
}

func (r *recorder) Verify(_ context.Context, a authn.Attempt) (mail.Identity, error) {
	r.seen = append(r.seen, a)
	if r.err != nil {
		return mail.Identity{}, r.err
	}
	return mail.Identity{Authentication: a.Login, Authorization: a.Login, Mechanism: a.Mechanism, Verifier: "r"}, nil
}

var protected = mail.Client{
	Session: "s1", Remote: netip.MustParseAddrPort("192.0.2.1:4000"), TLS: &mail.TLSInfo{Version: "TLSv1.3"},
}

func (r *recorder) TakesPasswords() bool { return true }

func (r *recorder) Vouch(_ context.Context, v authn.Vouched) (mail.Identity, error) {
	r.vouched = append(r.vouched, v)
	if r.err != nil {
		return mail.Identity{}, r.err
	}
	return mail.Identity{Authentication: v.Login, Authorization: v.Login, Mechanism: v.Mechanism, Verifier: v.By}, nil
}

func (r *recorder) Refuse(_ context.Context, v authn.Vouched, cause error) error {
	r.refused, r.cause = append(r.refused, v), cause
	if status.Of(cause) == status.AuthFailed {
		return cause
	}
	return status.New(status.AuthTemporary, cause)
}

func start(t *testing.T, v Verifier, mechanism string) *Exchange {
	t.Helper()
	m, err := New(Config{}, Deps{Verifier: v})
	if err != nil {
		t.Fatal(err)
	}
	x, err := m.Start(t.Context(), mechanism, "submission", protected)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// run feeds responses; "-" is an absent initial response.
func run(x *Exchange, responses []string) (challenges []string, done bool, err error) {
	for _, r := range responses {
		response := []byte(r)
		if r == "-" {
			response = nil
		}
		var challenge []byte
		challenge, done, err = x.Next(response)
		if done || err != nil {
			return challenges, done, err
		}
		challenges = append(challenges, string(challenge))
	}
	return challenges, done, err
}

func TestExchanges(t *testing.T) {
	t.Parallel()
	plain := func(authzid string) authn.Attempt {
		return authn.Attempt{Login: "alice", Password: "secret", Authorization: authzid, Mechanism: Plain}
	}
	login := authn.Attempt{Login: "alice", Password: "secret", Mechanism: Login}
	tests := []struct {
		name, mechanism string
		responses       []string
		challenges      []string
		want            authn.Attempt
	}{
		{"plain, initial response", "plain", []string{"\x00alice\x00secret"}, nil, plain("")},
		{"plain, asked for", "PLAIN", []string{"-", "\x00alice\x00secret"}, []string{""}, plain("")},
		{"plain with authorization", "PLAIN", []string{"boss\x00alice\x00secret"}, nil, plain("boss")},
		{"plain, empty password is the chain's to refuse", "PLAIN", []string{"\x00alice\x00"}, nil,
			authn.Attempt{Login: "alice", Mechanism: Plain}},
		{"login", "LOGIN", []string{"-", "alice", "secret"}, []string{"Username:", "Password:"}, login},
		{"login, initial response", "Login", []string{"alice", "secret"}, []string{"Password:"}, login},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			x := start(t, r, tt.mechanism)
			challenges, done, err := run(x, tt.responses)
			if err != nil || !done || !slices.Equal(challenges, tt.challenges) {
				t.Fatalf("challenges %q, done %v, %v; want %q and done", challenges, done, err, tt.challenges)
			}
			tt.want.Service, tt.want.Session, tt.want.Remote = "submission", protected.Session, protected.Remote
			if len(r.seen) != 1 || r.seen[0] != tt.want {
				t.Errorf("verifier saw %#v, want %#v", r.seen, tt.want)
			}
			if x.Identity().Authentication != "alice" {
				t.Errorf("identity %+v", x.Identity())
			}
			if _, done, err := x.Next([]byte("again")); done || err == nil {
				t.Error("a response after the end was taken")
			}
		})
	}
}

func TestMalformedResponses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxPasswordOctets+1)
	tests := []struct {
		name, mechanism string
		responses       []string
	}{
		{"empty", Plain, []string{""}},
		{"no NUL", Plain, []string{"alice secret"}},
		{"one NUL", Plain, []string{"alice\x00secret"}},
		{"NUL in password", Plain, []string{"\x00alice\x00secret\x00junk"}},
		{"too long", Plain, []string{long}},
		{"nothing twice", Plain, []string{"-", ""}},
		{"long name", Login, []string{long}},
		{"long password", Login, []string{"-", "alice", long}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			x := start(t, r, tt.mechanism)
			_, done, err := run(x, tt.responses)
			if done || status.Of(err) != status.ParameterSyntax || len(r.seen) != 0 {
				t.Errorf("done %v, %v, asked %d; want ParameterSyntax before anybody is asked", done, err, len(r.seen))
			}
			if _, done, err := x.Next([]byte("\x00alice\x00secret")); done || err == nil {
				t.Error("a failed exchange went on")
			}
		})
	}
}

func TestVerifierErrorPassesThrough(t *testing.T) {
	t.Parallel()
	for _, reason := range []status.Reason{status.AuthFailed, status.AuthTemporary, status.AuthTooMany} {
		x := start(t, &recorder{err: status.New(reason, errors.New("why"))}, Plain)
		if _, done, err := x.Next([]byte("\x00alice\x00secret")); done || status.Of(err) != reason {
			t.Errorf("done %v, %v; want %v", done, err, reason)
		}
		if x.Identity() != (mail.Identity{}) {
			t.Errorf("identity after %v: %+v", reason, x.Identity())
		}
	}
}

func TestOffer(t *testing.T) {
	t.Parallel()
	all := []string{GSSAPI, Plain, Login}
	tests := []struct {
		name      string
		cfg       Config
		tls       bool
		list      []string
		mechanism string
		want      status.Reason
	}{
		{"protected", Config{}, true, all, Plain, status.OK},
		{"unprotected", Config{}, false, nil, Plain, status.AuthNeedsTLS},
		{"unprotected, allowed", Config{AllowWithoutTLS: true}, false, all, Login, status.OK},
		{"unknown", Config{}, true, all, "CRAM-MD4", status.AuthMechanism},
		{"not configured", Config{Mechanisms: []string{Plain}}, true, []string{Plain}, Login, status.AuthMechanism},
		{"in the order written", Config{Mechanisms: []string{"login", "plain"}}, true, []string{Login, Plain}, "login", status.OK},
		{"other mechanisms without TLS", Config{MechanismsWithoutTLS: []string{GSSAPI}}, false, []string{GSSAPI}, Plain, status.AuthNeedsTLS},
		{"which need not be those with TLS", Config{Mechanisms: []string{Plain}, MechanismsWithoutTLS: []string{GSSAPI}}, true, []string{Plain}, GSSAPI, status.AuthMechanism},
		{"no plaintext", Config{Refuse: []Weakness{NoPlaintext, NoAnonymous}}, true, []string{GSSAPI}, Plain, status.AuthMechanism},
		{"no plaintext without TLS", Config{AllowWithoutTLS: true, RefuseWithoutTLS: []Weakness{NoPlaintext}}, false, []string{GSSAPI}, Plain, status.AuthNeedsTLS},
		{"no plaintext without TLS, under TLS", Config{AllowWithoutTLS: true, RefuseWithoutTLS: []Weakness{NoPlaintext}}, true, all, Plain, status.OK},
		{"a list does not undo a refusal", Config{Mechanisms: all, Refuse: []Weakness{MutualAuth}}, true, []string{GSSAPI}, Plain, status.AuthMechanism},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := New(tt.cfg, Deps{Verifier: &recorder{}, Acceptors: &tickets{ready: true}})
			if err != nil {
				t.Fatal(err)
			}
			client := mail.Client{}
			if tt.tls {
				client = protected
			}
			if got := m.List(&client); !slices.Equal(got, tt.list) {
				t.Errorf("List(%v) = %q, want %q", tt.tls, got, tt.list)
			}
			if _, err := m.Start(t.Context(), tt.mechanism, "imap", client); status.Of(err) != tt.want {
				t.Errorf("Start(%s) = %v, want %v", tt.mechanism, err, tt.want)
			}
		})
	}
	for _, cfg := range []Config{{Mechanisms: []string{"ROT13"}}, {MechanismsWithoutTLS: []string{""}}, {Refuse: []Weakness{"nofun"}}} {
		if _, err := New(cfg, Deps{Verifier: &recorder{}}); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

// What cannot work is not offered, and told of when somebody wrote it down.
func TestImpossibleMechanisms(t *testing.T) {
	t.Parallel()
	m, err := New(Config{Mechanisms: []string{GSSAPI, Plain}}, Deps{Verifier: &recorder{}, Acceptors: &tickets{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.List(&protected); !slices.Equal(got, []string{Plain}) {
		t.Errorf("List = %q", got)
	}
	if got := m.Impossible(); !slices.Equal(got, []string{GSSAPI}) {
		t.Errorf("Impossible = %q", got)
	}
	if m, err = New(Config{}, Deps{Verifier: &recorder{}}); err != nil || len(m.Impossible()) != 0 {
		t.Errorf("a list nobody wrote: %v, %v", m.Impossible(), err)
	}
}

// go-sasl's clients are the independent peer.
func TestGoSASLClients(t *testing.T) {
	t.Parallel()
	for _, client := range []gosasl.Client{gosasl.NewPlainClient("", "alice", "pä ss"), gosasl.NewLoginClient("alice", "pä ss")} {
		mechanism, response, err := client.Start()
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{}
		var server gosasl.Server = start(t, r, mechanism)
		for done := false; !done; {
			var challenge []byte
			if challenge, done, err = server.Next(response); err != nil {
				t.Fatalf("%s: %v", mechanism, err)
			}
			if !done {
				if response, err = client.Next(challenge); err != nil {
					t.Fatalf("%s client: %v", mechanism, err)
				}
			}
		}
		if len(r.seen) != 1 || r.seen[0].Login != "alice" || r.seen[0].Password != "pä ss" {
			t.Errorf("%s: verifier saw %v", mechanism, r.seen)
		}
	}
}

func FuzzPlain(f *testing.F) {
	for _, seed := range []string{"\x00alice\x00secret", "a\x00b\x00c", "", "\x00", "\x00\x00", "\x00\x00\x00", "a\x00b", "\xff\x00\xfe\x00\xfd"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		authorization, login, password, ok := parsePlain(message)
		if !ok {
			return
		}
		if back := authorization + "\x00" + login + "\x00" + password; back != string(message) {
			t.Errorf("parsePlain(%q) reads back as %q", message, back)
		}
		if strings.ContainsRune(authorization+login+password, 0) {
			t.Errorf("parsePlain(%q) let a NUL through", message)
		}
	})
}

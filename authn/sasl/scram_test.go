package sasl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// vault is a verifier with secrets, by login.
type vault map[string]string

func (vault) Name() string { return "vault" }

func (v vault) Verify(context.Context, authn.Attempt) (mail.Identity, error) {
	return mail.Identity{}, authn.ErrUnknownLogin
}

func (v vault) Covers(form string) authn.Coverage {
	n := 0
	for _, stored := range v {
		if strings.HasPrefix(stored, "{"+form+"}") || strings.HasPrefix(stored, "{CLEARTEXT}") {
			n++
		}
	}
	switch n {
	case 0:
		return authn.CoversNone
	case len(v):
		return authn.CoversAll
	}
	return authn.CoversSome
}

func (v vault) Example(form string) string {
	if _, stored, err := v.Stored(context.Background(), "alice", form); err == nil {
		return stored
	}
	return ""
}

func (v vault) Stored(_ context.Context, login, form string) (mail.Identity, string, error) {
	stored, known := v[login]
	switch {
	case login == "down":
		return mail.Identity{}, "", errors.New("disk on fire")
	case !known:
		return mail.Identity{}, "", authn.ErrUnknownLogin
	case !strings.HasPrefix(stored, "{"+form+"}") && !strings.HasPrefix(stored, "{CLEARTEXT}"):
		return mail.Identity{}, "", authn.ErrNoForm
	}
	return mail.Identity{Authentication: login}, stored, nil
}

// ledger keeps audit events.
type ledger struct{ events []mail.Event }

func (l *ledger) Record(e mail.Event) { l.events = append(l.events, e) }

func chainOf(t testing.TB, v authn.Verifier) (*authn.Chain, *ledger) {
	t.Helper()
	audit := &ledger{}
	chain, err := authn.New(authn.Config{FailureBeat: -1}, []authn.Link{{Verifier: v}}, audit, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return chain, audit
}

func secret(t testing.TB, scheme, password string) string {
	t.Helper()
	stored, err := authn.MakeHash(scheme, password)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// offered returns the mechanisms over a vault.
func offered(t testing.TB, cfg Config, v vault, endPoints ...[]byte) (*Mechanisms, *ledger) {
	t.Helper()
	chain, audit := chainOf(t, v)
	m, err := New(cfg, Deps{Verifier: chain, Keys: chain, SaltKey: []byte("key"), EndPoints: endPoints})
	if err != nil {
		t.Fatal(err)
	}
	return m, audit
}

// connection is both ends of a TLS connection.
func connection(t testing.TB, version uint16) (client, server tls.ConnectionState, leaf *x509.Certificate) {
	t.Helper()
	cert := testenv.NewCA(t).Issue("mail.example.com").TLS(t)
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
	c := tls.Client(b, &tls.Config{InsecureSkipVerify: true, ServerName: "mail.example.com"})
	failed := make(chan error, 1)
	go func() { failed <- c.HandshakeContext(context.Background()) }()
	if err := s.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState(), s.ConnectionState(), leaf
}

func over(state *tls.ConnectionState) mail.Client {
	return mail.Client{Session: "s1", Remote: netip.MustParseAddrPort("192.0.2.1:4000"), TLS: &mail.TLSInfo{Version: "TLSv1.3", Connection: state}}
}

// talk runs xdg-go's client, which is the independent peer, against an
// exchange. Ok tells that the client believes the server, too.
func talk(t testing.TB, c *scram.ClientConversation, x *Exchange) (ok bool, err error) {
	t.Helper()
	message, err := c.Step("")
	if err != nil {
		t.Fatal(err)
	}
	for {
		challenge, done, err := x.Next([]byte(message))
		if err != nil {
			return false, err
		}
		if done {
			return c.Valid(), nil
		}
		if message, err = c.Step(string(challenge)); err != nil {
			t.Fatalf("client: %v after %q", err, challenge)
		}
	}
}

func client(t testing.TB, mechanism, login, password, authz string) *scram.Client {
	t.Helper()
	c, err := scramHash(strings.TrimSuffix(mechanism, plus)).NewClient(login, password, authz)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSCRAM(t *testing.T) {
	t.Parallel()
	people := vault{
		"alice": secret(t, "scram-sha-256", "pencil"), "old": secret(t, "scram-sha-1", "pencil"),
		"clear": "{CLEARTEXT}pencil", "accents": secret(t, "scram-sha-256", "p\u00e9ncil\u00a0x"), "hash": secret(t, "sha512-crypt", "pencil"),
		"a,b=c": secret(t, "scram-sha-256", "pencil"),
	}
	cfg := Config{Mechanisms: []string{SCRAMSHA256, SCRAMSHA1}}
	tests := []struct {
		name, mechanism, login, password, authz string
		want                                    status.Reason
		detail                                  string
	}{
		{"right", SCRAMSHA256, "alice", "pencil", "", status.OK, ""},
		{"other spelling", SCRAMSHA256, "ALICE", "pencil", "", status.OK, ""},
		{"as itself", SCRAMSHA256, "alice", "pencil", "alice", status.OK, ""},
		{"as somebody else", SCRAMSHA256, "alice", "pencil", "bob", status.AuthorizationDenied, "may not act"},
		{"wrong", SCRAMSHA256, "alice", "pen", "", status.AuthFailed, "wrong proof"},
		{"unknown", SCRAMSHA256, "mallory", "pencil", "", status.AuthFailed, "unknown login"},
		{"another form", SCRAMSHA256, "hash", "pencil", "", status.AuthFailed, "stored in another form"},
		{"another hash function", SCRAMSHA256, "old", "pencil", "", status.AuthFailed, "stored in another form"},
		{"SHA-1", SCRAMSHA1, "old", "pencil", "", status.OK, ""},
		{"cleartext, SHA-256", SCRAMSHA256, "clear", "pencil", "", status.OK, ""},
		{"cleartext, SHA-1", SCRAMSHA1, "clear", "pencil", "", status.OK, ""},
		{"cleartext, wrong", SCRAMSHA1, "clear", "pen", "", status.AuthFailed, "wrong proof"},
		{"SASLprep", SCRAMSHA256, "accents", "pe\u0301ncil x", "", status.OK, ""},
		{"comma and equals sign in the name", SCRAMSHA256, "a,b=c", "pencil", "", status.OK, ""},
		{"outage", SCRAMSHA256, "down", "pencil", "", status.AuthTemporary, "disk on fire"},
		{"a name nobody can have", SCRAMSHA256, "a b", "pencil", "", status.AuthFailed, "not allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, audit := offered(t, cfg, people)
			x, err := m.Start(t.Context(), tt.mechanism, "imap", over(nil))
			if err != nil {
				t.Fatal(err)
			}
			ok, err := talk(t, client(t, tt.mechanism, tt.login, tt.password, tt.authz).NewConversation(), x)
			if status.Of(err) != tt.want || ok != (tt.want == status.OK) {
				t.Fatalf("client satisfied: %v, %v; want %v", ok, err, tt.want)
			}
			if len(audit.events) != 1 || !strings.Contains(audit.events[0].Detail, tt.detail) || audit.events[0].Mechanism != tt.mechanism {
				t.Errorf("audit %+v, want detail %q", audit.events, tt.detail)
			}
			if tt.want == status.OK && (x.Identity().Authentication != strings.ToLower(tt.login) || x.Identity().Verifier != "vault") {
				t.Errorf("identity %+v", x.Identity())
			}
			if tt.want != status.OK && x.Identity() != (mail.Identity{}) {
				t.Errorf("identity %+v after %v", x.Identity(), err)
			}
		})
	}
}

func TestSCRAMChannelBinding(t *testing.T) {
	t.Parallel()
	people := vault{"alice": secret(t, "scram-sha-256", "pencil")}
	exporter := func(state tls.ConnectionState) scram.ChannelBinding {
		b, err := scram.NewTLSExporterBinding(&state)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	endPoint := func(state tls.ConnectionState) scram.ChannelBinding {
		b, err := scram.NewTLSServerEndpointBinding(&state)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ours, server, leaf := connection(t, 0)
	oursOld, serverOld, leafOld := connection(t, tls.VersionTLS12)
	other, _, _ := connection(t, 0)
	known, err := EndPoint(leaf)
	if err != nil {
		t.Fatal(err)
	}
	knownOld, err := EndPoint(leafOld)
	if err != nil {
		t.Fatal(err)
	}
	ends := [][]byte{knownOld, known}
	tests := []struct {
		name    string
		server  tls.ConnectionState
		binding scram.ChannelBinding
		want    status.Reason
	}{
		{"exporter", server, exporter(ours), status.OK},
		{"exporter, TLS 1.2", serverOld, exporter(oursOld), status.OK},
		{"exporter of another connection", server, exporter(other), status.AuthFailed},
		{"end point", server, endPoint(ours), status.OK},
		{"end point, another certificate of ours", server, endPoint(oursOld), status.OK},
		{"end point of somebody else", server, endPoint(other), status.AuthFailed},
		{"a kind that is not bound here", server, scram.NewTLSUniqueBinding([]byte("x")), status.AuthMechanism},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, audit := offered(t, Config{}, people, ends...)
			x, err := m.Start(t.Context(), "scram-sha-256-plus", "imap", over(&tt.server))
			if err != nil {
				t.Fatal(err)
			}
			ok, err := talk(t, client(t, SCRAMSHA256, "alice", "pencil", "").NewConversationWithChannelBinding(tt.binding), x)
			if status.Of(err) != tt.want || ok != (tt.want == status.OK) {
				t.Fatalf("client satisfied: %v, %v; want %v", ok, err, tt.want)
			}
			if tt.want == status.AuthFailed && !strings.Contains(audit.events[0].Detail, "somebody is in between") {
				t.Errorf("audit %+v", audit.events)
			}
		})
	}
	t.Run("a wrong password is told from a wrong binding", func(t *testing.T) {
		t.Parallel()
		m, audit := offered(t, Config{}, people, ends...)
		x, _ := m.Start(t.Context(), SCRAMSHA256+plus, "imap", over(&server))
		_, err := talk(t, client(t, SCRAMSHA256, "alice", "wrong", "").NewConversationWithChannelBinding(endPoint(ours)), x)
		if status.Of(err) != status.AuthFailed || !strings.Contains(audit.events[0].Detail, "wrong proof") {
			t.Errorf("%v, audit %+v", err, audit.events)
		}
	})
}

// A client that could bind and says that the server did not offer it talks to
// somebody in between who took the offer out.
func TestSCRAMDowngrade(t *testing.T) {
	t.Parallel()
	_, server, leaf := connection(t, 0)
	end, _ := EndPoint(leaf)
	people := vault{"alice": secret(t, "scram-sha-256", "pencil")}
	via := over(&server)
	via.Via = netip.MustParseAddrPort("192.0.2.9:1")
	tests := []struct {
		name    string
		cfg     Config
		client  mail.Client
		message string
		want    status.Reason
	}{
		{"it was offered", Config{}, over(&server), "y,,n=alice,r=abc", status.AuthFailed},
		{"the client cannot", Config{}, over(&server), "n,,n=alice,r=abc", status.OK},
		{"not offered by configuration", Config{Mechanisms: []string{SCRAMSHA256}}, over(&server), "y,,n=alice,r=abc", status.OK},
		{"a proxy ended TLS", Config{}, via, "y,,n=alice,r=abc", status.OK},
		{"bound without -PLUS", Config{}, over(&server), "p=tls-exporter,,n=alice,r=abc", status.ParameterSyntax},
	}
	for _, tt := range tests {
		m, _ := offered(t, tt.cfg, people, end)
		x, err := m.Start(t.Context(), SCRAMSHA256, "imap", tt.client)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.Next([]byte(tt.message)); status.Of(err) != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	m, _ := offered(t, Config{}, people, end)
	x, err := m.Start(t.Context(), SCRAMSHA256+plus, "imap", over(&server))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.Next([]byte("n,,n=alice,r=abc")); status.Of(err) != status.ParameterSyntax {
		t.Errorf("-PLUS without a binding: %v", err)
	}
	if got := m.List(&via); slices.Contains(got, SCRAMSHA256+plus) || !slices.Contains(got, SCRAMSHA256) {
		t.Errorf("behind a proxy there is %q", got)
	}
}

// What the server says first must not tell whether a login exists: the same
// salt at every try, after a restart too, and as many iterations.
func TestSCRAMOfUnknownLogins(t *testing.T) {
	t.Parallel()
	for _, people := range []vault{
		{"alice": secret(t, "scram-sha-256", "pencil")}, {"alice": "{CLEARTEXT}pencil"},
		{"alice": "{SCRAM-SHA-256}4321,c2FsdHNhbHQ=," + strings.SplitN(secret(t, "scram-sha-256", "pencil"), ",", 3)[2]},
	} {
		ask := func(login string) (salt, iterations string) {
			m, _ := offered(t, Config{}, people)
			x, err := m.Start(t.Context(), SCRAMSHA256, "imap", over(nil))
			if err != nil {
				t.Fatal(err)
			}
			challenge, done, err := x.Next([]byte("n,,n=" + login + ",r=abc"))
			fields := strings.Split(string(challenge), ",")
			if done || err != nil || len(fields) != 3 {
				t.Fatalf("%q: %q, %v", login, challenge, err)
			}
			return fields[1], fields[2]
		}
		knownSalt, knownIterations := ask("alice")
		salt, iterations := ask("mallory")
		again, _ := ask("Mallory")
		other, _ := ask("trudy")
		if salt != again || salt == other || salt == knownSalt {
			t.Errorf("salts %q, %q again, %q of another, %q of a known login", salt, again, other, knownSalt)
		}
		if iterations != knownIterations || len(salt) != len(knownSalt) {
			t.Errorf("unknown %s %s, known %s %s", salt, iterations, knownSalt, knownIterations)
		}
	}
}

func TestSCRAMMalformed(t *testing.T) {
	t.Parallel()
	people := vault{"alice": secret(t, "scram-sha-256", "pencil")}
	for _, first := range []string{"", "n", "n,,", "n,,n=alice", "n,,r=x,n=alice", "q,,n=alice,r=x", "n,,m=x,n=alice,r=x", "n,,n=al=3Cice,r=x", strings.Repeat("x", maxSCRAMOctets+1)} {
		m, audit := offered(t, Config{}, people)
		x, _ := m.Start(t.Context(), SCRAMSHA256, "imap", over(nil))
		if _, done, err := x.Next([]byte(first)); done || status.Of(err) != status.ParameterSyntax {
			t.Errorf("first %.40q: done %v, %v", first, done, err)
		}
		if len(audit.events) != 0 {
			t.Errorf("first %.40q: audit %+v", first, audit.events)
		}
	}
	for _, final := range []string{"", "c=biws", "c=biws,r=other,p=AAAA", "c=!,r=x,p=y", "c=biws,r=abc"} {
		m, _ := offered(t, Config{}, people)
		x, _ := m.Start(t.Context(), SCRAMSHA256, "imap", over(nil))
		if _, _, err := x.Next([]byte("n,,n=alice,r=abc")); err != nil {
			t.Fatal(err)
		}
		if _, done, err := x.Next([]byte(final)); done || status.Of(err) != status.ParameterSyntax {
			t.Errorf("final %q: done %v, %v", final, done, err)
		}
	}
}

func TestSCRAMOffer(t *testing.T) {
	t.Parallel()
	keys := secret(t, "scram-sha-256", "x")
	hash := secret(t, "sha512-crypt", "x")
	tests := []struct {
		name   string
		cfg    Config
		people vault
		want   []string
		cannot []string
	}{
		{"everybody has keys", Config{}, vault{"alice": keys}, []string{SCRAMSHA256, Plain, Login}, nil},
		{"cleartext is every form", Config{}, vault{"alice": "{CLEARTEXT}x"}, []string{SCRAMSHA256, SCRAMSHA1, Plain, Login}, nil},
		{"some have", Config{}, vault{"alice": keys, "bob": hash}, []string{Plain, Login}, nil},
		{"some have, named", Config{Mechanisms: []string{SCRAMSHA256, Plain}}, vault{"alice": keys, "bob": hash}, []string{SCRAMSHA256, Plain}, nil},
		{"nobody has, named", Config{Mechanisms: []string{SCRAMSHA256, Plain}}, vault{"bob": hash}, []string{Plain}, []string{SCRAMSHA256}},
		{"CRAM-MD5 is named", Config{Mechanisms: []string{CRAMMD5}}, vault{"alice": "{CLEARTEXT}x"}, []string{CRAMMD5}, nil},
		{"CRAM-MD5 cannot", Config{Mechanisms: []string{CRAMMD5}}, vault{"alice": keys}, []string{}, []string{CRAMMD5}},
	}
	for _, tt := range tests {
		m, _ := offered(t, tt.cfg, tt.people)
		c := over(nil)
		if got := m.List(&c); !slices.Equal(got, tt.want) {
			t.Errorf("%s: List = %q, want %q", tt.name, got, tt.want)
		}
		if got := m.Impossible(); !slices.Equal(got, tt.cannot) {
			t.Errorf("%s: Impossible = %q, want %q", tt.name, got, tt.cannot)
		}
	}
}

func FuzzSCRAM(f *testing.F) {
	for _, seed := range [][2]string{
		{"n,,n=alice,r=abc", "c=biws,r=abc,p=AAAA"}, {"y,,n=alice,r=abc", ""}, {"p=tls-exporter,,n=alice,r=a", "c="}, {"n,a=b,n=c,r=d,e=f", "c=biws,r=d,x=y,p=z"}, {"", ""},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	stored, err := authn.MakeHash("scram-sha-256", "pencil")
	if err != nil {
		f.Fatal(err)
	}
	m, _ := offered(f, Config{}, vault{"alice": stored})
	f.Fuzz(func(t *testing.T, first, final []byte) {
		x, err := m.Start(context.Background(), SCRAMSHA256, "imap", over(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		for _, message := range [][]byte{first, final, {}} {
			_, done, err := x.Next(message)
			if done {
				t.Fatalf("%q, %q logged %v in", first, final, x.Identity())
			}
			if err != nil {
				return
			}
		}
	})
}

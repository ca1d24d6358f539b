package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"github.com/go-jose/go-jose/v4"
	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/internal/testenv"
)

// mechanisms is a site where nearly every mechanism works: alice has SCRAM's
// keys, bob a cleartext password, carol a certificate, and everybody a token
// of the provider.
const mechanismsOf = `authn "certificate" {
  directory  = directory.company
  login_from = ["san_email"]
}
authn "oauth" {
  directory = directory.company
  issuer    = "{{.Extra.Issuer}}"
  audiences = ["postern"]
  scopes    = ["mail"]
  timeout   = "1m"
  ca_file   = "{{.Extra.CA}}"
}
authn "file" {
  directory       = directory.company
  file            = "{{.Dir}}/passwd"
  allow_cleartext = true
}`

func newMechanismSite(t *testing.T, policy string) (s *site, ca *testenv.CA, token func(claims map[string]any) string) {
	t.Helper()
	ca = testenv.NewCA(t)
	issuer, token := newIssuer(t, ca)
	dir := t.TempDir()
	s = newSite(t, variant(t, standard,
		`authn "ldif" { directory = directory.company }`, mechanismsOf,
		`  key_file  = "{{.Dir}}/key.pem"`, `  key_file  = "{{.Dir}}/key.pem"
  client_auth    = "request"
  client_ca_file = "{{.Extra.CA}}"`,
		`{ bind = ["127.0.0.1:{{.Port.Submission}}"] }`, `{
    bind = ["127.0.0.1:{{.Port.Submission}}"]
    `+policy+`
  }`,
		`  listener "imaps" { bind = ["127.0.0.1:{{.Port.IMAPS}}"] }`, `  listener "imap" {
    bind = ["127.0.0.1:{{.Port.IMAP}}"]
    `+policy+`
  }
  listener "imaps" {
    bind = ["127.0.0.1:{{.Port.IMAPS}}"]
    `+policy+`
  }`,
	), map[string]string{"CA": ca.WriteFile(dir), "Issuer": issuer})
	keys, err := authn.MakeHash("scram-sha-256", "pencil")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.Dir, "passwd"), []byte("alice:"+keys+"\nbob:{CLEARTEXT}pencil\n"), 0o600))
	return s.start(), ca, token
}

// newIssuer starts a provider of tokens.
func newIssuer(t *testing.T, ca *testenv.CA) (url string, token func(claims map[string]any) string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	var server *httptest.Server
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "jwks_uri": server.URL + "/keys"})
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1").TLS(t)}}
	server.StartTLS()
	t.Cleanup(server.Close)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	must(t, err)
	return server.URL, func(change map[string]any) string {
		claims := map[string]any{
			"iss": server.URL, "aud": "postern", "scope": "openid mail", "preferred_username": "alice", "exp": time.Now().Add(time.Hour).Unix(),
		}
		for name, value := range change {
			claims[name] = value
		}
		payload, err := json.Marshal(claims)
		must(t, err)
		signed, err := signer.Sign(payload)
		must(t, err)
		text, err := signed.CompactSerialize()
		must(t, err)
		return text
	}
}

// scramClient is xdg-go's client in the shape of go-sasl's.
type scramClient struct {
	name string
	*scram.ClientConversation
}

func (c scramClient) Start() (string, []byte, error) {
	first, err := c.Step("")
	return c.name, []byte(first), err
}

func (c scramClient) Next(challenge []byte) ([]byte, error) {
	answer, err := c.Step(string(challenge))
	return []byte(answer), err
}

func scramOver(t *testing.T, state tls.ConnectionState, login, password string) sasl.Client {
	t.Helper()
	c, err := scram.SHA256.NewClient(login, password, "")
	must(t, err)
	binding, err := scram.NewTLSExporterBinding(&state)
	must(t, err)
	return scramClient{"SCRAM-SHA-256-PLUS", c.NewConversationWithChannelBinding(binding)}
}

// bearerClient answers the explanation of a refusal with nothing, on which
// go-sasl's server once died.
type bearerClient struct{ message string }

func (c bearerClient) Start() (string, []byte, error) {
	return "OAUTHBEARER", []byte(c.message), nil
}

func (bearerClient) Next([]byte) ([]byte, error) { return []byte{}, nil }

func bearerOf(token string) sasl.Client {
	return bearerClient{"n,,\x01auth=Bearer " + token + "\x01\x01"}
}

func TestMechanisms(t *testing.T) {
	t.Parallel()
	s, ca, token := newMechanismSite(t, "")
	showing := func(c *testenv.Certificate) *tls.Config {
		trust := s.trust.Clone()
		if c != nil {
			trust.Certificates = []tls.Certificate{c.TLS(t)}
		}
		return trust
	}
	person := func(ca *testenv.CA, address string) *testenv.Certificate {
		c := ca.IssueTo(func(template *x509.Certificate) { template.EmailAddresses = []string{address} })
		return &c
	}
	carol, stranger := person(ca, "carol@example.com"), person(testenv.NewCA(t), "carol@example.com")
	nobody := person(ca, "nobody@example.com")
	type login func(state tls.ConnectionState) sasl.Client
	password := func(login, password string) login {
		return func(tls.ConnectionState) sasl.Client { return sasl.NewPlainClient("", login, password) }
	}
	keys := func(login, password string) login {
		return func(state tls.ConnectionState) sasl.Client { return scramOver(t, state, login, password) }
	}
	bearer := func(token string) login { return func(tls.ConnectionState) sasl.Client { return bearerOf(token) } }
	external := func(as string) login {
		return func(tls.ConnectionState) sasl.Client { return sasl.NewExternalClient(as) }
	}
	tests := []struct {
		name  string
		shown *testenv.Certificate
		login login
		ok    bool
	}{
		{"keys, PLAIN", nil, password("alice", "pencil"), true},
		{"keys, PLAIN, wrong", nil, password("alice", "pen"), false},
		{"keys, SCRAM bound to the connection", nil, keys("alice", "pencil"), true},
		{"keys, SCRAM, by address", nil, keys("alice@example.com", "pencil"), true},
		{"keys, SCRAM, wrong", nil, keys("alice", "pen"), false},
		{"cleartext, SCRAM", nil, keys("bob", "pencil"), true},
		{"nobody, SCRAM", nil, keys("mallory", "pencil"), false},
		{"token", nil, bearer(token(nil)), true},
		{"token of somebody without an account", nil, bearer(token(map[string]any{"preferred_username": "mallory"})), false},
		{"token for somebody else", nil, bearer(token(map[string]any{"aud": "web"})), false},
		{"token without the scope", nil, bearer(token(map[string]any{"scope": "openid"})), false},
		{"token that ended", nil, bearer(token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), false},
		{"certificate", carol, external(""), true},
		{"certificate, as itself", carol, external("carol"), true},
		{"certificate, as somebody else", carol, external("alice"), false},
		{"certificate of somebody without an account", nobody, external(""), false},
		{"certificate of another authority", stranger, external(""), false},
		{"no certificate", nil, external(""), false},
		{"a stranger's certificate does not hinder a password", stranger, password("alice", "pencil"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			smtp, err := gosmtp.DialStartTLS(s.address("Submission"), showing(tt.shown))
			must(t, err)
			defer func() { _ = smtp.Close() }()
			must(t, smtp.Noop()) // which makes the handshake
			state, _ := smtp.TLSConnectionState()
			if err := smtp.Auth(tt.login(state)); (err == nil) != tt.ok {
				t.Errorf("submission: %v", err)
			} else if refusal := (*gosmtp.SMTPError)(nil); err != nil && (!errors.As(err, &refusal) || refusal.Code/100 != 5) {
				t.Errorf("submission: %v, want a definite no", err)
			}
			conn, err := tls.Dial("tcp", s.address("IMAPS"), showing(tt.shown))
			must(t, err)
			imap := imapclient.New(conn, nil)
			defer func() { _ = imap.Close() }()
			if err := imap.Authenticate(tt.login(conn.ConnectionState())); (err == nil) != tt.ok {
				t.Errorf("IMAP: %v", err)
			}
		})
	}
}

// greeting reads the first line of a connection.
func greeting(t *testing.T, conn net.Conn) string {
	t.Helper()
	defer func() { _ = conn.Close() }()
	line, err := bufio.NewReader(conn).ReadString('\n')
	must(t, err)
	return line
}

// offers returns what a listener offers in the clear and under TLS.
func offers(t *testing.T, s *site, trust *tls.Config) (imapClear, imapTLS, smtpClear, smtpTLS string) {
	t.Helper()
	clear, err := net.Dial("tcp", s.address("IMAP"))
	must(t, err)
	imapClear = greeting(t, clear)
	protected, err := tls.Dial("tcp", s.address("IMAPS"), trust)
	must(t, err)
	imapTLS = greeting(t, protected)
	c, err := gosmtp.Dial(s.address("Submission"))
	must(t, err)
	must(t, c.Hello("client.example"))
	_, smtpClear = c.Extension("AUTH")
	_ = c.Close()
	c, err = gosmtp.DialStartTLS(s.address("Submission"), trust)
	must(t, err)
	must(t, c.Hello("client.example"))
	_, smtpTLS = c.Extension("AUTH")
	_ = c.Close()
	return imapClear, imapTLS, smtpClear, smtpTLS
}

func TestPolicyOfMechanisms(t *testing.T) {
	t.Parallel()
	s, ca, _ := newMechanismSite(t, `sasl {
      mechanisms             = ["SCRAM-SHA-256-PLUS", "scram-sha-256", "EXTERNAL", "PLAIN"]
      mechanisms_without_tls = ["SCRAM-SHA-256", "PLAIN", "CRAM-MD5"]
      security_options_without_tls = ["noplaintext"]
    }`)
	imapClear, imapTLS, smtpClear, smtpTLS := offers(t, s, s.trust)
	for _, want := range []string{"LOGINDISABLED", "AUTH=SCRAM-SHA-256 ", "AUTH=CRAM-MD5", "STARTTLS"} {
		if !strings.Contains(strings.ReplaceAll(imapClear, "]", " "), want) {
			t.Errorf("IMAP in the clear offers %q, not %s", imapClear, want)
		}
	}
	if strings.Contains(imapClear, "PLAIN") || strings.Contains(imapClear, "PLUS") {
		t.Errorf("IMAP in the clear offers %q", imapClear)
	}
	if !strings.Contains(imapTLS, "AUTH=SCRAM-SHA-256-PLUS AUTH=SCRAM-SHA-256 AUTH=PLAIN]") {
		t.Errorf("IMAP under TLS offers %q", imapTLS)
	}
	if smtpClear != "SCRAM-SHA-256 CRAM-MD5" || smtpTLS != "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN" {
		t.Errorf("submission offers %q in the clear, %q under TLS", smtpClear, smtpTLS)
	}
	shown := ca.IssueTo(func(c *x509.Certificate) { c.EmailAddresses = []string{"carol@example.com"} })
	trust := s.trust.Clone()
	trust.Certificates = []tls.Certificate{shown.TLS(t)}
	if _, imapTLS, _, smtpTLS = offers(t, s, trust); !strings.Contains(imapTLS, "AUTH=EXTERNAL") || !strings.Contains(smtpTLS, "EXTERNAL") {
		t.Errorf("who shows a certificate is offered %q and %q", imapTLS, smtpTLS)
	}
	conn, err := net.Dial("tcp", s.address("IMAP"))
	must(t, err)
	defer func() { _ = conn.Close() }()
	d := &dialog{t: t, conn: conn, text: textproto.NewConn(conn)}
	d.expect("* OK")
	d.say("a LOGIN bob pencil", "a NO ")
	d.say("b AUTHENTICATE PLAIN", "b NO ")
}

// Mechanisms that nobody could log in by are a mistake in the configuration.
func TestImpossibleMechanismsAreRefused(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"SCRAM-SHA-256": "postern password --scheme scram-sha-256", "OAUTHBEARER": `authn "oauth"`, "EXTERNAL": `authn "certificate"`, "CRAM-MD5": "cleartext",
	} {
		s := newSite(t, variant(t, standard, `{ bind = ["127.0.0.1:{{.Port.Submission}}"] }`, `{
    bind = ["127.0.0.1:{{.Port.Submission}}"]
    sasl { mechanisms = ["`+name+`"] }
  }`), nil)
		out, err := command(t.Context(), "config", "check", "-c", s.Config)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestGNUSASL has GNU's SASL library as the client.
func TestGNUSASL(t *testing.T) {
	t.Parallel()
	gsasl := testenv.Program(t, "gsasl")
	s, _, _ := newMechanismSite(t, `sasl { mechanisms = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"] }`)
	for _, tt := range []struct {
		mechanism, login, password string
		ok                         bool
	}{
		{"SCRAM-SHA-256-PLUS", "alice", "pencil", true}, {"SCRAM-SHA-256", "bob", "pencil", true}, {"SCRAM-SHA-1", "bob", "pencil", true},
		{"CRAM-MD5", "bob", "pencil", true}, {"PLAIN", "alice", "pencil", true}, {"LOGIN", "alice", "pencil", true},
		{"SCRAM-SHA-256", "alice", "pen", false}, {"SCRAM-SHA-256", "mallory", "pencil", false}, {"CRAM-MD5", "bob", "pen", false},
	} {
		for protocol, port := range map[string]string{"--smtp": "Submission", "--imap": "IMAP"} {
			args := []string{"--client", protocol, "--connect", "localhost:" + s.port(port), "--mechanism", tt.mechanism,
				"--x509-ca-file", filepath.Join(s.Dir, "cert.pem"), "--authentication-id", tt.login, "--password", tt.password, "--quiet"}
			if !strings.HasSuffix(tt.mechanism, "-PLUS") {
				args = append(args, "--no-cb") // which else finds fault with a server that could bind
			}
			c := exec.Command(gsasl, args...)
			c.Stdin = strings.NewReader("")
			out, err := c.CombinedOutput()
			if (err == nil) != tt.ok {
				t.Errorf("%s %s %s: %v\n%s", protocol, tt.mechanism, tt.login, err, out)
			}
		}
	}
}

// TestCurlTokens has curl log in by token and by certificate.
func TestCurlTokens(t *testing.T) {
	t.Parallel()
	curl := testenv.Program(t, "curl")
	s, ca, token := newMechanismSite(t, "")
	shown := ca.IssueTo(func(c *x509.Certificate) { c.EmailAddresses = []string{"carol@example.com"} })
	certFile, keyFile := shown.WriteFiles(t, t.TempDir(), "carol")
	common := []string{"-sS", "--max-time", "120", "--cacert", filepath.Join(s.Dir, "cert.pem"), "imaps://localhost:" + s.port("IMAPS") + "/", "-X", "NOOP"}
	for name, args := range map[string][]string{
		"OAUTHBEARER": {"--oauth2-bearer", token(nil), "--user", "alice", "--login-options", "AUTH=OAUTHBEARER"},
		"XOAUTH2":     {"--oauth2-bearer", token(nil), "--user", "alice@example.com", "--login-options", "AUTH=XOAUTH2"},
		"EXTERNAL":    {"--cert", certFile, "--key", keyFile, "--user", "carol:", "--login-options", "AUTH=EXTERNAL"},
	} {
		if out, err := exec.Command(curl, append(common, args...)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	for name, args := range map[string][]string{
		"OAUTHBEARER, bad":          {"--oauth2-bearer", "bad", "--user", "alice", "--login-options", "AUTH=OAUTHBEARER"},
		"XOAUTH2 for somebody else": {"--oauth2-bearer", token(nil), "--user", "bob", "--login-options", "AUTH=XOAUTH2"},
	} {
		if out, err := exec.Command(curl, append(common, args...)...).CombinedOutput(); err == nil {
			t.Errorf("%s got in:\n%s", name, out)
		}
	}
}

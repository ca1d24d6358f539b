package oauth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// provider is an OpenID provider of this process.
type provider struct {
	t      *testing.T
	server *httptest.Server
	caFile string
	asked  atomic.Int32 // for keys
	shown  atomic.Int32 // tokens

	mu     sync.Mutex
	keys   map[string]*ecdsa.PrivateKey
	down   bool
	slow   chan struct{} // when not nil, answers wait for its close
	edit   func(discovery map[string]any)
	active map[string]map[string]any // introspected tokens
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	ca := testenv.NewCA(t)
	p := &provider{t: t, keys: map[string]*ecdsa.PrivateKey{}, active: map[string]map[string]any{}, caFile: ca.WriteFile(t.TempDir())}
	p.rotate("k1")
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue("127.0.0.1").TLS(t)}}
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
	return p
}

// rotate replaces all keys by a new one.
func (p *provider) rotate(id string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = map[string]*ecdsa.PrivateKey{id: key}
}

func (p *provider) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	down, slow, edit, keys := p.down, p.slow, p.edit, maps.Clone(p.keys)
	p.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-r.Context().Done():
			return
		}
	}
	if down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		d := map[string]any{"issuer": p.server.URL, "jwks_uri": p.server.URL + "/keys", "introspection_endpoint": p.server.URL + "/introspect"}
		if edit != nil {
			edit(d)
		}
		json.NewEncoder(w).Encode(d)
	case "/keys":
		p.asked.Add(1)
		all := []any{map[string]any{"kty": "future", "kid": "x"}}
		for id, key := range keys {
			all = append(all, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"})
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": all})
	case "/introspect":
		p.shown.Add(1)
		if id, secret, ok := r.BasicAuth(); !ok || id != "postern" || secret != "s3cret" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		c := map[string]any{"active": false}
		p.mu.Lock()
		if known, found := p.active[r.PostFormValue("token")]; found {
			c = maps.Clone(known)
		}
		p.mu.Unlock()
		json.NewEncoder(w).Encode(c)
	default:
		http.NotFound(w, r)
	}
}

// token signs claims, over the usual ones; nil removes one.
func (p *provider) token(change map[string]any) string {
	p.mu.Lock()
	id := slices.Collect(maps.Keys(p.keys))[0]
	key := p.keys[id]
	p.mu.Unlock()
	return sign(p.t, jose.ES256, key, id, p.claims(change))
}

func (p *provider) claims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": p.server.URL, "aud": []string{"account", "mail"}, "azp": "thunderbird", "sub": "42", "scope": "openid imap",
		"preferred_username": "alice", "email": "alice@example.com", "email_verified": true,
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
	}
	for name, value := range change {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (p *provider) verifier(cfg Config) *Verifier {
	p.t.Helper()
	cfg.Issuer, cfg.CAFile = p.server.URL, p.caFile
	if cfg.Audiences == nil {
		cfg.Audiences = []string{"mail"}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute // of a busy machine
	}
	v, err := New(cfg, hclog.NewNullLogger())
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// people is a directory.
type people map[string]mail.Account

func (p people) Account(_ context.Context, login string) (mail.Account, error) {
	if login == "down@example.com" {
		return mail.Account{}, status.New(status.DirectoryDown, nil)
	}
	if a, found := p[login]; found {
		return a, nil
	}
	return mail.Account{}, status.New(status.NoSuchUser, nil)
}

func TestSignedTokens(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	address, _ := mail.ParseAddress("alice@example.com")
	directory := people{
		"alice@example.com": {Name: "alice", Addresses: []mail.Address{address}},
		"list@example.com":  {Name: "listowner", Addresses: []mail.Address{address}},
	}
	byEmail := Config{LoginClaim: "email", Accounts: directory}
	strict := Config{Scopes: []string{"imap"}, Parties: []string{"thunderbird"}, Claims: map[string]string{"typ": "Bearer", "groups": "mail-users", "level": "2"}}
	type set = map[string]any
	now := time.Now().Unix()
	tests := []struct {
		name   string
		cfg    Config
		change set
		want   status.Reason
		login  string
	}{
		{"right", Config{}, nil, status.OK, "alice"},
		{"one audience as text", Config{}, set{"aud": "mail"}, status.OK, "alice"},
		{"another audience", Config{}, set{"aud": "web"}, status.AuthFailed, ""},
		{"no audience", Config{}, set{"aud": nil}, status.AuthFailed, ""},
		{"another issuer", Config{}, set{"iss": "https://evil.example"}, status.AuthFailed, ""},
		{"no issuer", Config{}, set{"iss": nil}, status.AuthFailed, ""},
		{"expired", Config{}, set{"exp": now - 61}, status.AuthFailed, ""},
		{"expired within the skew", Config{}, set{"exp": now - 30}, status.OK, "alice"},
		{"no end", Config{}, set{"exp": nil}, status.AuthFailed, ""},
		{"end is text", Config{}, set{"exp": "tomorrow"}, status.AuthFailed, ""},
		{"end beyond time", Config{}, set{"exp": 1e300}, status.AuthFailed, ""},
		{"not yet", Config{}, set{"nbf": now + 90}, status.AuthFailed, ""},
		{"not yet within the skew", Config{}, set{"nbf": now + 30}, status.OK, "alice"},
		{"issued in the future", Config{}, set{"iat": now + 90}, status.AuthFailed, ""},
		{"no name", Config{}, set{"preferred_username": nil}, status.AuthFailed, ""},
		{"name is a number", Config{}, set{"preferred_username": 7}, status.AuthFailed, ""},
		{"another claim", Config{LoginClaim: "sub"}, nil, status.OK, "42"},
		{"rules", strict, set{"typ": "Bearer", "groups": []string{"a", "mail-users"}, "level": 2}, status.OK, "alice"},
		{"rules, other claim", strict, set{"typ": "ID", "groups": []string{"mail-users"}, "level": 2}, status.AuthFailed, ""},
		{"rules, not in the list", strict, set{"typ": "Bearer", "groups": []string{"mail-users2"}, "level": 2}, status.AuthFailed, ""},
		{"without the scope", Config{Scopes: []string{"imap", "smtp"}}, nil, status.AuthFailed, ""},
		{"Microsoft's scope", Config{Scopes: []string{"smtp"}}, set{"scp": "smtp imap"}, status.OK, "alice"},
		{"another client", Config{Parties: []string{"outlook"}}, nil, status.AuthFailed, ""},
		{"client_id", Config{Parties: []string{"outlook"}}, set{"azp": nil, "client_id": "outlook"}, status.OK, "alice"},
		{"email", byEmail, nil, status.OK, "alice@example.com"},
		{"email not verified", byEmail, set{"email_verified": false}, status.AuthFailed, ""},
		{"email verified unsaid", byEmail, set{"email_verified": nil}, status.AuthFailed, ""},
		{"email not verified, believed", Config{LoginClaim: "email", UnverifiedEmail: true, Accounts: directory}, set{"email_verified": nil}, status.OK, "alice@example.com"},
		{"email of nobody", byEmail, set{"email": "x@example.com"}, status.AuthFailed, ""},
		{"email that the account does not own", byEmail, set{"email": "list@example.com"}, status.AuthFailed, ""},
		{"email that is none", byEmail, set{"email": "alice"}, status.AuthFailed, ""},
		{"email, directory down", byEmail, set{"email": "down@example.com"}, status.DirectoryDown, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := p.verifier(tt.cfg).Check(t.Context(), p.token(tt.change), "")
			if status.Of(err) != tt.want || err == nil && got.Login != tt.login {
				t.Fatalf("Check = %q, %v; want %q, %v", got.Login, err, tt.login, tt.want)
			}
			if got.By != authn.ByToken || !strings.Contains(got.Detail, p.server.URL) {
				t.Errorf("vouched %+v", got)
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	v := p.verifier(Config{})
	good := p.token(nil)
	parts := strings.Split(good, ".")
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.mu.Lock()
	public := p.keys["k1"].Public().(*ecdsa.PublicKey)
	p.mu.Unlock()
	shared, err := public.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	none := "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ." + parts[1] + "."
	embedded := func() string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: other}, &jose.SignerOptions{EmbedJWK: true})
		if err != nil {
			t.Fatal(err)
		}
		payload, _ := json.Marshal(p.claims(nil))
		signed, _ := signer.Sign(payload)
		text, _ := signed.CompactSerialize()
		return text
	}()
	tests := map[string]string{
		"another key under the same id":    sign(t, jose.ES256, other, "k1", p.claims(nil)),
		"another key without an id":        sign(t, jose.ES256, other, "", p.claims(nil)),
		"a key that the token brings":      embedded,
		"no signature":                     none,
		"the signature cut off":            parts[0] + "." + parts[1] + ".",
		"the public key as shared secret":  sign(t, jose.HS256, shared, "k1", p.claims(nil)),
		"content changed":                  parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2],
		"not a token":                      "abc",
		"nothing":                          "",
		"huge":                             good + strings.Repeat("A", MaxTokenOctets),
		"an object instead of compact":     `{"payload":"e30","signatures":[]}`,
		"content that is no object":        signRaw(t, p, []byte("[]")),
		"content that is no JSON":          signRaw(t, p, []byte("{")),
		"content that is null":             signRaw(t, p, []byte("null")),
		"signed by a key nobody published": sign(t, jose.ES256, other, "k9", p.claims(nil)),
	}
	for name, token := range tests {
		v := p.verifier(Config{}) // of its own, for the keys are asked for
		if got, err := v.Check(t.Context(), token, "alice"); status.Of(err) != status.AuthFailed || got.Login != "" {
			t.Errorf("%s: %q, %v; want AuthFailed", name, got.Login, err)
		} else if strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error shows the token", name)
		}
	}
	if _, err := v.Check(t.Context(), good, ""); err != nil {
		t.Errorf("the good one: %v", err)
	}
	narrow := p.verifier(Config{Algorithms: []string{"RS256"}})
	if _, err := narrow.Check(t.Context(), good, ""); status.Of(err) != status.AuthFailed {
		t.Errorf("an algorithm that is not on the list: %v", err)
	}
}

func signRaw(t *testing.T, p *provider, payload []byte) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: crypto.PrivateKey(p.keys["k1"]), KeyID: "k1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := signed.CompactSerialize()
	return text
}

// clock is a time that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func (p *provider) timed(cfg Config) (*Verifier, *clock) {
	v, c := p.verifier(cfg), &clock{}
	v.now = c.now
	return v, c
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	v, clock := p.timed(Config{Skew: 48 * time.Hour})
	check := func(want status.Reason) {
		t.Helper()
		if _, err := v.Check(t.Context(), p.token(nil), ""); status.Of(err) != want {
			t.Fatalf("Check = %v, want %v", err, want)
		}
	}
	check(status.OK)
	check(status.OK)
	if n := p.asked.Load(); n != 1 {
		t.Fatalf("the issuer was asked %d times for its keys", n)
	}
	// The issuer was asked a moment ago: not yet known is no reason to refuse.
	p.rotate("k2")
	check(status.Unknown)
	clock.advance(askAgain + time.Second)
	check(status.OK)
	if n := p.asked.Load(); n != 2 {
		t.Errorf("the issuer was asked %d times", n)
	}
	// An id that nobody has: one question, then a pause.
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	clock.advance(askAgain + time.Second)
	forged := sign(t, jose.ES256, other, "k9", p.claims(nil))
	if _, err := v.Check(t.Context(), forged, ""); status.Of(err) != status.AuthFailed {
		t.Errorf("an id that nobody has: %v", err)
	}
	for i := range 20 {
		v.Check(t.Context(), sign(t, jose.ES256, other, fmt.Sprint("x", i), p.claims(nil)), "")
	}
	if n := p.asked.Load(); n != 3 {
		t.Errorf("strangers made us ask %d times", n)
	}
	check(status.OK)
}

func TestIssuerDown(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	v, clock := p.timed(Config{Skew: 48 * time.Hour})
	token := p.token(nil)
	p.set(func() { p.down = true })
	if _, err := v.Check(t.Context(), token, ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Fatalf("without keys: %v, want not known", err)
	}
	p.set(func() { p.down = false })
	if _, err := v.Check(t.Context(), token, ""); err == nil {
		t.Fatal("asked again at once")
	}
	clock.advance(askAgain + time.Second)
	if _, err := v.Check(t.Context(), token, ""); err != nil {
		t.Fatalf("back: %v", err)
	}
	p.set(func() { p.down = true })
	clock.advance(keysFresh + time.Minute)
	if _, err := v.Check(t.Context(), token, ""); err != nil {
		t.Errorf("with keys from before: %v", err)
	}
	p.rotate("k2")
	if _, err := v.Check(t.Context(), p.token(nil), ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Errorf("a new key that cannot be read: %v, want not known", err)
	}
	clock.advance(keysStale)
	if _, err := v.Check(t.Context(), token, ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Errorf("with keys too old: %v, want not known", err)
	}
}

func TestWrongDiscovery(t *testing.T) {
	t.Parallel()
	edits := map[string]func(map[string]any){
		"another issuer":    func(d map[string]any) { d["issuer"] = "https://evil.example" },
		"keys in the clear": func(d map[string]any) { d["jwks_uri"] = "http://127.0.0.1/keys" },
		"no keys":           func(d map[string]any) { delete(d, "jwks_uri") },
		"huge":              func(d map[string]any) { d["x"] = strings.Repeat("x", maxAnswerOctets) },
	}
	for name, edit := range edits {
		p := newProvider(t)
		p.edit = edit
		if _, err := p.verifier(Config{}).Check(t.Context(), p.token(nil), ""); err == nil || status.Of(err) == status.AuthFailed {
			t.Errorf("%s: %v, want not known", name, err)
		}
	}
	p := newProvider(t)
	v, err := New(Config{Issuer: p.server.URL, Audiences: []string{"mail"}}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Check(t.Context(), p.token(nil), ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Errorf("an issuer with an unknown certificate: %v, want not known", err)
	}
}

func TestSlowIssuer(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	slow := make(chan struct{})
	p.slow = slow
	v := p.verifier(Config{Timeout: 50 * time.Millisecond})
	if _, err := v.Check(t.Context(), p.token(nil), ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Errorf("Check = %v, want not known", err)
	}
	patient := p.verifier(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := patient.Check(ctx, p.token(nil), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that left: %v", err)
	}
	close(slow)
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.active["good"] = map[string]any{"active": true, "username": "alice", "aud": "mail", "scope": "imap", "exp": time.Now().Add(time.Hour).Unix()}
	p.active["other"] = map[string]any{"active": true, "username": "alice", "aud": "web"}
	p.active["foreign"] = map[string]any{"active": true, "username": "alice", "aud": "mail", "iss": "https://evil.example"}
	p.active["silent"] = map[string]any{"username": "alice"}
	cfg := Config{Introspect: true, ClientID: "postern", ClientSecret: "s3cret", Scopes: []string{"imap"}}
	v, clock := p.timed(cfg)
	for token, want := range map[string]status.Reason{"good": status.OK, "other": status.AuthFailed, "foreign": status.AuthFailed, "bad": status.AuthFailed, "silent": status.Unknown} {
		if got, err := v.Check(t.Context(), token, ""); status.Of(err) != want || err == nil && got.Login != "alice" {
			t.Errorf("%s: %q, %v; want %v", token, got.Login, err, want)
		}
	}
	before := p.shown.Load()
	p.set(func() { delete(p.active, "good") })
	if _, err := v.Check(t.Context(), "good", ""); err != nil || p.shown.Load() != before {
		t.Errorf("again within a minute: %v, asked %d times more", err, p.shown.Load()-before)
	}
	clock.advance(answerFresh)
	if _, err := v.Check(t.Context(), "good", ""); status.Of(err) != status.AuthFailed {
		t.Errorf("a token taken back, a minute later: %v", err)
	}
	p.set(func() { p.down = true })
	if _, err := v.Check(t.Context(), "new", ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Errorf("issuer down: %v, want not known", err)
	}
	p.set(func() { p.down = false })
	cfg.ClientSecret = "wrong"
	if _, err := p.verifier(cfg).Check(t.Context(), "x", ""); err == nil || status.Of(err) == status.AuthFailed {
		t.Errorf("we are not known to the issuer: %v, want not known", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	a, now := newAnswers(), time.Now()
	for i := range maxAnswers + 100 {
		a.keep([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, claims{}, now)
	}
	if len(a.entries) != maxAnswers || len(a.order) != maxAnswers {
		t.Errorf("%d entries, %d in order", len(a.entries), len(a.order))
	}
	a.keep([32]byte{1, 2, 3, 4}, claims{}, now.Add(time.Hour))
	if len(a.entries) != 1 {
		t.Errorf("%d entries after an hour", len(a.entries))
	}
}

func TestSeveralIssuers(t *testing.T) {
	t.Parallel()
	one, two, third := newProvider(t), newProvider(t), newProvider(t)
	all := Issuers{one.verifier(Config{}), two.verifier(Config{LoginClaim: "email", UnverifiedEmail: true})}
	if got, err := all.Check(t.Context(), one.token(nil), ""); err != nil || got.Login != "alice" {
		t.Errorf("the first: %q, %v", got.Login, err)
	}
	if got, err := all.Check(t.Context(), two.token(nil), ""); err != nil || got.Login != "alice@example.com" {
		t.Errorf("the second: %q, %v", got.Login, err)
	}
	if _, err := all.Check(t.Context(), third.token(nil), ""); status.Of(err) != status.AuthFailed {
		t.Errorf("a third: %v", err)
	}
	two.set(func() { two.down = true })
	if _, err := all.Check(t.Context(), one.token(nil), ""); err != nil {
		t.Errorf("the first, with the second down: %v", err)
	}
	if n := third.asked.Load(); n != 0 {
		t.Errorf("an issuer that a stranger named was asked")
	}
}

func TestRunKeepsKeys(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	v := p.verifier(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	deadline := time.After(2 * time.Minute)
	for p.asked.Load() == 0 {
		select {
		case <-deadline:
			t.Fatal("keys were never read")
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Issuer: "https://id.example.com", Audiences: []string{"mail"}}
	if _, err := New(good, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Config){
		"no issuer":              func(c *Config) { c.Issuer = "" },
		"issuer in the clear":    func(c *Config) { c.Issuer = "http://id.example.com" },
		"no audience":            func(c *Config) { c.Audiences = nil },
		"HS256":                  func(c *Config) { c.Algorithms = []string{"HS256"} },
		"none":                   func(c *Config) { c.Algorithms = []string{"none"} },
		"introspection as whom?": func(c *Config) { c.Introspect = true },
		"no such CA file":        func(c *Config) { c.CAFile = "/nonexistent" },
	} {
		cfg := good
		edit(&cfg)
		if _, err := New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzToken(f *testing.F) {
	for _, seed := range []string{"", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA", `{"payload":"e30"}`, "..", "eyJhbGciOiJFUzI1NiIsImtpZCI6MX0.e30.AA"} {
		f.Add(seed)
	}
	v, err := New(Config{Issuer: "https://id.invalid", Audiences: []string{"mail"}, Timeout: time.Second}, hclog.NewNullLogger())
	if err != nil {
		f.Fatal(err)
	}
	v.issuer.tried, v.issuer.fault = time.Now().Add(time.Hour), errors.New("not asked in this test")
	f.Fuzz(func(t *testing.T, token string) {
		claimedIssuer(token)
		if got, err := v.Check(context.Background(), token, ""); err == nil {
			t.Errorf("%q logged %q in", token, got.Login)
		}
	})
}

func FuzzClaims(f *testing.F) {
	for _, seed := range []string{`{}`, `{"iss":"https://id.invalid","aud":["mail",1],"exp":1e9,"scope":"a b","scp":["c"]}`, `{"exp":-1}`, `null`, `[]`, `{"exp":1e308,"nbf":{}}`} {
		f.Add([]byte(seed))
	}
	v, err := New(Config{Issuer: "https://id.invalid", Audiences: []string{"mail"}, LoginClaim: "email", Claims: map[string]string{"a": "b"}, Scopes: []string{"x"}}, hclog.NewNullLogger())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := parseClaims(payload)
		if err != nil {
			return
		}
		if v.allow(c) == nil {
			if !slices.Contains(c.list("aud"), "mail") || c.text("iss") != "https://id.invalid" {
				t.Errorf("%s is allowed", payload)
			}
		}
		_, _ = v.login(context.Background(), c)
	})
}

// Two blocks may name one issuer, with other rules: a token that the first
// refuses is the second's, and one that both refuse is refused.
func TestOneIssuerInTwoBlocks(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	all := Issuers{p.verifier(Config{Audiences: []string{"web"}}), p.verifier(Config{LoginClaim: "email"})}
	if got, err := all.Check(t.Context(), p.token(nil), ""); err != nil || got.Login != "alice@example.com" {
		t.Errorf("for the second: %q, %v", got.Login, err)
	}
	if got, err := all.Check(t.Context(), p.token(map[string]any{"aud": "web"}), ""); err != nil || got.Login != "alice" {
		t.Errorf("for the first: %q, %v", got.Login, err)
	}
	if _, err := all.Check(t.Context(), p.token(map[string]any{"aud": "printer"}), ""); status.Of(err) != status.AuthFailed {
		t.Errorf("for nobody: %v", err)
	}
}

func TestKeysOfOneID(t *testing.T) {
	t.Parallel()
	i := &issuer{keys: []jose.JSONWebKey{{KeyID: "k", Algorithm: "RS256"}, {KeyID: "other"}, {KeyID: "k", Algorithm: "ES256"}}}
	if found := i.withIDLocked("k"); len(found) != 2 {
		t.Errorf("%d keys of one id, want 2", len(found))
	}
}

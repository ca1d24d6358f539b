package smtp

import (
	"crypto/tls"
	"encoding/base64"
	"net"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

// clientPlays runs one login against a peer that offers mechanisms and awaits
// and answers commands in turn. "334 " answers are given unencoded.
func clientPlays(t *testing.T, cfg ClientConfig, offered string, dialogue ...string) error {
	t.Helper()
	near, far := clientSocketpair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		p := clientNewPeer(far)
		p.say("220 x")
		p.line()
		p.say("250-x", "250 AUTH "+offered)
		for i := 0; i < len(dialogue); i += 2 {
			verb, sent, _ := strings.Cut(p.line(), " ")
			if verb == "AUTH" {
				name, initial, _ := strings.Cut(sent, " ")
				verb, sent = "AUTH "+name+" ", initial
			} else {
				verb, sent = "", verb
			}
			text, err := base64.StdEncoding.DecodeString(sent)
			if err != nil {
				text = []byte(sent)
			}
			if got := verb + string(text); got != dialogue[i] {
				t.Errorf("got %q, want %q", got, dialogue[i])
			}
			answer := dialogue[i+1]
			if challenge, ok := strings.CutPrefix(answer, "334 "); ok {
				answer = "334 " + base64.StdEncoding.EncodeToString([]byte(challenge))
			}
			p.say(answer)
		}
	}()
	c, err := NewClient(t.Context(), near, cfg)
	if c != nil {
		_ = c.Close()
	}
	<-done
	if err != nil && !status.ReplyOf(err).Transient() {
		t.Errorf("%v is not transient", err)
	}
	if err != nil && strings.Contains(err.Error(), cfg.Password) {
		t.Errorf("password in %v", err)
	}
	return err
}

// The examples of RFC 5802 section 5 and RFC 7677 section 3.
var (
	clientSCRAM1Example = []string{
		"AUTH SCRAM-SHA-1 n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
		"334 r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
		"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
		"334 v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
		"", "235 ok",
	}
	clientSCRAM256Example = []string{
		"AUTH SCRAM-SHA-256 n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
		"334 r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
		"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
		"334 v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
		"", "235 ok",
	}
)

func TestClientSCRAMExamples(t *testing.T) {
	t.Parallel()
	cfg := ClientConfig{Login: "user", Password: "pencil", nonce: func() string { return "rOprNGfwEbeRWgbNEkqO" }}
	if err := clientPlays(t, cfg, "PLAIN LOGIN SCRAM-SHA-1 scram-sha-256 SCRAM-SHA-256-PLUS", clientSCRAM256Example...); err != nil {
		t.Errorf("SHA-256: %v", err)
	}
	cfg.nonce = func() string { return "fyko+d2lbbFgONRv9qkxdawL" }
	if err := clientPlays(t, cfg, "PLAIN SCRAM-SHA-1", clientSCRAM1Example...); err != nil {
		t.Errorf("SHA-1: %v", err)
	}
}

// TestClientSCRAMServerProves: a server that does not know the password, or
// would have us work for hours, is not spoken to.
func TestClientSCRAMServerProves(t *testing.T) {
	t.Parallel()
	change := func(n int, answer string) []string {
		d := append([]string(nil), clientSCRAM256Example[:2*n+2]...)
		d[2*n+1] = answer
		if strings.HasPrefix(answer, "334 ") {
			d = append(d, "*", "501 5.7.0 cancelled")
		}
		return d
	}
	for name, tt := range map[string]struct {
		dialogue []string
		want     string
	}{
		"another signature":  {change(1, "334 v=AAAATRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), "SCRAM-SHA-256"},
		"no signature":       {change(1, "235 2.7.0 welcome"), "without proving"},
		"no exchange at all": {change(0, "235 2.7.0 welcome"), "without proving"},
		"another nonce":      {change(0, "334 r=xOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), "nonce"},
		"few iterations":     {change(0, "334 r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1"), "iteration"},
		"endless iterations": {change(0, "334 r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=2000000000"), "1000000 iterations"},
		"wrong password":     {change(1, "535 5.7.8 no"), "535 5.7.8"},
		"error in SCRAM":     {change(1, "334 e=invalid-proof"), "invalid-proof"},
		"empty challenge":    {change(0, "334 "), "SCRAM-SHA-256"},
	} {
		cfg := ClientConfig{Login: "user", Password: "pencil", nonce: func() string { return "rOprNGfwEbeRWgbNEkqO" }}
		if err := clientPlays(t, cfg, "SCRAM-SHA-256 PLAIN", tt.dialogue...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestClientMechanisms: the order is ours, of what is offered and allowed.
func TestClientMechanisms(t *testing.T) {
	t.Parallel()
	cfg := ClientConfig{Login: "user", Password: "pencil", Mechanisms: []string{"LOGIN", "PLAIN"}}
	if err := clientPlays(t, cfg, "SCRAM-SHA-256 PLAIN LOGIN", "AUTH LOGIN ", "334 Username:", "user", "334 Password:", "pencil", "235 ok"); err != nil {
		t.Error(err)
	}
	cfg.Mechanisms = []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}
	if err := clientPlays(t, cfg, "PLAIN SCRAM-SHA-256-PLUS"); err == nil || !strings.Contains(err.Error(), "no mechanism") {
		t.Errorf("PLAIN is not allowed, and -PLUS needs TLS: %v", err)
	}
	// A long initial response waits for the server to ask (RFC 4954 section 4).
	cfg = ClientConfig{Login: "user", Password: strings.Repeat("p", 400)}
	if err := clientPlays(t, cfg, "PLAIN", "AUTH PLAIN ", "334 ", "\x00user\x00"+cfg.Password, "235 ok"); err != nil {
		t.Error(err)
	}
}

// TestClientSCRAMPlus logs in with channel binding to a server of another hand.
func TestClientSCRAMPlus(t *testing.T) {
	t.Parallel()
	ca := testenv.NewCA(t)
	credentials := func(string) (scram.StoredCredentials, error) {
		c, err := scram.SHA256.NewClient("user", "pencil", "")
		if err != nil {
			return scram.StoredCredentials{}, err
		}
		return c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt salt", Iters: 4096})
	}
	address := clientListen(t, func(_ int, conn net.Conn) {
		p := clientNewPeer(conn)
		p.say("220 x")
		p.line()
		p.say("250-x", "250 STARTTLS")
		p.line()
		p.say("220 go")
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{ca.Issue("localhost", "127.0.0.1").TLS(t)}})
		p = clientNewPeer(secure)
		p.line()
		p.say("250-x", "250 AUTH SCRAM-SHA-256-PLUS")
		state := secure.ConnectionState()
		binding, err := scram.NewTLSExporterBinding(&state)
		if err != nil {
			t.Error(err)
			return
		}
		server, err := scram.SHA256.NewServer(credentials)
		if err != nil {
			t.Error(err)
			return
		}
		exchange := server.NewConversationWithChannelBindingRequired(binding)
		message := strings.TrimPrefix(p.line(), "AUTH SCRAM-SHA-256-PLUS ")
		for !exchange.Done() {
			text, _ := base64.StdEncoding.DecodeString(message)
			answer, err := exchange.Step(string(text))
			if err != nil {
				t.Error(err)
			}
			p.say("334 " + base64.StdEncoding.EncodeToString([]byte(answer)))
			message = p.line()
		}
		if !exchange.Valid() {
			p.say("535 no")
			return
		}
		p.say("235 ok")
	})
	c, err := Dial(t.Context(), "tcp", address, ClientConfig{
		TLS: ClientTLSEncrypt, Login: "user", Password: "pencil", Mechanisms: []string{"SCRAM-SHA-256-PLUS"},
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// FuzzClientSCRAM: whatever a server says, it is believed only with the proof.
func FuzzClientSCRAM(f *testing.F) {
	f.Add("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "v=AAAA")
	f.Add("r=,s=,i=", "e=other-error")
	f.Fuzz(func(t *testing.T, first, final string) {
		c := &Client{cfg: ClientConfig{Login: "user", Password: "pencil", nonce: func() string { return "rOprNGfwEbeRWgbNEkqO" }}}
		m, err := c.scram(mechanismSCRAM256)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Start(); err != nil {
			t.Fatal(err)
		}
		for _, challenge := range []string{first, final, final} {
			if _, err := m.Next([]byte(challenge)); err != nil {
				break
			}
		}
		if m.verified() == nil && final != "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
			t.Fatalf("%q, %q believed", first, final)
		}
	})
}

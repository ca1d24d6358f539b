package sasl

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	gosasl "github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/status"
)

// tokens knows the token "good", of alice.
type tokens struct{}

func (tokens) Check(_ context.Context, token, _ string) (authn.Vouched, error) {
	switch token {
	case "good", "good+/.-_~==":
		return authn.Vouched{Login: "alice", Detail: "issuer x"}, nil
	case "outage":
		return authn.Vouched{}, errors.New("issuer does not answer")
	}
	return authn.Vouched{}, status.New(status.AuthFailed, errors.New("bad token"))
}

func (tokens) Hint() (configuration, scope string) {
	return "https://id.example.com/.well-known/openid-configuration", "imap smtp"
}

func tokenExchangeOf(t *testing.T, r *recorder, mechanism string) *Exchange {
	t.Helper()
	m, err := New(Config{}, Deps{Verifier: r, Tokens: tokens{}})
	if err != nil {
		t.Fatal(err)
	}
	x, err := m.Start(t.Context(), mechanism, "imap", protected)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestBearer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, mechanism, message string
		want                     status.Reason
		authorization            string
	}{
		{"plain", OAuthBearer, "n,,\x01auth=Bearer good\x01\x01", status.OK, ""},
		{"as somebody", OAuthBearer, "n,a=alice@example.com,\x01host=mx\x01port=993\x01auth=Bearer good\x01\x01", status.OK, "alice@example.com"},
		{"escaped", OAuthBearer, "y,a=a=2Cb=3Dc,\x01auth=bearer good\x01\x01", status.OK, "a,b=c"},
		{"all characters", OAuthBearer, "n,,\x01auth=Bearer good+/.-_~==\x01\x01", status.OK, ""},
		{"the last octet forgotten", OAuthBearer, "n,,\x01auth=Bearer good\x01", status.OK, ""},
		{"XOAUTH2", XOAuth2, "user=alice@example.com\x01auth=Bearer good\x01\x01", status.OK, "alice@example.com"},
		{"bad", OAuthBearer, "n,a=mallory,\x01auth=Bearer bad\x01\x01", status.AuthFailed, "mallory"},
		{"bad, XOAUTH2", XOAuth2, "user=mallory\x01auth=Bearer bad\x01\x01", status.AuthFailed, "mallory"},
		{"outage", OAuthBearer, "n,,\x01auth=Bearer outage\x01\x01", status.AuthTemporary, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			x := tokenExchangeOf(t, r, tt.mechanism)
			challenge, done, err := x.Next([]byte(tt.message))
			if tt.want == status.AuthFailed {
				var said map[string]string
				if done || err != nil || json.Unmarshal(challenge, &said) != nil || said["scope"] != "imap smtp" || said["status"] == "" {
					t.Fatalf("challenge %q, done %v, %v", challenge, done, err)
				}
				if tt.mechanism == OAuthBearer && (said["status"] != "invalid_token" || said["openid-configuration"] == "") {
					t.Errorf("challenge %q", challenge)
				}
				_, done, err = x.Next([]byte{1})
			}
			if status.Of(err) != tt.want || done != (tt.want == status.OK) {
				t.Fatalf("done %v, %v; want %v", done, err, tt.want)
			}
			seen := append(r.vouched, r.refused...)
			if len(seen) != 1 || seen[0].By != authn.ByToken || seen[0].Authorization != tt.authorization {
				t.Errorf("seen %+v", seen)
			}
		})
	}
}

// Whatever a client says to a refusal, nothing above all, ends the exchange.
func TestRefusedTokenAnswered(t *testing.T) {
	t.Parallel()
	for _, answer := range [][]byte{nil, {}, {1}, []byte("n,,\x01auth=Bearer good\x01\x01"), []byte(strings.Repeat("x", maxTokenOctets+1))} {
		r := &recorder{}
		x := tokenExchangeOf(t, r, OAuthBearer)
		if _, done, err := x.Next([]byte("n,,\x01auth=Bearer bad\x01\x01")); done || err != nil {
			t.Fatal(done, err)
		}
		if _, done, err := x.Next(answer); done || err == nil || x.Identity().Authentication != "" {
			t.Errorf("%.10q: done %v, %v", answer, done, err)
		}
		if len(r.vouched) != 0 {
			t.Errorf("%.10q: %+v", answer, r.vouched)
		}
	}
}

// A good token of somebody who has no account here is told apart.
func TestTokenOfNobody(t *testing.T) {
	t.Parallel()
	r := &recorder{err: status.New(status.AuthFailed, authn.ErrUnknownLogin)}
	x := tokenExchangeOf(t, r, OAuthBearer)
	challenge, _, err := x.Next([]byte("n,,\x01auth=Bearer good\x01\x01"))
	if err != nil || !strings.Contains(string(challenge), "insufficient_scope") {
		t.Fatalf("%q, %v", challenge, err)
	}
	if _, _, err = x.Next(nil); status.Of(err) != status.AuthFailed {
		t.Error(err)
	}
}

func TestMalformedBearer(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{OAuthBearer, XOAuth2} {
		for _, message := range []string{
			"", "\x01", "\x01\x01", "n,,", "n,,\x01", "n,,\x01\x01", "p=x,,\x01auth=Bearer good\x01\x01", "n\x01auth=Bearer good\x01\x01",
			"n,b=x,\x01auth=Bearer good\x01\x01", "n,a=,\x01auth=Bearer good\x01\x01", "n,a=x=41,\x01auth=Bearer good\x01\x01", "n,a=x\x00y,\x01auth=Bearer good\x01\x01",
			"n,,x\x01auth=Bearer good\x01\x01", "n,,\x01auth=Basic good\x01\x01", "n,,\x01auth=Bearer\x01\x01", "n,,\x01auth=Bearer \x01\x01",
			"n,,\x01auth=Bearer go od\x01\x01", "n,,\x01auth=Bearer good\x01auth=Bearer good\x01\x01", "n,,\x01auth=Bearer ==\x01\x01",
			"user=\x01auth=Bearer good\x01\x01", "auth=Bearer good\x01\x01", "user=alice\x01\x01", "user=alice\x01auth\x01\x01", "user=alice\x01=x\x01auth=Bearer good\x01\x01",
			"n,,\x01" + strings.Repeat("a=b\x01", 30), strings.Repeat("x", maxTokenOctets+1),
		} {
			r := &recorder{}
			_, done, err := tokenExchangeOf(t, r, mechanism).Next([]byte(message))
			if done || status.Of(err) != status.ParameterSyntax || len(r.vouched)+len(r.refused) != 0 {
				t.Errorf("%s %.40q: done %v, %v", mechanism, message, done, err)
			}
		}
	}
}

func TestGoSASLBearerClient(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	client := gosasl.NewOAuthBearerClient(&gosasl.OAuthBearerOptions{Username: "alice@example.com", Token: "good", Host: "mx.example.com", Port: 993})
	_, response, err := client.Start()
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := tokenExchangeOf(t, r, OAuthBearer).Next(response); !done || err != nil || r.vouched[0].Authorization != "alice@example.com" {
		t.Errorf("done %v, %v, %+v", done, err, r.vouched)
	}
}

func FuzzBearer(f *testing.F) {
	for _, seed := range []string{"n,a=x,\x01auth=Bearer good\x01\x01", "user=x\x01auth=Bearer good\x01\x01", "n,,\x01\x01", "", "y,a==2C,\x01auth=Bearer a=\x01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		for _, parse := range []func(string) (bearer, bool){parseBearer, parseXOAuth2} {
			b, ok := parse(message)
			if ok && (b.token == "" || strings.ContainsAny(b.token, "\x00\x01 ,\r\n") || !strings.Contains(message, b.token)) {
				t.Errorf("%q has the token %q", message, b.token)
			}
		}
	})
}

package sasl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// owners knows the owner by the length of the certificate.
type owners map[int]string

func (o owners) Owner(state *tls.ConnectionState) (authn.Vouched, error) {
	login := o[len(state.PeerCertificates[0].Raw)]
	switch login {
	case "":
		return authn.Vouched{By: authn.ByCertificate}, status.New(status.AuthFailed, errors.New("nobody's"))
	case "down":
		return authn.Vouched{By: authn.ByCertificate}, errors.New("list cannot be read")
	}
	return authn.Vouched{Login: login, By: authn.ByCertificate}, nil
}

func showing(octets int) mail.Client {
	return over(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: make([]byte, octets)}}})
}

func TestExternal(t *testing.T) {
	t.Parallel()
	rules := Rules{owners{1: "alice"}, owners{2: "bob", 3: "down", 1: "late"}, owners{3: "late", 4: "last"}}
	tests := []struct {
		octets        int
		responses     []string
		want          status.Reason
		login, authzn string
	}{
		{1, []string{""}, status.OK, "alice", ""},
		{1, []string{"-", ""}, status.OK, "alice", ""},
		{1, []string{"alice@example.com"}, status.OK, "alice", "alice@example.com"},
		{2, []string{""}, status.OK, "bob", ""},
		{3, []string{""}, status.AuthTemporary, "", ""},
		{4, []string{""}, status.OK, "last", ""},
		{5, []string{"alice"}, status.AuthFailed, "", "alice"},
	}
	for _, tt := range tests {
		r := &recorder{}
		m, err := New(Config{}, Deps{Verifier: r, Certificates: rules})
		if err != nil {
			t.Fatal(err)
		}
		x, err := m.Start(t.Context(), External, "imap", showing(tt.octets))
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := run(x, tt.responses)
		if status.Of(err) != tt.want || done != (tt.want == status.OK) {
			t.Errorf("%d, %q: done %v, %v; want %v", tt.octets, tt.responses, done, err, tt.want)
		}
		seen := append(r.vouched, r.refused...)
		if len(seen) != 1 || seen[0].Login != tt.login || seen[0].Authorization != tt.authzn || seen[0].Mechanism != External {
			t.Errorf("%d: seen %+v", tt.octets, seen)
		}
	}
	m, _ := New(Config{}, Deps{Verifier: &recorder{}, Certificates: rules})
	x, _ := m.Start(t.Context(), External, "imap", showing(1))
	if _, _, err := x.Next([]byte(strings.Repeat("x", authn.MaxLoginOctets+1))); status.Of(err) != status.ParameterSyntax {
		t.Errorf("long response: %v", err)
	}
}

// EXTERNAL is for clients that showed a certificate to us.
func TestExternalOffer(t *testing.T) {
	t.Parallel()
	with, without, via := showing(1), over(&tls.ConnectionState{}), showing(1)
	via.Via = protected.Remote
	m, err := New(Config{}, Deps{Verifier: &recorder{}, Certificates: owners{}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		client mail.Client
		want   bool
	}{"with": {with, true}, "without": {without, false}, "of the proxy": {via, false}, "no TLS": {mail.Client{}, false}} {
		if got := slices.Contains(m.List(&tt.client), External); got != tt.want {
			t.Errorf("%s: offered %v", name, got)
		}
		if _, err := m.Start(t.Context(), External, "imap", tt.client); (err == nil) != tt.want {
			t.Errorf("%s: Start = %v", name, err)
		}
	}
}

package clientcert

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	ours, theirs := testenv.NewCA(t), testenv.NewCA(t)
	leaf := func(c testenv.Certificate) []*x509.Certificate {
		parsed, err := x509.ParseCertificate(c.TLS(t).Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{parsed}
	}
	serverOnly := ours.IssueTo(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	asking := &tls.Config{ClientAuth: tls.RequestClientCert, ClientCAs: ours.Pool()}
	for name, tt := range map[string]struct {
		cfg   *tls.Config
		shown []*x509.Certificate
		want  bool
	}{
		"ours":                    {asking, leaf(ours.Issue("alice")), true},
		"of another authority":    {asking, leaf(theirs.Issue("alice")), false},
		"expired":                 {asking, leaf(ours.IssueExpired("alice")), false},
		"a server's":              {asking, leaf(serverOnly), false},
		"none shown":              {asking, nil, false},
		"no authority":            {&tls.Config{ClientAuth: tls.RequestClientCert}, leaf(ours.Issue("alice")), false},
		"not asked for":           {&tls.Config{ClientCAs: ours.Pool()}, leaf(ours.Issue("alice")), false},
		"no configuration at all": {nil, leaf(ours.Issue("alice")), false},
	} {
		state := tls.ConnectionState{PeerCertificates: tt.shown}
		Verify(tt.cfg, &state)
		if got := len(state.VerifiedChains) > 0; got != tt.want {
			t.Errorf("%s: verified %v", name, got)
		}
	}
}

package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/mail"
)

// shown is a certificate that nobody we know issued.
func shown(t *testing.T, subject string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: subject}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestFingerprints: a certificate counts by its fingerprint, whoever issued it,
// and by its chain where that leads to us.
func TestFingerprints(t *testing.T) {
	t.Parallel()
	cert := shown(t, "")
	whole, key, old := sha256.Sum256(cert.Raw), sha256.Sum256(cert.RawSubjectPublicKeyInfo), sha1.Sum(cert.Raw)
	both := writeTable(t, hexPairs(whole[:])+" 550 whole\n"+strings.ToLower(hexPairs(key[:]))+" 550 key\n")
	for _, tt := range []struct {
		name, list        string
		tls, cert, proven bool
		want              string
	}{
		{"no TLS", "check_ccert_access(table=" + both + ")", false, false, false, "ok"},
		{"no certificate", "check_ccert_access(table=" + both + ")", true, false, false, "ok"},
		{"certificate first", "check_ccert_access(table=" + both + ")", true, true, false, "550 5.7.1 <client.example[198.51.100.7]>: Client certificate rejected: whole"},
		{"key first", "check_ccert_access(table=" + both + "&search_order=pubkey_fingerprint;cert_fingerprint)", true, true, false, "550 5.7.1 <client.example[198.51.100.7]>: Client certificate rejected: key"},
		{"another digest", "check_ccert_access(table=" + writeTable(t, hexPairs(old[:])+" 550 old\n") + "&digest=sha1)", true, true, false, "550 5.7.1 <client.example[198.51.100.7]>: Client certificate rejected: old"},
		{"a table out of order", "check_ccert_access(table=fail:down)", true, true, false, "451 4.3.5 <client.example[198.51.100.7]>: Client certificate rejected: Server configuration error"},
		{"relay_clientcerts", "permit_tls_clientcerts(table=" + writeTable(t, hexPairs(key[:])+" whoever\n") + ") no", true, true, false, "ok"},
		{"not in relay_clientcerts", "permit_tls_clientcerts(table=" + writeTable(t, "0A:0B whoever\n") + ") no", true, true, true, "554 5.7.1 no"},
		{"all that are verified", "permit_tls_all_clientcerts no", true, true, true, "ok"},
		{"but no others", "permit_tls_all_clientcerts no", true, true, false, "554 5.7.1 no"},
		{"nor those without", "permit_tls_all_clientcerts no", true, false, false, "554 5.7.1 no"},
	} {
		f := build(t, Config{}, map[List]string{ListClient: tt.list})
		tx := transaction("s@sender.example", "alice@example.com")
		if tt.tls {
			tx.Client.TLS = &mail.TLSInfo{Connection: &tls.ConnectionState{}}
		}
		if tt.cert {
			tx.Client.TLS.Connection.PeerCertificates = []*x509.Certificate{cert}
		}
		if tt.proven {
			tx.Client.TLS.Connection.VerifiedChains = [][]*x509.Certificate{{cert}}
		}
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

// TestCertificateNames: the reply about a certificate says whose it is, as
// Postfix's, whether or not it was verified; the table of permit_tls_clientcerts
// is no access table, and says so when it is out of order.
func TestCertificateNames(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"check_ccert_access(table=fail:down)":     "451 4.3.5 <partner>: Client certificate rejected: Server configuration error",
		"permit_tls_clientcerts(table=fail:down)": "451 4.3.0 <client.example[198.51.100.7]>: Temporary lookup failure",
	} {
		f := build(t, Config{}, map[List]string{ListClient: list})
		tx := transaction("s@sender.example", "alice@example.com")
		tx.Client.TLS = &mail.TLSInfo{Connection: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{shown(t, "partner")}}}
		if got := outcome(f.chain.Session().Evaluate(t.Context(), tx)); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", list, got, want)
		}
	}
}

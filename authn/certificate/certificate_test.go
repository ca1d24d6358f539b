package certificate

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/status"
)

// altNames is an extension with other names.
func altNames(t *testing.T, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oidAltName, Value: value}
}

func otherName(t *testing.T, kind asn1.ObjectIdentifier, value string) asn1.RawValue {
	t.Helper()
	oid, _ := asn1.Marshal(kind)
	text, err := asn1.MarshalWithParams(value, "utf8,explicit,tag:0")
	if err != nil {
		t.Fatal(err)
	}
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: append(oid, text...)}
}

func showing(t *testing.T, verified bool, edit func(*x509.Certificate)) *tls.ConnectionState {
	t.Helper()
	pair := testenv.NewCA(t).IssueTo(edit).TLS(t)
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		state.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	return state
}

func TestOwner(t *testing.T) {
	t.Parallel()
	person := func(c *x509.Certificate) {
		c.Subject = pkix.Name{
			CommonName: "alice", Organization: []string{"Example"}, OrganizationalUnit: []string{"People"},
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: "alice@old.example.com"}},
		}
		c.ExtraExtensions = append(c.ExtraExtensions, altNames(t,
			asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, Bytes: []byte("alice@example.com")},
			otherName(t, asn1.ObjectIdentifier{1, 2, 3}, "decoy@example.com"),
			otherName(t, oidUPN, "alice@ad.example.com"),
		))
	}
	sneaky := func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "alice,OU=People", Organization: []string{"Example"}}
	}
	bare := func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"Example"}} }
	const template = "CN={login},OU=People,O=Example"
	tests := []struct {
		name     string
		cfg      Config
		edit     func(*x509.Certificate)
		verified bool
		want     string
	}{
		{"CN", Config{From: []Source{CommonName}}, person, true, "alice"},
		{"emailAddress", Config{From: []Source{EmailAddress}}, person, true, "alice@old.example.com"},
		{"rfc822Name", Config{From: []Source{SANEmail}}, person, true, "alice@example.com"},
		{"UPN", Config{From: []Source{SANUPN}}, person, true, "alice@ad.example.com"},
		{"the first that is there", Config{From: []Source{SANUPN, SANEmail, CommonName}}, func(c *x509.Certificate) { c.Subject.CommonName = "bob" }, true, "bob"},
		{"nothing", Config{From: []Source{SANUPN, CommonName, EmailAddress, SANEmail}}, bare, true, ""},
		{"not verified", Config{From: []Source{CommonName}}, person, false, ""},
		{"subject", Config{From: []Source{Subject}, Template: template + ",1.2.840.113549.1.9.1=#0c15616c696365406f6c642e6578616d706c652e636f6d"}, person, true, "alice"},
		{"subject of somebody else", Config{From: []Source{Subject}, Template: template}, bare, true, ""},
		{"a comma in a name is no new part", Config{From: []Source{Subject}, Template: "CN={login},O=Example"}, sneaky, true, ""},
		{"issuer", Config{From: []Source{CommonName}, Issuer: "Test authority of TestOwner/issuer"}, person, true, "alice"},
		{"another issuer", Config{From: []Source{CommonName}, Issuer: "Other"}, person, true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := New(tt.cfg, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			state := showing(t, tt.verified, tt.edit)
			v, err := m.Owner(state)
			if tt.want == "" && status.Of(err) != status.AuthFailed || tt.want != "" && (err != nil || v.Login != tt.want) {
				t.Fatalf("Owner of %s = %q, %v; want %q", state.PeerCertificates[0].Subject, v.Login, err, tt.want)
			}
			if !strings.Contains(v.Detail, "SHA-256") {
				t.Errorf("detail %q", v.Detail)
			}
		})
	}
	if m, _ := New(Config{From: []Source{CommonName}}, hclog.NewNullLogger()); m != nil {
		if _, err := m.Owner(&tls.ConnectionState{}); status.Of(err) != status.AuthFailed {
			t.Errorf("no certificate: %v", err)
		}
	}
}

func TestFingerprints(t *testing.T) {
	t.Parallel()
	state := showing(t, false, func(c *x509.Certificate) { c.Subject.CommonName = "whoever" })
	print := sha256.Sum256(state.PeerCertificates[0].Raw)
	path := filepath.Join(t.TempDir(), "prints")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	colons := strings.ToUpper(hex.EncodeToString(print[:1]))
	for _, b := range print[1:] {
		colons += ":" + strings.ToUpper(hex.EncodeToString([]byte{b}))
	}
	write("# people\n\n" + colons + " Alice@Example.com\n")
	m, err := New(Config{From: []Source{Fingerprint}, File: path}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		if v, err := m.Owner(state); v.Login != want || (err == nil) != (want != "") {
			t.Fatalf("Owner = %q, %v; want %q", v.Login, err, want)
		}
	}
	is("alice@example.com")
	write(hex.EncodeToString(print[:]) + " bob-the-builder\n")
	is("bob-the-builder")
	write("broken")
	is("bob-the-builder")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	is("bob-the-builder")
	write("# nobody\n")
	is("")
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{}, {From: []Source{"shoe_size"}}, {From: []Source{Subject}}, {From: []Source{Subject}, Template: "CN=x"},
		{From: []Source{Subject}, Template: "CN={login},O={login}"}, {From: []Source{Fingerprint}}, {From: []Source{Fingerprint}, File: "/nonexistent"},
	} {
		if _, err := New(cfg, hclog.NewNullLogger()); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func FuzzUPN(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Add([]byte{0x30, 0x17, 0xa0, 0x15, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x14, 0x02, 0x03, 0xa0, 0x07, 0x0c, 0x05, 'a', 'l', 'i', 'c', 'e'})
	f.Fuzz(func(t *testing.T, der []byte) { parseUPN(der) })
}

func FuzzList(f *testing.F) {
	f.Add(strings.Repeat("ab", 32) + " alice\n# x\n")
	f.Add("x y\n")
	f.Fuzz(func(t *testing.T, text string) {
		logins, err := parseList("f", []byte(text))
		for _, login := range logins {
			if err != nil || login == "" {
				t.Errorf("%q gives %q, %v", text, login, err)
			}
		}
	})
}

package testenv

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"testing"
)

// OpenDKIMServer is a private OpenDKIM that signs what comes from internal
// clients, or with the macro daemon_name as Originating, and verifies all else.
type OpenDKIMServer struct {
	// Milter is its socket.
	Milter string
	// Domain is whose mail it signs, with Selector. Where it asks the DNS, it
	// is told the key of this domain, and nothing else.
	Domain, Selector string
	// AuthservID stands in the results it adds.
	AuthservID string
	Process    *Process
}

// Originating is the name of the daemon whose mail is signed.
const Originating = "ORIGINATING"

// OpenDKIM starts an OpenDKIM in a private directory, and ends it after the
// test. internal is the network or address whose mail is signed.
func OpenDKIM(t testing.TB, internal string) *OpenDKIMServer {
	t.Helper()
	program := Program(t, "opendkim")
	dir := TempDir(t)
	s := &OpenDKIMServer{Milter: filepath.Join(dir, "milter"), Domain: "example.com", Selector: "s1", AuthservID: "mx.example.com"}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	writeFile(t, filepath.Join(dir, "key"), private, 0o600)
	writeFile(t, filepath.Join(dir, "dns"), fmt.Appendf(nil, "%s._domainkey.%s v=DKIM1; k=rsa; p=%s\n",
		s.Selector, s.Domain, base64.StdEncoding.EncodeToString(public)), 0o644)
	writeFile(t, filepath.Join(dir, "internal"), []byte(internal+"\n"), 0o644)
	writeFile(t, filepath.Join(dir, "opendkim.conf"), fmt.Appendf(nil, `Mode sv
Domain %[1]s
Selector %[2]s
KeyFile %[3]s/key
Socket local:%[4]s
Background no
RequireSafeKeys no
Syslog no
InternalHosts file:%[3]s/internal
MacroList daemon_name=`+Originating+`
TestDNSData %[3]s/dns
AuthservID %[5]s
AlwaysAddARHeader yes
TemporaryDirectory %[3]s
`, s.Domain, s.Selector, dir, s.Milter, s.AuthservID), 0o644)
	s.Process = Start(t, Command{Path: program, Args: []string{"-f", "-x", filepath.Join(dir, "opendkim.conf")}, Ready: DialReady("unix", s.Milter), Expendable: true})
	return s
}

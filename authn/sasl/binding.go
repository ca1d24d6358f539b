package sasl

import (
	"crypto"
	_ "crypto/sha256" // for the hashes below
	_ "crypto/sha512"
	"crypto/x509"
	"fmt"

	"github.com/postern-mail/postern/mail"
)

// The channel bindings that SCRAM's -PLUS takes. tls-unique is not among them:
// it does not exist in TLS 1.3, and before it can be made to match two
// connections (RFC 9266 section 1).
const (
	bindExporter = "tls-exporter"         // RFC 9266
	bindEndPoint = "tls-server-end-point" // RFC 5929 section 4
)

// bindings returns what the data of a channel binding may be on a connection;
// none where it cannot be bound that way. A listener with several certificates
// has several end points: which one a client saw does not matter, as whoever
// shows it has our key.
func (d *Deps) bindings(client *mail.Client, kind string) [][]byte {
	if !bindable(client) {
		return nil
	}
	switch kind {
	case bindExporter:
		// TLS 1.2 without extended master secret has none.
		data, err := client.TLS.Connection.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err == nil {
			return [][]byte{data}
		}
	case bindEndPoint:
		return d.EndPoints
	}
	return nil
}

// bindable tells whether TLS is between this client and this process.
func bindable(client *mail.Client) bool {
	return client.TLS != nil && client.TLS.Connection != nil && (!client.Via.IsValid() || client.ViaTCP)
}

// canBind tells whether -PLUS can be offered to a client.
func (d *Deps) canBind(client *mail.Client) bool {
	return bindable(client) && (len(d.EndPoints) > 0 || len(d.bindings(client, bindExporter)) > 0)
}

// EndPoint returns the tls-server-end-point binding of a server's certificate:
// its hash, by the function of its signature but no weaker than SHA-256.
func EndPoint(certificate *x509.Certificate) ([]byte, error) {
	var function crypto.Hash
	switch certificate.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		function = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		function = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		function = crypto.SHA512
	default:
		return nil, fmt.Errorf("no channel binding for certificates signed by %v", certificate.SignatureAlgorithm)
	}
	h := function.New()
	h.Write(certificate.Raw)
	return h.Sum(nil), nil
}

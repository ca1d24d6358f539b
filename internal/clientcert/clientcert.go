// Package clientcert verifies the certificates that clients show where nobody
// has to show one. crypto/tls would end the connection of a client whose
// certificate it does not know, and mail servers show theirs to everybody.
package clientcert

import (
	"crypto/tls"
	"crypto/x509"
)

// Verify completes the state of a server's connection: where the client showed
// a certificate that was asked for and not verified, and it leads to one of the
// authorities in cfg.ClientCAs, the chains stand in state.VerifiedChains.
func Verify(cfg *tls.Config, state *tls.ConnectionState) {
	if cfg == nil || cfg.ClientCAs == nil || cfg.ClientAuth != tls.RequestClientCert || len(state.PeerCertificates) == 0 {
		return
	}
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	state.VerifiedChains, _ = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: cfg.ClientCAs, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

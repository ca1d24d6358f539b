package config

// Pair is one certificate with its private key.
type Pair struct {
	block
	CertFile string `conf:"cert_file" required:"the certificate with its chain, PEM" doc:"Certificate with its chain, PEM. Read again on reload."`
	KeyFile  string `conf:"key_file" required:"the certificate's private key, PEM" doc:"Private key, PEM. Read again on reload."`
}

// Pairs lists the certificates, the first one first.
func (t *TLS) Pairs() []*Pair {
	return append([]*Pair{{block: t.block, CertFile: t.CertFile, KeyFile: t.KeyFile}}, t.Others...)
}

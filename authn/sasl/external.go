package sasl

import (
	"crypto/tls"
	"errors"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// Certificates know whose a client certificate is. Implemented by
// authn/certificate.
type Certificates interface {
	// Owner returns the login that the connection's certificate is of, with
	// Accounts and Detail as Vouch takes them; AuthFailed when it is nobody's,
	// and anything else when it cannot know.
	Owner(state *tls.ConnectionState) (authn.Vouched, error)
}

// Rules are several Certificates, asked in order until one knows the owner.
type Rules []Certificates

// Owner implements Certificates.
func (r Rules) Owner(state *tls.ConnectionState) (v authn.Vouched, err error) {
	err = status.New(status.AuthFailed, errors.New("no rule for certificates"))
	for _, rule := range r {
		if v, err = rule.Owner(state); status.Of(err) != status.AuthFailed {
			break
		}
	}
	return v, err
}

// showsCertificate tells whether EXTERNAL makes sense to a client: many
// programs that see it try it first.
func showsCertificate(_ *Deps, client *mail.Client) bool {
	return bindable(client) && len(client.TLS.Connection.PeerCertificates) > 0
}

// external takes the one message of EXTERNAL (RFC 4422 appendix A), the
// authorization identity or nothing.
func (x *Exchange) external(response []byte) ([]byte, step, error) {
	if response == nil {
		return []byte{}, x.external, nil
	}
	v, err := x.mechanisms.deps.Certificates.Owner(x.client.TLS.Connection)
	v.Authorization = string(response)
	if err != nil {
		return nil, nil, x.refuse(v, err)
	}
	return nil, nil, x.vouch(v)
}

package delegation

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// stateOf is what the protocol calls a place in the dialogue.
func stateOf(tx *mail.Transaction) string {
	switch tx.Phase {
	case mail.PhaseConnect:
		return "CONNECT"
	case mail.PhaseHelo:
		if tx.Client.Extended {
			return "EHLO"
		}
		return "HELO"
	case mail.PhaseMail:
		return "MAIL"
	case mail.PhaseRecipient:
		return "RCPT"
	case mail.PhaseData:
		return "DATA"
	default:
		return "END-OF-MESSAGE"
	}
}

const unknown = "unknown"

// attributesOf returns what a service is told, in Postfix's order.
func attributesOf(tx *mail.Transaction, s *Config) []attribute {
	c := &tx.Client
	protocol := "SMTP"
	if c.Extended {
		protocol = "ESMTP"
	}
	address, port := endpoint(c.Remote)
	ours, ourPort := endpoint(c.Local)
	all := make([]attribute, 0, 36)
	all = append(all,
		attribute{"request", "smtpd_access_policy"},
		attribute{"protocol_state", stateOf(tx)},
		attribute{"protocol_name", protocol},
		attribute{"client_address", address},
		attribute{"client_name", orUnknown(c.Hostname)},
		attribute{"client_port", port},
		attribute{"reverse_client_name", orUnknown(c.ReverseName)},
		attribute{"server_address", ours},
		attribute{"server_port", ourPort},
		attribute{"helo_name", c.Helo},
		attribute{"sender", pathOf(tx)},
		attribute{"recipient", recipientOf(tx)},
		attribute{"recipient_count", recipientCount(tx)},
		attribute{"queue_id", string(tx.QueueID)},
		attribute{"instance", instanceOf(tx)},
		attribute{"size", strconv.FormatInt(sizeOf(tx), 10)},
		attribute{"etrn_domain", ""},
		attribute{"stress", ""},
	)
	all = append(all, saslOf(c.Identity)...)
	all = append(all, tlsOf(c.TLS)...)
	return append(all,
		attribute{"policy_context", s.Context},
		attribute{"compatibility_level", "3.6"},
		attribute{"mail_version", s.Version},
	)
}

func endpoint(at netip.AddrPort) (address, port string) {
	if !at.IsValid() {
		return unknown, unknown // a unix socket
	}
	return at.Addr().Unmap().WithZone("").String(), strconv.Itoa(int(at.Port()))
}

func orUnknown(name string) string {
	if name == "" {
		return unknown
	}
	return name
}

func pathOf(tx *mail.Transaction) string {
	if tx.Phase < mail.PhaseMail || tx.Envelope.ReversePath.IsNull() {
		return ""
	}
	return tx.Envelope.ReversePath.String()
}

// recipientOf is the one recipient there is: after RCPT none when there are
// several.
func recipientOf(tx *mail.Transaction) string {
	switch {
	case tx.Recipient != nil:
		return tx.Recipient.Address.String()
	case tx.Phase > mail.PhaseRecipient && len(tx.Envelope.Recipients) == 1:
		return accepted(&tx.Envelope.Recipients[0]).String()
	}
	return ""
}

// accepted is what RCPT named.
func accepted(r *mail.Recipient) mail.Address {
	if r.Accepted != (mail.Address{}) {
		return r.Accepted
	}
	return r.Address
}

// recipientCount is not zero from DATA on only.
func recipientCount(tx *mail.Transaction) string {
	if tx.Phase < mail.PhaseData {
		return "0"
	}
	return strconv.Itoa(len(tx.Envelope.Recipients))
}

// instanceOf is the same for all questions about one message, and for no other.
func instanceOf(tx *mail.Transaction) string {
	if tx.Started.IsZero() {
		return string(tx.Client.Session)
	}
	return fmt.Sprintf("%s.%x", tx.Client.Session, tx.Started.UnixNano())
}

func sizeOf(tx *mail.Transaction) int64 {
	if tx.Octets > 0 {
		return tx.Octets
	}
	return tx.Envelope.DeclaredOctets
}

func saslOf(id *mail.Identity) []attribute {
	method, login := "", ""
	if id != nil {
		method, login = id.Mechanism, id.Authentication
	}
	return []attribute{{"sasl_method", method}, {"sasl_username", login}, {"sasl_sender", ""}}
}

func tlsOf(t *mail.TLSInfo) []attribute {
	var version, cipher, subject, issuer, fingerprint, key, name string
	bits := 0
	if t != nil {
		version, cipher, bits = t.Version, t.Cipher, keysize(t.Cipher)
		if state := t.Connection; state != nil {
			name = state.ServerName
			if shown := leaf(state); shown != nil {
				issuer = shown.Issuer.CommonName
				subject = shown.Subject.CommonName
				fingerprint, key = digest(shown.Raw), digest(shown.RawSubjectPublicKeyInfo)
			}
		}
	}
	return []attribute{
		{"ccert_subject", xtext(subject)}, {"ccert_issuer", xtext(issuer)}, {"ccert_fingerprint", fingerprint}, {"ccert_pubkey_fingerprint", key},
		{"encryption_protocol", version}, {"encryption_cipher", cipher}, {"encryption_keysize", strconv.Itoa(bits)}, {"tls_sni", name},
	}
}

func leaf(state *tls.ConnectionState) *x509.Certificate {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// digest writes a SHA-256 as Postfix does.
func digest(der []byte) string {
	sum := sha256.Sum256(der)
	parts := make([]string, len(sum))
	for i, octet := range sum {
		parts[i] = fmt.Sprintf("%02X", octet)
	}
	return strings.Join(parts, ":")
}

// keysize reads the bits of a cipher's key out of its name.
func keysize(cipher string) int {
	for _, k := range []struct {
		part string
		bits int
	}{{"AES_256", 256}, {"AES_128", 128}, {"CHACHA20", 256}, {"3DES", 168}, {"RC4_128", 128}} {
		if strings.Contains(cipher, k.part) {
			return k.bits
		}
	}
	return 0
}

// xtext escapes what a certificate says (RFC 3461 section 4).
func xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c == '+' || c == '=' || c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

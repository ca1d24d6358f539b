package milter

import (
	"crypto/tls"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// stage is a place in the dialogue that has macros of its own, as filters
// number them.
type stage uint8

const (
	stageConnect stage = iota
	stageHelo
	stageMail
	stageRcpt
	stageData
	stageEOM
	stageEOH
	stageCount
)

// defaultMacros are Postfix's, and what is known of the client.
var defaultMacros = [stageCount][]string{
	stageConnect: {"j", "daemon_name", "daemon_addr", "daemon_port", "v", "_", "client_addr", "client_name", "client_port", "client_ptr"},
	stageHelo:    {"tls_version", "cipher", "cipher_bits", "cert_subject", "cert_issuer"},
	stageMail:    {"i", "auth_type", "auth_authen", "auth_author", "mail_addr", "mail_host", "mail_mailer"},
	stageRcpt:    {"i", "rcpt_addr", "rcpt_host", "rcpt_mailer"},
	stageData:    {"i"},
	stageEOM:     {"i"},
	stageEOH:     {"i"},
}

// stageCommand is the command that the macros of a stage go before.
var stageCommand = [stageCount]byte{cmdConnect, cmdHelo, cmdMail, cmdRcpt, cmdData, cmdEOM, cmdEOH}

// macroPacket returns the macros of a stage that have a value, or nil.
func macroPacket(p packet, at stage, o *options, value func(name string) string) []byte {
	names := defaultMacros[at]
	if asked := o.macros[at]; asked != nil {
		names = asked
	}
	p = append(p.begin(cmdMacro), stageCommand[at])
	empty := len(p)
	for _, name := range names {
		v := value(name)
		if v == "" {
			continue
		}
		before := len(p)
		if len(name) > 1 {
			p = p.text("{" + name + "}")
		} else {
			p = p.text(name)
		}
		p = p.text(v)
		if p.dataOctets() > o.maxData {
			p = p[:before]
		}
	}
	if len(p) == empty {
		return nil
	}
	return p.end()
}

// macro returns the value of a macro, "" for one that has none now.
func (m *Milter) macro(name string, tx *mail.Transaction) string {
	if v, ok := m.cfg.Macros[name]; ok {
		return v
	}
	switch {
	case name == "j" || name == "daemon_name":
		return m.cfg.Hostname
	case name == "v":
		return m.cfg.Software
	case name == "i":
		return string(tx.QueueID)
	case strings.HasPrefix(name, "daemon_"):
		return daemonMacro(name, &tx.Client)
	case strings.HasPrefix(name, "client_"), name == "_":
		return m.clientMacro(name, &tx.Client)
	case strings.HasPrefix(name, "auth_"):
		return authMacro(name, tx.Client.Identity)
	case strings.HasPrefix(name, "mail_"):
		return pathMacro(strings.TrimPrefix(name, "mail_"), tx.Envelope.ReversePath, mail.Route{})
	case strings.HasPrefix(name, "rcpt_") && tx.Recipient != nil:
		return pathMacro(strings.TrimPrefix(name, "rcpt_"), tx.Recipient.Address, tx.Recipient.Route)
	case tx.Client.TLS != nil:
		return tlsMacro(name, tx.Client.TLS)
	}
	return ""
}

func daemonMacro(name string, c *mail.Client) string {
	if !c.Local.IsValid() {
		return ""
	}
	switch name {
	case "daemon_addr":
		return c.Local.Addr().Unmap().String()
	case "daemon_port":
		return strconv.Itoa(int(c.Local.Port()))
	}
	return ""
}

func (m *Milter) clientMacro(name string, c *mail.Client) string {
	shown := m.shown(c)
	switch name {
	case "_":
		return shown.name + " [" + shown.address + "]"
	case "client_name", "client_ptr":
		return shown.name
	case "client_addr":
		return shown.address
	case "client_port":
		return strconv.Itoa(int(shown.port))
	}
	return ""
}

func authMacro(name string, id *mail.Identity) string {
	if id == nil {
		return ""
	}
	switch name {
	case "auth_type":
		return id.Mechanism
	case "auth_authen":
		return id.Authentication
	case "auth_author":
		if id.Authorization != id.Authentication {
			return id.Authorization
		}
	}
	return ""
}

func pathMacro(what string, address mail.Address, route mail.Route) string {
	switch what {
	case "addr":
		return address.String()
	case "host":
		if route.NextHop != "" {
			return route.NextHop
		}
		return string(address.Domain)
	case "mailer":
		if route.Transport != "" {
			return route.Transport
		}
		return "smtp"
	}
	return ""
}

func tlsMacro(name string, t *mail.TLSInfo) string {
	switch name {
	case "tls_version":
		return t.Version
	case "cipher":
		return t.Cipher
	case "cipher_bits":
		return cipherBits(t.Cipher)
	case "cert_subject":
		return t.PeerCN
	case "cert_issuer":
		return issuer(t.Connection)
	}
	return ""
}

// cipherBits finds the length of the key in an IANA name.
func cipherBits(cipher string) string {
	switch {
	case strings.Contains(cipher, "AES_256"), strings.Contains(cipher, "CHACHA20"):
		return "256"
	case strings.Contains(cipher, "AES_128"):
		return "128"
	case strings.Contains(cipher, "3DES"):
		return "168"
	}
	return ""
}

// issuer is who vouches for the client's certificate, once it is verified.
func issuer(c *tls.ConnectionState) string {
	if c == nil || len(c.VerifiedChains) == 0 || len(c.PeerCertificates) == 0 {
		return ""
	}
	return c.PeerCertificates[0].Issuer.CommonName
}

package config

import (
	"strings"

	"github.com/postern-mail/postern/authn"
	"github.com/postern-mail/postern/authn/gssapi"
	"github.com/postern-mail/postern/authn/pam"
)

// PAM returns the configuration of a verifier of kind pam.
func (a *Authn) PAM() pam.Config {
	cfg := pam.Config{Service: a.Service, Socket: a.Socket, Timeout: a.Timeout, ServiceDir: a.ServiceDir, Workers: a.Workers}
	for _, text := range a.Services {
		if protocol, service, ok := strings.Cut(text, "="); ok {
			if cfg.Services == nil {
				cfg.Services = make(map[string]string)
			}
			cfg.Services[protocol] = service
		}
	}
	return cfg
}

// GSSAPI returns the configuration of what takes tickets.
func (a *Authn) GSSAPI() gssapi.Config {
	return gssapi.Config{Realms: a.Realms, Hosts: a.Hosts, Socket: a.Socket, Keytab: a.Keytab, Krb5Config: a.Krb5Config}
}

// pamServices checks the services of single protocols.
func (c checker) pamServices(a *Authn) {
	seen := make(map[string]bool)
	for _, text := range a.Services {
		protocol, service, ok := strings.Cut(text, "=")
		switch {
		case !ok || service == "" || strings.ContainsAny(service, "/{}"):
			c.errorf(a.rangeOf("services"), "Wrong value", "%q is not PROTOCOL=SERVICE, such as imap=dovecot, with the name of a file in /etc/pam.d.", text)
		case !contains(authn.Protocols(), protocol):
			c.errorf(a.rangeOf("services"), "Wrong value", "%q is no protocol; they are %s.%s", protocol, quoteList(authn.Protocols()), didYouMean(protocol, authn.Protocols()))
		case seen[protocol]:
			c.errorf(a.rangeOf("services"), "Contradiction", "There are two services for %s.", protocol)
		}
		seen[protocol] = true
	}
}

// gssapi checks the block that takes tickets.
func (c checker) gssapi(a *Authn) {
	for _, other := range c.file.Authn {
		if other == a {
			break
		}
		if other.Kind == "gssapi" {
			c.errorf(a.at, "Second block", `One authn "gssapi" block takes the tickets of every realm: name them all in its "realms".`)
		}
	}
	switch {
	case a.Keytab == "" && a.Socket == "":
		c.errorf(a.at, "Missing setting", `This verifier needs "socket", where an auth-helper with a keytab listens, or "keytab".`)
	case a.Keytab != "" && a.Socket != "":
		c.errorf(a.rangeOf("keytab"), "Contradiction", "The helper that listens on the socket has a keytab of its own (auth-helper --keytab): set one of the two.")
	case a.Krb5Config != "" && a.Socket != "":
		c.errorf(a.rangeOf("krb5_config"), "Contradiction", "The helper that listens on the socket has its own setting (auth-helper --kerberos-config).")
	}
	c.readable(&a.block, "keytab", a.Keytab)
	c.readable(&a.block, "krb5_config", a.Krb5Config)
	for _, realm := range a.Realms {
		if realm == "" || strings.ContainsAny(realm, "@/ ") {
			c.errorf(a.rangeOf("realms"), "Wrong value", "%q is no realm, such as EXAMPLE.COM.", realm)
		}
	}
	for _, host := range a.Hosts {
		if host == "" || strings.ContainsAny(host, "@/ ") {
			c.errorf(a.rangeOf("service_hosts"), "Wrong value", "%q is no host, such as mail.example.com.", host)
		}
	}
}

package config

import (
	"strings"
	"time"

	"github.com/postern-mail/postern/directory/ldap"
)

// The words of hedge that are no time.
const (
	hedgeAuto = "auto"
	hedgeOff  = "off"
)

// LDAP returns how the servers of a directory of kind ldap are spoken to. Who
// finds servers by the DNS is left to the caller.
func (d *Directory) LDAP() ldap.Config {
	hedge, _ := parseHedge(d.Hedge) // checked
	return ldap.Config{
		URIs: d.URIs, Site: d.Site, StartTLS: d.StartTLS, AllowPlaintext: d.AllowPlaintext, CAFile: d.CAFile, ServerName: d.ServerName,
		IgnoreReferences: d.IgnoreReferrals, ChaseReferrals: d.ChaseReferrals, Dereference: d.Dereference, Hedge: hedge,
		InsecureSkipVerify: d.InsecureNoVerify, CertFile: d.CertFile, KeyFile: d.KeyFile,
		BindDN: d.BindDN, BindPasswordFile: d.BindPasswordFile, SASLExternal: d.SASLExternal,
		Kerberos: ldap.Kerberos{Principal: d.Principal, Keytab: d.KerberosKeytab, ConfigFile: d.KerberosConfig},
		Timeout:  d.Timeout, MaxConnections: d.MaxConns, MaxBindConnections: d.MaxConns,
	}
}

// parseHedge reads a time, auto or off in the room's notation.
func parseHedge(text string) (time.Duration, error) {
	switch strings.ToLower(text) {
	case hedgeAuto, "":
		return 0, nil
	case hedgeOff:
		return -1, nil
	default:
		return parseDuration(text)
	}
}

// ldapServers checks how the servers of a directory of kind ldap are reached.
func (c checker) ldapServers(dir *Directory) {
	if len(dir.URIs) == 0 {
		c.errorf(dir.at, "Missing setting", `A directory of kind ldap needs "uris", such as ["ldaps://ldap.example.com"].`)
	}
	if d, err := parseHedge(dir.Hedge); err != nil || d == 0 && dir.Hedge != hedgeAuto {
		c.errorf(dir.rangeOf("hedge"), "Wrong value", `hedge is a time such as "200ms", or "auto" or "off".`)
	}
	c.login(&dir.block, dir.BindDN, dir.BindPasswordFile, dir.SASLExternal)
	c.kerberos(&dir.block, dir.LDAP())
	c.keyPair(&dir.block, dir.CertFile, dir.KeyFile)
	c.readable(&dir.block, "ca_file", dir.CAFile)
}

// login checks how a service logs in at the servers.
func (c checker) login(b *block, bindDN, passwordFile string, external bool) {
	if (bindDN == "") != (passwordFile == "") {
		c.errorf(b.at, "Half a login", "bind_dn and bind_password_file belong together: set both, or neither to search anonymously.")
	}
	if external && bindDN != "" {
		c.errorf(b.rangeOf("sasl_external"), "Two logins", "sasl_external and bind_dn exclude each other.")
	}
	c.readable(b, "bind_password_file", passwordFile)
}

// kerberos checks a login by ticket, which excludes every other.
func (c checker) kerberos(b *block, servers ldap.Config) {
	k := servers.Kerberos
	if (k.Keytab == "") != (k.Principal == "") {
		c.errorf(b.at, "Half a login", "kerberos_keytab and kerberos_principal belong together.")
	}
	if k.Keytab != "" && (servers.BindDN != "" || servers.SASLExternal) {
		c.errorf(b.rangeOf("kerberos_keytab"), "Two logins", "kerberos_keytab excludes bind_dn and sasl_external.")
	}
	c.readable(b, "kerberos_keytab", k.Keytab)
	c.readable(b, "kerberos_config", k.ConfigFile)
}

func (c checker) keyPair(b *block, certFile, keyFile string) {
	if (certFile == "") != (keyFile == "") {
		c.errorf(b.at, "Half a certificate", "cert_file and key_file belong together.")
	}
	c.readable(b, "cert_file", certFile)
	c.readable(b, "key_file", keyFile)
}

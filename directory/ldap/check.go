package ldap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/directory"
)

// Grade says how bad a finding is.
type Grade string

// The grades.
const (
	Fine    Grade = "ok"
	Note    Grade = "note" // in order, or a mistake that only a person can tell from it
	Warning Grade = "warning"
	Failure Grade = "FAILURE"
)

// Finding is what a check came upon.
type Finding struct {
	Grade  Grade
	Server string // URI; "" for all
	What   string // what was looked at: "connect", "certificate"
	Text   string
	Advice string // what to do; "" when nothing is
}

const (
	// soonExpired is when an administrator should be told of a certificate.
	soonExpired = 21 * 24 * time.Hour
	// maxSkew is by how much clocks may differ: Kerberos and expiry times take
	// no more.
	maxSkew = 2 * time.Minute
	// enoughEntries is how many entries are asked for to see whether the server
	// cuts results.
	enoughEntries = 2500
)

// checkup collects what is found about one server.
type checkup struct {
	c        *Client
	e        endpoint
	findings []Finding
}

func (k *checkup) note(g Grade, what, text, advice string) {
	k.findings = append(k.findings, Finding{g, k.e.uri, what, text, advice})
}

// Check examines every server on connections of its own: whether it can be
// reached, whom its certificate is for, whether the service account gets in, and
// whether what a directory needs is there. It blocks for Timeout a few times per
// server at most.
func (c *Client) Check(ctx context.Context, needs directory.Needs) []Finding {
	endpoints, findings := c.endpoints(ctx)
	for _, e := range endpoints {
		k := &checkup{c: c, e: e}
		k.run(ctx, needs)
		findings = append(findings, k.findings...)
	}
	return findings
}

// endpoints lists the servers, and what the DNS says of them.
func (c *Client) endpoints(ctx context.Context) (all []endpoint, findings []Finding) {
	for _, src := range c.roster.sources {
		if src.server != nil {
			all = append(all, src.server.endpoint)
			continue
		}
		d := src.discovery
		asking, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
		found, _, err := d.find(asking, c.cfg.Resolver, time.Now())
		cancel()
		if err != nil {
			findings = append(findings, Finding{Failure, d.uri, "DNS", err.Error(),
				fmt.Sprintf("The domain must announce its servers: dig %s SRV. Name the servers in uris instead where it does not.", d.names()[0])})
			continue
		}
		var names []string
		for _, e := range found {
			names = append(names, e.address)
		}
		findings = append(findings, Finding{Fine, d.uri, "DNS", "servers in order: " + strings.Join(names, ", "), ""})
		all = append(all, found...)
	}
	for _, s := range c.chased {
		all = append(all, s.endpoint)
	}
	return all, findings
}

func (k *checkup) run(ctx context.Context, needs directory.Needs) {
	if !k.connect(ctx) || !k.certificate(ctx) {
		return
	}
	limited, cancel := context.WithTimeout(ctx, k.c.cfg.Timeout)
	defer cancel()
	conn, err := dial(limited, k.c.cfg, k.e, true)
	if err != nil {
		k.note(Failure, "login", err.Error(), advise(err, k.c.cfg))
		return
	}
	defer conn.discard()
	k.note(Fine, "login", "as "+k.login(), "")
	k.ask(ctx, conn, "root DSE", k.rootDSE)
	if needs.Base != "" {
		k.ask(ctx, conn, "base", func(l *goldap.Conn) error { return k.base(l, needs.Base) })
	}
	for _, s := range needs.Searches {
		k.ask(ctx, conn, s.What, func(l *goldap.Conn) error { return k.finds(l, s) })
	}
	k.ask(ctx, conn, "schema", func(l *goldap.Conn) error { return k.schema(l, needs.Attributes) })
}

// ask runs a part of the check within a time of its own.
func (k *checkup) ask(ctx context.Context, c *conn, what string, f func(*goldap.Conn) error) {
	limited, cancel := context.WithTimeout(ctx, k.c.cfg.Timeout)
	defer cancel()
	if _, err := c.run(limited, f); err != nil {
		k.note(Failure, what, err.Error(), advise(err, k.c.cfg))
	}
}

func (k *checkup) login() string {
	switch {
	case k.c.cfg.Kerberos.used():
		return k.c.cfg.Kerberos.Principal + " (Kerberos)"
	case k.c.cfg.SASLExternal:
		return "the client certificate or the system's user (SASL EXTERNAL)"
	case k.c.cfg.BindDN != "":
		return k.c.cfg.BindDN
	default:
		return "nobody (anonymous)"
	}
}

func (k *checkup) connect(ctx context.Context) bool {
	limited, cancel := context.WithTimeout(ctx, k.c.cfg.Timeout)
	defer cancel()
	started := time.Now()
	raw, err := (&net.Dialer{}).DialContext(limited, k.e.network, k.e.address)
	if err != nil {
		k.note(Failure, "connect", err.Error(), advise(err, k.c.cfg))
		return false
	}
	_ = raw.Close() // only opened to see that it can be
	k.note(Fine, "connect", fmt.Sprintf("%s in %v", raw.RemoteAddr(), time.Since(started).Round(time.Microsecond)), "")
	return true
}

// certificate looks at what the server shows, verified or not. It is false when
// no connection will come about.
func (k *checkup) certificate(ctx context.Context) bool {
	if !k.e.tls && !k.e.startTLS {
		k.inTheClear()
		return true
	}
	limited, cancel := context.WithTimeout(ctx, k.c.cfg.Timeout)
	defer cancel()
	how := "TLS"
	if k.e.startTLS {
		how = "StartTLS"
	}
	state, err := k.shown(limited)
	if err != nil {
		k.note(Failure, how, err.Error(), advise(err, k.c.cfg))
		return false
	}
	k.note(Fine, how, tls.VersionName(state.Version)+", "+tls.CipherSuiteName(state.CipherSuite), "")
	return k.judge(state)
}

func (k *checkup) inTheClear() {
	switch {
	case k.e.network == "unix":
		k.note(Fine, "protection", "a local socket", "")
	case isLoopback(k.e.host):
		k.note(Fine, "protection", "none, on this machine only", "")
	default:
		k.note(Warning, "protection", "none: passwords cross the network in the clear", "Set starttls = true, or write ldaps://.")
	}
}

// shown begins TLS without verifying anything, for what is there to be seen.
func (k *checkup) shown(ctx context.Context) (tls.ConnectionState, error) {
	cfg := k.c.cfg
	cfg.InsecureSkipVerify = true
	e := k.e
	e.names = []string{e.host}
	tlsConfig, err := cfg.tlsConfig(e)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	cfg.BindDN, cfg.SASLExternal, cfg.Kerberos = "", false, Kerberos{}
	if e.startTLS {
		c, err := dial(ctx, cfg, e, false)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer c.discard()
		state, _ := c.ldap.TLSConnectionState()
		return state, nil
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, e.network, e.address)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { _ = raw.Close() }() // only looked at
	secured := tls.Client(raw, tlsConfig)
	if err := secured.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	return secured.ConnectionState(), nil
}

// judge tells of the certificate, its issuer, its names and its time.
func (k *checkup) judge(state tls.ConnectionState) bool {
	leaf := state.PeerCertificates[0]
	names := k.e.names
	if k.c.cfg.ServerName != "" {
		names = []string{k.c.cfg.ServerName}
	}
	grade, ok := Failure, true
	if k.c.cfg.InsecureSkipVerify {
		grade = Warning
		k.note(Warning, "certificate", "it is not verified (insecure_skip_verify): whoever is in between reads every password", "Name the authority by ca_file and take insecure_skip_verify away.")
	}
	if !slices.ContainsFunc(names, func(name string) bool { return leaf.VerifyHostname(name) == nil }) {
		ok = false
		k.note(grade, "certificate", fmt.Sprintf("it is for %s, not for %s", strings.Join(namesOf(leaf), ", "), strings.Join(names, " or ")),
			"Write a name that the certificate has in uris, or have a certificate issued for this one; server_name only for a server that is known by another name.")
	}
	tlsConfig, err := k.c.cfg.tlsConfig(k.e)
	if err != nil {
		k.note(Failure, "certificate", err.Error(), "")
		return false
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: tlsConfig.RootCAs, Intermediates: intermediates}); err != nil {
		ok = false
		k.note(grade, "certificate", fmt.Sprintf("issued by %s: %v", leaf.Issuer, err), advise(err, k.c.cfg))
	}
	left := time.Until(leaf.NotAfter)
	days := fmt.Sprintf("%d days left, until %s", int(left.Hours()/24), leaf.NotAfter.Format(time.DateOnly))
	switch {
	case left <= 0: // told already
	case left < soonExpired:
		k.note(Warning, "certificate", days, "Have it renewed before then.")
	case ok:
		k.note(Fine, "certificate", fmt.Sprintf("for %s, issued by %s, %s", strings.Join(namesOf(leaf), ", "), leaf.Issuer, days), "")
	}
	return ok || k.c.cfg.InsecureSkipVerify
}

func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return []string{"no name at all"}
	}
	return names
}

// The controls that make a difference.
var controls = []struct{ oid, name string }{
	{goldap.ControlTypePaging, "paged results"},
	{"1.3.6.1.4.1.4203.1.9.1.1", "content synchronization (RFC 4533)"},
	{"1.2.840.113556.1.4.841", "DirSync"},
	{goldap.ControlTypeBeheraPasswordPolicy, "password policy"},
}

// rootDSE tells who the server says it is and what it offers.
func (k *checkup) rootDSE(l *goldap.Conn) error {
	result, err := l.Search(goldap.NewSearchRequest("", goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)",
		[]string{"vendorName", "vendorVersion", "supportedControl", "supportedSASLMechanisms", "namingContexts", "currentTime", "defaultNamingContext", "objectClass"}, nil))
	if err != nil {
		return err
	}
	if len(result.Entries) != 1 {
		k.note(Warning, "root DSE", "the server shows none", "The account needs the right to read the entry with the empty name, for what the server offers stands there.")
		return nil
	}
	dse := result.Entries[0]
	vendor := strings.TrimSpace(dse.GetAttributeValue("vendorName") + " " + dse.GetAttributeValue("vendorVersion"))
	switch {
	case vendor != "":
	case dse.GetAttributeValue("defaultNamingContext") != "" && dse.GetAttributeValue("currentTime") != "":
		vendor = "Active Directory or Samba"
	case slices.Contains(dse.GetAttributeValues("objectClass"), "OpenLDAProotDSE"):
		vendor = "OpenLDAP"
	default:
		vendor = "it does not say"
	}
	k.note(Fine, "vendor", vendor, "")
	offered := dse.GetAttributeValues("supportedControl")
	var has []string
	for _, c := range controls {
		if slices.Contains(offered, c.oid) {
			has = append(has, c.name)
		}
	}
	k.note(Fine, "controls", strings.Join(append(has, fmt.Sprintf("%d in all", len(offered))), ", "), "")
	if len(offered) > 0 && !slices.Contains(offered, goldap.ControlTypePaging) {
		k.note(Warning, "controls", "no paged results: searches stop at the server's size limit", "Raise the size limit for the service account.")
	}
	k.clock(dse.GetAttributeValue("currentTime"))
	return nil
}

// clock compares clocks where the server tells its own.
func (k *checkup) clock(text string) {
	at, err := time.Parse("20060102150405.0Z", text)
	if err != nil {
		return
	}
	if skew := time.Since(at).Round(time.Second); skew.Abs() > maxSkew {
		k.note(Warning, "clock", fmt.Sprintf("the server's differs from ours by %v", skew), "Have both follow NTP: expiry of accounts and Kerberos depend on it.")
	} else {
		k.note(Fine, "clock", fmt.Sprintf("within %v of ours", skew.Abs()+time.Second), "")
	}
}

func (k *checkup) base(l *goldap.Conn, base directory.DN) error {
	_, err := l.Search(goldap.NewSearchRequest(string(base), goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)", []string{"1.1"}, nil))
	if err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	k.note(Fine, "base", string(base), "")
	return nil
}

// finds runs a search that should find something, and sees whether the server
// cuts it.
func (k *checkup) finds(l *goldap.Conn, s directory.NeededSearch) error {
	paging := goldap.NewControlPaging(pageSize)
	r := goldap.NewSearchRequest(string(s.Base), scopes[s.Scope], goldap.NeverDerefAliases, 0, 0, false, s.Filter.String(), []string{"1.1"}, []goldap.Control{paging})
	n := 0
	for {
		result, err := l.Search(r)
		if result != nil {
			n += len(result.Entries)
		}
		if goldap.IsErrorWithCode(err, goldap.LDAPResultSizeLimitExceeded) || goldap.IsErrorWithCode(err, goldap.LDAPResultAdminLimitExceeded) {
			k.note(Warning, s.What, fmt.Sprintf("the server cuts results after %d entries", n),
				"Single addresses are found all the same. For a replica and large groups raise the limit for the service account: olcLimits or sizelimit in OpenLDAP, nsSizeLimit and nsPagedSizeLimit in 389-ds, MaxPageSize in Active Directory.")
			return nil
		}
		if err != nil {
			return fmt.Errorf("below %s: %w", s.Base, err)
		}
		next, _ := goldap.FindControl(result.Controls, goldap.ControlTypePaging).(*goldap.ControlPaging)
		if next == nil || len(next.Cookie) == 0 || n >= enoughEntries {
			break
		}
		paging.SetCookie(next.Cookie)
	}
	switch {
	case n == 0:
		k.note(Warning, s.What, fmt.Sprintf("nothing below %s matches %s", s.Base, s.Filter), "Either there is none, or base or filter are wrong, or the service account may not see them: ask the same by ldapsearch as the service account and as an administrator.")
	case n >= enoughEntries:
		k.note(Fine, s.What, fmt.Sprintf("more than %d entries", enoughEntries), "")
	default:
		k.note(Fine, s.What, fmt.Sprintf("%d entries", n), "")
	}
	return nil
}

// schema tells of attributes that the server does not know.
func (k *checkup) schema(l *goldap.Conn, attributes []string) error {
	result, err := l.Search(goldap.NewSearchRequest("", goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)", []string{"subschemaSubentry"}, nil))
	if err != nil || len(result.Entries) != 1 || result.Entries[0].GetAttributeValue("subschemaSubentry") == "" {
		return err
	}
	subentry := result.Entries[0].GetAttributeValue("subschemaSubentry")
	if result, err = l.Search(goldap.NewSearchRequest(subentry, goldap.ScopeBaseObject, goldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)", []string{"attributeTypes"}, nil)); err != nil {
		return fmt.Errorf("%s: %w", subentry, err)
	}
	known := make(map[string]bool)
	for _, entry := range result.Entries {
		for _, definition := range entry.GetAttributeValues("attributeTypes") {
			for _, name := range definedNames(definition) {
				known[strings.ToLower(name)] = true
			}
		}
	}
	if len(known) == 0 {
		k.note(Warning, "schema", "the account may not read it", "")
		return nil
	}
	var missing []string
	for _, name := range attributes {
		bare, _, _ := strings.Cut(name, ";")
		if !known[strings.ToLower(bare)] {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		k.note(Fine, "schema", fmt.Sprintf("has all %d attributes of the mapping", len(attributes)), "")
		return nil
	}
	k.note(Note, "schema", "the server does not know "+strings.Join(missing, ", "), "No entry can have them. That is in order for attributes of a preset which this directory does not use; else see whether a schema is missing or a name is misspelt.")
	return nil
}

// definedNames returns the names in an attribute type description (RFC 4512
// section 4.1.2): NAME 'a', or NAME ( 'a' 'b' ).
func definedNames(definition string) []string {
	_, rest, ok := strings.Cut(definition, " NAME ")
	if !ok {
		return nil
	}
	rest = strings.TrimLeft(rest, " ")
	if list, isList := strings.CutPrefix(rest, "("); isList {
		list, _, _ = strings.Cut(list, ")")
		return strings.FieldsFunc(list, func(r rune) bool { return r == '\'' || r == ' ' })
	}
	parts := strings.SplitN(rest, "'", 3)
	if len(parts) < 3 {
		return nil
	}
	return parts[1:2]
}

// advise tells what to do about an error.
func advise(err error, cfg Config) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var lookup *net.DNSError
	switch {
	case errors.Is(err, errTicket):
		return adviseTicket(err)
	case errors.As(err, &unknown):
		if cfg.CAFile == "" {
			return "The system does not know the authority that issued it: name its certificate by ca_file (FreeIPA: /etc/ipa/ca.crt)."
		}
		return "The authority in ca_file did not issue it: " + cfg.CAFile + " must hold the root, and the server should send what is between."
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "It is not valid now. Renew it on the server; look at the clocks when it was renewed."
	case errors.As(err, &name):
		return "Write a name that the certificate has in uris."
	case errors.As(err, &lookup):
		return "The host's name is not in the DNS: look at its spelling and at resolv.conf."
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return "Nothing answers: a firewall, a wrong port, or a server that hangs."
	}
	return adviseResult(err, cfg)
}

// adviseTicket explains what KDCs answer; the library has the codes of RFC 4120
// section 7.5.9 in its texts only.
func adviseTicket(err error) string {
	for code, advice := range map[string]string{
		"KDC_ERR_C_PRINCIPAL_UNKNOWN": "The realm does not know kerberos_principal: look at its spelling, and at the realm behind @.",
		"KDC_ERR_S_PRINCIPAL_UNKNOWN": "The realm does not know the directory by this name: write the server's full name in uris, as in its certificate, or set server_name.",
		"KDC_ERR_PREAUTH_FAILED":      "The keytab's key is not the account's any more: a new keytab or password replaced it. Write the keytab again.",
		"KRB_AP_ERR_SKEW":             "The clocks of this machine and of the KDC differ by more than five minutes.",
	} {
		if strings.Contains(err.Error(), code) {
			return advice
		}
	}
	return "Does the KDC answer (port 88, UDP and TCP), and does kerberos_config or the DNS name it? kinit -k -t with the same keytab and principal tells."
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// adviseResult explains what servers answer.
func adviseResult(err error, cfg Config) string {
	var result *goldap.Error
	if !errors.As(err, &result) {
		return "Is the server running, and is this its port? ldaps is 636, ldap with StartTLS 389."
	}
	text := strings.ToLower(err.Error())
	switch {
	case strings.Contains(text, "80090346"):
		return "The domain controller asks for channel binding, which ties a login to its TLS connection (80090346). A simple bind over TLS is not concerned unless something in between, such as a load balancer, ends the TLS: connect to the controllers themselves, or set LdapEnforceChannelBinding to 1 there."
	case result.ResultCode == goldap.LDAPResultStrongAuthRequired && cfg.Kerberos.used():
		return "The server wants tickets to protect the connection, which TLS does here (8, strong authentication required). With TLS Active Directory asks for no more; Samba does not with ldap server require strong auth = allow_sasl_over_tls."
	case result.ResultCode == goldap.LDAPResultStrongAuthRequired:
		return "The server takes no password over a connection that is neither signed nor encrypted (8, strong authentication required; Active Directory: LDAP server signing): set starttls = true or write ldaps://."
	case result.ResultCode == goldap.LDAPResultConfidentialityRequired:
		return "The server wants TLS: set starttls = true or write ldaps://."
	case result.ResultCode == goldap.LDAPResultInvalidCredentials && cfg.Kerberos.used():
		return "The server does not take the ticket: look at the keytab of the directory's own service, at its clock, and at which entry it takes " + cfg.Kerberos.Principal + " for (OpenLDAP: authz-regexp)."
	case result.ResultCode == goldap.LDAPResultInvalidCredentials:
		_, cause := judgeCredentials(-1, result)
		return fmt.Sprintf("The service account does not get in: %s. Look at bind_dn (%s) and at the password in bind_password_file.", cause, cfg.BindDN)
	case result.ResultCode == goldap.LDAPResultNoSuchObject:
		return "There is no such entry, or the service account may not see it: look at base, user_base and group_base, and at the account's rights."
	case result.ResultCode == goldap.LDAPResultInsufficientAccessRights, result.ResultCode == goldap.LDAPResultInappropriateAuthentication:
		return "The service account lacks the right: give it read and search on people and groups."
	case result.ResultCode == goldap.LDAPResultOperationsError && strings.Contains(text, "bind"):
		return "The server answers nobody who has not logged in: set bind_dn and bind_password_file."
	case result.ResultCode == goldap.LDAPResultProtocolError, result.ResultCode == goldap.LDAPResultUnavailable && strings.Contains(text, "tls"):
		return "The server offers no StartTLS: set it up there, or write ldaps://."
	case result.ResultCode == goldap.LDAPResultReferral:
		return "The server does not hold that part of the tree: look at base, or ask a server that does."
	case result.ResultCode >= goldap.ErrorNetwork:
		return "The connection broke: is this the right port? ldaps is 636, ldap with StartTLS 389."
	}
	return ""
}

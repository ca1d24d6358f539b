package config

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// The modes of an SMTP listener.
const (
	ModeMX          = "mx"
	ModeSubmission  = "submission"
	ModeSubmissions = "submissions"
	ModeLocal       = "local"
)

// The kinds of a backend listener.
const (
	KindLMTP  = "lmtp"
	KindIMAP  = "imap"
	KindIMAPS = "imaps"
	KindPOP3  = "pop3"
	KindPOP3S = "pop3s"
)

// PolicyLists are the labels of policy blocks, in the order they are asked.
var PolicyLists = []string{"client", "helo", "sender", "relay", "recipient", "data", "end_of_data", "content"}

// Sources lists the files the configuration was read from.
func (f *File) Sources() []string { return slices.Clone(f.sources) }

// checker looks at what the grammar cannot say.
type checker struct {
	*decoder
	file *File
}

// check completes the file with defaults that depend on other settings and
// collects what contradicts.
func (f *File) check(d *decoder) {
	c := checker{d, f}
	c.complete()
	c.databases()
	c.directories()
	c.authn()
	c.lockout(f.Lockout)
	c.verifierCache(f.Cache)
	c.authServers()
	if f.Gateway == nil && f.Backend == nil && f.Proxy == nil && len(f.Mirrors) == 0 && len(f.AuthServers) == 0 {
		c.errorf(f.at, "No role", "The configuration has none of the blocks gateway, backend, proxy, mirror and auth_server, so there is nothing to run.")
	}
	if f.Proxy != nil {
		c.proxy(f.Proxy)
	}
	if f.Gateway != nil {
		c.gateway(f.Gateway)
	}
	if f.Backend != nil {
		c.backend(f.Backend)
	}
	c.mirrors()
	c.tls(f.TLS)
	if _, err := dns.New(f.DNS.Room()); err != nil {
		c.errorf(f.DNS.at, "Wrong value", "%v.", err)
	}
}

// complete fills in blocks that may be absent as a whole.
func (c checker) complete() {
	f := c.file
	if f.Hostname == "" {
		f.Hostname, _ = os.Hostname()
	}
	if _, err := mail.ParseDomain(f.Hostname); err != nil {
		c.errorf(f.rangeOf("hostname"), "Wrong value", "hostname %q is not a domain name; set hostname to this machine's full name.", f.Hostname)
	}
	f.Log = orDefault(c.decoder, f.Log)
	f.Audit = orDefault(c.decoder, f.Audit)
	f.Control = orDefault(c.decoder, f.Control)
	if f.Audit.File == "" {
		f.Audit.File = filepath.Join(f.DataDir, "audit.log")
	}
	f.DNS = orDefault(c.decoder, f.DNS)
	f.Lockout = orDefault(c.decoder, f.Lockout)
	f.Cache = orDefault(c.decoder, f.Cache)
	f.Control.Socket = f.controlSocket()
	if f.Gateway != nil {
		f.Gateway.Queue = orDefault(c.decoder, f.Gateway.Queue)
		f.Gateway.Limits = orDefault(c.decoder, f.Gateway.Limits)
		f.Gateway.Content = orDefault(c.decoder, f.Gateway.Content)
		f.Gateway.Reports = orDefault(c.decoder, f.Gateway.Reports)
		f.Gateway.Greylist = orDefault(c.decoder, f.Gateway.Greylist)
		f.Gateway.Verify = orDefault(c.decoder, f.Gateway.Verify)
	}
}

// orDefault returns b, or a block of defaults where it was not written.
func orDefault[B any](d *decoder, b *B) *B {
	if b != nil {
		return b
	}
	b = new(B)
	d.decode(emptyBody, nil, hcl.Range{}, b)
	return b
}

func (c checker) directories() {
	seen := make(map[string]hcl.Range)
	for _, dir := range c.file.Directories {
		if first, ok := seen[dir.Name]; ok {
			c.errorf(dir.at, "Repeated name", "The directory %q is defined in %s already.", dir.Name, place(first))
		}
		seen[dir.Name] = dir.at
		if dir.Kind == DirectoryAliases {
			c.aliasesOnly(dir)
		}
		if dir.BaseDN() == "" {
			c.errorf(dir.at, "Missing setting", `A directory needs "base", the DN above its entries, such as "dc=example,dc=com": neither bind_dn nor uris tell it.`)
		}
		switch dir.Kind {
		case DirectoryLDAP:
			c.ldapServers(dir)
			c.forbid(&dir.block, "ldap", "file")
		case DirectoryLDIF:
			if dir.File == "" {
				c.errorf(dir.at, "Missing setting", `A directory of kind ldif needs "file".`)
			}
			c.readable(&dir.block, "file", dir.File)
			c.forbid(&dir.block, "ldif", "uris", "bind_dn", "bind_password_file", "ca_file", "server_name")
		case DirectorySQL:
			c.sqlDirectory(dir)
		case DirectoryNSS:
			c.systemUsers(dir)
		case DirectoryAliases:
		default:
			c.errorf(dir.at, "Unknown kind", "A directory is of kind ldap, ldif, sql, nss or aliases, not %q.", dir.Kind)
		}
		c.directoryReplica(dir)
		c.aliasFiles(dir)
		c.meaning(dir)
	}
}

func (c checker) authn() {
	for _, a := range c.file.Authn {
		dir := c.file.Directory(a.Directory)
		c.remembered(a)
		c.ldapMethod(a)
		switch a.Kind {
		case "ldap", "ldif":
			if !a.wrote("directory") {
				c.errorf(a.at, "Missing setting", `This verifier needs "directory", such as directory.NAME.`)
			} else if dir != nil && dir.Kind != a.Kind {
				c.errorf(a.rangeOf("directory"), "Wrong kind", "The directory %q is of kind %s; its people log in by a verifier of that kind: authn %q.", dir.Name, dir.Kind, dir.Kind)
			}
		case "file":
			if a.File == "" {
				c.errorf(a.at, "Missing setting", `This verifier needs "file", the path of a password file.`)
			}
			c.readable(&a.block, "file", a.File)
		case "sql":
			c.sqlVerifier(a)
		case "pam":
			c.pamServices(a)
		case "gssapi":
			c.gssapi(a)
		case AuthnAppPasswords, AuthnMaster, AuthnRecovery:
			c.beside(a)
		case "certificate", "oauth":
			c.vouching(a)
		case "dovecot", "saslauthd":
			c.askedOverSocket(a)
		default:
			c.errorf(a.at, "Unknown kind", "A verifier is of kind ldap, pam, gssapi, file, ldif, sql, dovecot, saslauthd, certificate, oauth, app-passwords, master or recovery, not %q.", a.Kind)
		}
		if a.Directory != "" && dir == nil {
			c.errorf(a.rangeOf("directory"), "No such directory", "There is no directory %q.", a.Directory)
		} else if dir != nil && !dir.withEntries() {
			c.errorf(a.rangeOf("directory"), "Wrong kind", "The directory %q holds aliases and no people.", dir.Name)
		}
	}
}

func (c checker) gateway(g *Gateway) {
	if len(g.Listeners) == 0 {
		c.errorf(g.at, "No listener", `The gateway needs a listener, such as listener "mx" { bind = [":25"] }.`)
	}
	for _, l := range g.Listeners {
		c.smtpListener(l)
	}
	for _, t := range g.Targets {
		c.target(t)
	}
	c.tlsPolicies(g.TLSPolicy)
	c.tlsReports(g.TLSReports)
	c.dmarc(g.DMARC)
	for _, d := range g.Domains {
		c.domains(d)
	}
	for _, dir := range c.file.Directories {
		c.hosts(dir)
	}
	c.targetExists(&g.block, "relay", g.Relay)
	c.routing(g)
	c.reports(g.Reports)
	c.intake(g)
	c.content(g)
	c.rewriting(g)
	for _, name := range g.SenderLogins {
		if _, err := c.opener().Open(name, table.Use{}); err != nil {
			c.errorf(g.rangeOf("sender_login_maps"), "Wrong table", "%v.", err)
		}
	}
	c.policies(g.Policies)
	c.limits(g.Limits)
	c.quotas(g.Quotas)
	c.greylist(g)
	c.rules(g)
	c.dnsLists(g)
	c.addressVerify(g)
	c.peers(g.Peers)
	c.policyServices(g)
	c.milters(g)
	c.footer(&g.block, g.RejectFooter)
	c.dkim(g)
	c.chains(g)
	if g.Queue.MinimalBackoff > g.Queue.MaximalBackoff {
		c.errorf(g.Queue.rangeOf("minimal_backoff"), "Contradiction", "minimal_backoff (%s) is longer than maximal_backoff (%s).",
			formatDuration(g.Queue.MinimalBackoff), formatDuration(g.Queue.MaximalBackoff))
	}
}

func (c checker) policies(policies []*Policy) {
	lists := make(map[string]bool)
	for _, p := range policies {
		if !slices.Contains(PolicyLists, p.List) {
			c.errorf(p.at, "Unknown list", "A policy is one of %s, not %q.", strings.Join(PolicyLists, ", "), p.List)
		}
		if lists[p.List] {
			c.errorf(p.at, "Repeated block", "The %s policy is defined twice; put all steps into one list.", p.List)
		}
		lists[p.List] = true
	}
}

func (c checker) smtpListener(l *SMTPListener) {
	c.policies(l.Policies)
	c.guards(l)
	c.overrides(l)
	if l.Mode == "" {
		l.Mode = l.Name
	}
	switch l.Mode {
	case ModeMX:
		l.Auth = cmp.Or(l.Auth, "none")
	case ModeSubmission, ModeSubmissions:
		l.Auth = cmp.Or(l.Auth, "required")
	case ModeLocal:
		c.localListener(l)
	default:
		c.errorf(l.at, "Missing setting", `The name %q tells no mode: set mode to "mx", "submission", "submissions" or "local".`, l.Name)
	}
	for _, bind := range l.Bind {
		c.address(l.rangeOf("bind"), bind, l.Mode == ModeLocal)
	}
	c.priorities(l)
	c.tls(l.TLS)
	c.sasl(l.SASL)
	if c.file.Certificate(l.TLS) == nil {
		switch {
		case l.Mode == ModeSubmissions:
			c.errorf(l.at, "No certificate", "A listener with TLS from the start needs a tls block here or at the top level.")
		case l.Auth != "none" && !l.SASL.withoutTLS(l.InsecureAuth) && l.Mode != ModeLocal:
			c.errorf(l.at, "No certificate", "Logins are offered under TLS only, so this listener needs a tls block here or at the top level.")
		}
	}
	if l.Auth != "none" && len(c.file.Authn) == 0 {
		c.errorf(l.at, "No verifier", `Logins are offered, but there is no authn block to verify them, such as authn "ldap" { directory = directory.NAME }.`)
	}
}

// localListener checks what makes sense where the kernel tells who connects.
func (c checker) localListener(l *SMTPListener) {
	if l.Auth = cmp.Or(l.Auth, "none"); l.Auth != "none" {
		c.errorf(l.rangeOf("auth"), "Contradiction", "A listener of mode local knows its clients without logins; leave auth out.")
	}
	for _, bind := range l.Bind {
		if !strings.HasPrefix(bind, "unix:") {
			c.errorf(l.rangeOf("bind"), "Wrong value", "%q: a listener of mode local takes unix:PATH only, where the kernel tells who connects.", bind)
		}
	}
}

func (c checker) target(t *Target) {
	if t.Protocol != "lmtp" && t.Protocol != "smtp" {
		c.errorf(t.at, "Unknown protocol", "A target speaks lmtp or smtp, not %q.", t.Protocol)
	}
	if t.Protocol == "smtp" && t.CutThrough == "always" {
		c.errorf(t.rangeOf("cut_through"), "Not for smtp", "Mail is cut through to lmtp targets only: an answer by SMTP is not the mailbox's. Leave it out.")
	}
	if t.Protocol == "lmtp" && len(t.Address) == 0 {
		c.errorf(t.at, "Missing setting", `"address" is required here: where to connect, such as ["unix:/run/dovecot/lmtp"] or ["127.0.0.1:24"].`)
	}
	for _, address := range t.Address {
		if strings.HasPrefix(address, "unix:") || t.Protocol != "smtp" {
			c.address(t.rangeOf("address"), address, true)
		} else if _, err := delivery.ParseNextHop(address); err != nil {
			c.errorf(t.rangeOf("address"), "Wrong value", "%v.", err)
		}
	}
	for _, hop := range t.Fallback {
		if _, err := delivery.ParseNextHop(hop); err != nil {
			c.errorf(t.rangeOf("fallback"), "Wrong value", "%v.", err)
		}
	}
	if t.Protocol == "lmtp" {
		c.forbid(&t.block, "lmtp", "fallback")
	}
	c.logins(t)
	c.readable(&t.block, "password_file", t.PasswordFile)
	c.readable(&t.block, "ca_file", t.CAFile)
	c.readable(&t.block, "cert_file", t.CertFile)
	c.readable(&t.block, "key_file", t.KeyFile)
	if (t.CertFile == "") != (t.KeyFile == "") {
		c.errorf(t.at, "Contradiction", "cert_file and key_file go together.")
	}
	if t.Protocol == "lmtp" && slices.Contains([]string{"dane", "dane-only", "fingerprint", "secure"}, t.TLS) {
		c.errorf(t.rangeOf("tls"), "Setting of another kind", "%q is for smtp; lmtp knows none, may, encrypt, verify and implicit.", t.TLS)
	}
	c.rule(t.at, t.Room().Rule())
}

// rule checks what a TLS level needs, but for its file.
func (c checker) rule(at hcl.Range, r tlspolicy.Rule) {
	if r.Level != "" && !slices.Contains(tlspolicy.Levels(), r.Level) {
		return // told where the word stands
	}
	r.CAFile = ""
	if _, err := tlspolicy.New(tlspolicy.Config{Default: r}, nil, nil); err != nil {
		c.errorf(at, "Contradiction", "%v.", err)
	}
}

func (c checker) tlsPolicies(policies []*TLSPolicy) {
	seen := make(map[string]bool)
	for _, p := range policies {
		next := strings.ToLower(p.NextHop)
		if _, err := delivery.ParseNextHop(strings.TrimPrefix(next, ".")); err != nil || strings.HasPrefix(next, "unix:") {
			c.errorf(p.at, "Wrong label", `%q is no next hop, such as "example.org", ".example.org", "[mail.example.org]" or "[mail.example.org]:587".`, p.NextHop)
		}
		if seen[next] {
			c.errorf(p.at, "Repeated block", "The TLS policy of %q is defined twice.", p.NextHop)
		}
		seen[next] = true
		c.readable(&p.block, "ca_file", p.CAFile)
		c.rule(p.at, p.Room())
	}
}

func (c checker) domains(d *Domains) {
	if d.Class != "local" && d.Class != "relay" {
		c.errorf(d.at, "Unknown class", "Domains are local or relay, not %q.", d.Class)
	}
	if d.Class == "local" {
		if !d.wrote("recipients") {
			c.errorf(d.at, "Missing setting", `Local domains need "recipients", the directory that knows who is there, such as directory.NAME.`)
		}
		if !d.wrote("deliver") {
			c.errorf(d.at, "Missing setting", `Local domains need "deliver", the target their mail goes to, such as target.NAME.`)
		}
	}
	if d.Recipients != "" && c.file.Directory(d.Recipients) == nil {
		c.errorf(d.rangeOf("recipients"), "No such directory", "There is no directory %q.", d.Recipients)
	}
	c.targetExists(&d.block, "deliver", d.Deliver)
}

func (c checker) targetExists(b *block, name, target string) {
	if target == "" || slices.ContainsFunc(c.file.Gateway.Targets, func(t *Target) bool { return t.Name == target }) {
		return
	}
	c.errorf(b.rangeOf(name), "No such target", "There is no target %q.", target)
}

func (c checker) backend(b *Backend) {
	if len(b.Listeners) == 0 {
		c.errorf(b.at, "No listener", `The backend needs listeners, such as listener "imap" { bind = [":143"] }.`)
	}
	if at := slices.IndexFunc(c.file.Directories, (*Directory).withEntries); b.Directory == "" && at >= 0 {
		b.Directory = c.file.Directories[at].Name
	}
	if dir := c.file.Directory(b.Directory); dir == nil || !dir.withEntries() {
		c.errorf(b.rangeOf("directory"), "No such directory", "The backend needs a directory that knows whose account an address is.")
	}
	c.replica(b)
	c.proxyAccess(b.Proxy)
	c.sharing(b.Sharing)
	c.mailboxRoles(b.Mailboxes)
	c.virtuals(b)
	c.searchIndex(b.Index)
	b.Limits = orDefault(c.decoder, b.Limits)
	c.mailboxLimits(b)
	b.IMAP = orDefault(c.decoder, b.IMAP)
	c.imap(b.IMAP)
	b.POP3 = orDefault(c.decoder, b.POP3)
	c.pop3(b.POP3)
	for _, l := range b.Listeners {
		if !slices.Contains([]string{KindLMTP, KindIMAP, KindIMAPS, KindPOP3, KindPOP3S}, l.Kind) {
			c.errorf(l.at, "Unknown kind", "A backend listener is lmtp, imap, imaps, pop3 or pop3s, not %q.", l.Kind)
		}
		for _, bind := range l.Bind {
			c.address(l.rangeOf("bind"), bind, true)
		}
		c.proxyProtocol(l.ProxyProtocol, l.Bind)
		c.tls(l.TLS)
		c.sasl(l.SASL)
		if c.file.Certificate(l.TLS) == nil && (l.implicitTLS() || l.Kind != KindLMTP && !l.SASL.withoutTLS(l.InsecureAuth)) {
			c.errorf(l.at, "No certificate", "Logins are offered under TLS only, so this listener needs a tls block here or at the top level.")
		}
		if l.Kind != KindLMTP && len(c.file.Authn) == 0 {
			c.errorf(l.at, "No verifier", `IMAP and POP3 need logins, but there is no authn block to verify them, such as authn "ldap" { directory = directory.NAME }.`)
		}
	}
}

func (c checker) tls(t *TLS) {
	if t == nil {
		return
	}
	for _, pair := range t.Pairs() {
		c.readable(&pair.block, "cert_file", pair.CertFile)
		c.readable(&pair.block, "key_file", pair.KeyFile)
	}
	c.clientCertificates(t)
}

// Certificate returns the TLS block in effect where own stands, or nil.
func (f *File) Certificate(own *TLS) *TLS {
	if own != nil {
		return own
	}
	return f.TLS
}

// Directory returns the directory of that name, or nil.
func (f *File) Directory(name string) *Directory {
	for _, dir := range f.Directories {
		if dir.Name == name {
			return dir
		}
	}
	return nil
}

// readable checks that a file named in the configuration can be read now, so
// that a start does not fail half-way.
func (c checker) readable(b *block, name, path string) {
	if path == "" {
		return
	}
	file, err := os.Open(path)
	if err != nil {
		c.errorf(b.rangeOf(name), "Cannot read file", "%s: %v.", name, unwrapPath(err))
		return
	}
	_ = file.Close() // only opened to see that it can be
}

// address checks host:port, or unix:PATH where sockets are allowed.
func (c checker) address(at hcl.Range, address string, unixAllowed bool) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		switch {
		case !unixAllowed:
			c.errorf(at, "Wrong value", "%q: this listener takes host:port only.", address)
		case !filepath.IsAbs(path):
			c.errorf(at, "Wrong value", "%q: the path of a socket is absolute.", address)
		case len(path) > 107:
			c.errorf(at, "Wrong value", "%q: the path of a socket has at most 107 octets.", address)
		}
		return
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		c.errorf(at, "Wrong value", "%q is not host:port, such as 127.0.0.1:2525 or :25.", address)
	}
}

// forbid complains of settings that mean nothing for a kind of block.
func (c checker) forbid(b *block, kind string, names ...string) {
	for _, name := range names {
		if b.wrote(name) {
			c.errorf(b.attrs[name], "Setting of another kind", "%q means nothing in a block of kind %s.", name, kind)
		}
	}
}

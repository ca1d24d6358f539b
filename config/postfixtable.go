package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/mail"
)

// tableServers are the settings of a table that has servers of its own.
var tableServers = []string{
	"uris", "starttls", "ca_file", "server_name", "insecure_skip_verify", "allow_plaintext", "bind_dn", "bind_password_file",
	"sasl_external", "kerberos_keytab", "kerberos_principal", "kerberos_config", "cert_file", "key_file", "timeout", "dereference", "chase_referrals",
}

// besidePostfixFile are the settings of a table that may stand beside
// postfix_file: what Postfix's file cannot say, or says too weakly.
var besidePostfixFile = []string{
	"postfix_file", "use", "ca_file", "server_name", "insecure_skip_verify", "allow_plaintext", "bind_password_file",
	"kerberos_keytab", "kerberos_principal", "kerberos_config", "chase_referrals",
}

// ownServers reports whether the table does not ask the directory's servers.
func (t *QueryTable) ownServers() bool {
	return t.PostfixFile != "" || slices.ContainsFunc(tableServers, t.wrote)
}

// LDAP returns how the table's own servers are spoken to; false when it asks
// those of its directory. What it does not say is as in the directory, where
// that has servers.
func (t *QueryTable) LDAP(dir *Directory) (ldap.Config, bool) {
	if !t.ownServers() {
		return ldap.Config{}, false
	}
	if t.postfix != nil {
		cfg := t.postfix.connection
		cfg.MaxConnections, cfg.MaxBindConnections = dir.MaxConns, dir.MaxConns
		return cfg, true
	}
	cfg := dir.LDAP()
	if len(t.URIs) > 0 { // other servers: nothing of the directory's login goes there
		cfg = ldap.Config{URIs: t.URIs, Timeout: dir.Timeout, MaxConnections: dir.MaxConns, MaxBindConnections: dir.MaxConns}
	}
	take(t, &cfg.StartTLS, "starttls", t.StartTLS)
	take(t, &cfg.CAFile, "ca_file", t.CAFile)
	take(t, &cfg.ServerName, "server_name", t.ServerName)
	take(t, &cfg.InsecureSkipVerify, "insecure_skip_verify", t.InsecureNoVerify)
	take(t, &cfg.AllowPlaintext, "allow_plaintext", t.AllowPlaintext)
	take(t, &cfg.BindDN, "bind_dn", t.BindDN)
	take(t, &cfg.BindPasswordFile, "bind_password_file", t.BindPasswordFile)
	take(t, &cfg.SASLExternal, "sasl_external", t.SASLExternal)
	take(t, &cfg.Kerberos.Keytab, "kerberos_keytab", t.KerberosKeytab)
	take(t, &cfg.Kerberos.Principal, "kerberos_principal", t.Principal)
	take(t, &cfg.Kerberos.ConfigFile, "kerberos_config", t.KerberosConfig)
	take(t, &cfg.CertFile, "cert_file", t.CertFile)
	take(t, &cfg.KeyFile, "key_file", t.KeyFile)
	take(t, &cfg.Timeout, "timeout", t.Timeout)
	take(t, &cfg.Dereference, "dereference", t.Dereference)
	take(t, &cfg.ChaseReferrals, "chase_referrals", t.ChaseReferrals)
	return cfg, true
}

// take sets what the table says itself.
func take[T any](t *QueryTable, field *T, name string, value T) {
	if t.wrote(name) {
		*field = value
	}
}

// postfixTable is what a file of Postfix's ldap_table(5) says.
type postfixTable struct {
	lookup     directory.QueryTableConfig
	connection ldap.Config
	problems   []postfixProblem
}

// postfixProblem is something in the file that cannot be followed as it stands.
type postfixProblem struct {
	line  int // 0: the whole file
	text  string
	fatal bool
}

// postfixReader reads one file.
type postfixReader struct {
	table *QueryTable
	path  string
	out   postfixTable
	given map[string]directory.PostfixParameter
	used  map[string]bool
}

// readPostfixTable reads the file that a table names.
func readPostfixTable(t *QueryTable) (*postfixTable, error) {
	file, err := os.Open(t.PostfixFile)
	if err != nil {
		return nil, unwrapPath(err)
	}
	parameters, err := directory.ParsePostfixFile(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	r := &postfixReader{table: t, path: t.PostfixFile, given: make(map[string]directory.PostfixParameter), used: make(map[string]bool)}
	for _, p := range parameters {
		if before, twice := r.given[p.Name]; twice {
			r.warn(before.Line, "%s stands here and again in line %d, which counts", p.Name, p.Line)
		}
		r.given[p.Name] = p
	}
	r.lookup()
	r.servers()
	r.login()
	r.tls()
	r.rest()
	return &r.out, nil
}

func (r *postfixReader) warn(line int, format string, args ...any) {
	r.out.problems = append(r.out.problems, postfixProblem{line: line, text: fmt.Sprintf(format, args...)})
}

func (r *postfixReader) fail(line int, format string, args ...any) {
	r.out.problems = append(r.out.problems, postfixProblem{line: line, text: fmt.Sprintf(format, args...), fatal: true})
}

// text returns a parameter; standard when the file has not got it.
func (r *postfixReader) text(name, standard string) (value string, line int) {
	r.used[name] = true
	if p, ok := r.given[name]; ok {
		return p.Value, p.Line
	}
	return standard, 0
}

func (r *postfixReader) list(name string, standard ...string) []string {
	value, line := r.text(name, "")
	if line == 0 {
		return standard
	}
	return directory.PostfixList(value)
}

// number returns a parameter that must not be negative.
func (r *postfixReader) number(name string, standard int) int {
	value, line := r.text(name, strconv.Itoa(standard))
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		r.fail(line, "%s = %s is not a number", name, value)
		return standard
	}
	return n
}

func (r *postfixReader) yes(name string, standard bool) bool {
	value, line := r.text(name, "")
	switch strings.ToLower(value) {
	case "":
		return standard
	case "yes", "1":
		return true
	case "no", "0":
		return false
	}
	r.fail(line, "%s = %s is neither yes nor no", name, value)
	return standard
}

// lookup takes over what is asked and what becomes of the answer.
func (r *postfixReader) lookup() {
	q := &r.out.lookup
	q.Name = r.table.Name
	q.SearchBase, _ = r.text("search_base", "")
	if q.SearchBase == "" {
		r.fail(0, "search_base is missing")
	}
	scope, line := r.text("scope", "sub")
	var err error
	if q.Scope, err = directory.ParseScope(scope); err != nil {
		r.fail(line, "scope = %s is none of sub, one and base", scope)
	}
	q.QueryFilter, _ = r.text("query_filter", "")
	q.Domains = r.domains()
	q.ResultAttributes = r.list("result_attribute", "maildrop")
	q.SpecialResultAttributes = r.list("special_result_attribute")
	q.TerminalResultAttributes = r.list("terminal_result_attribute")
	q.LeafResultAttributes = r.list("leaf_result_attribute")
	older, _ := r.text("result_filter", "") // its name before Postfix 2.2
	q.ResultFormat, _ = r.text("result_format", older)
	q.RecursionLimit = r.number("recursion_limit", 1000)
	q.ExpansionLimit = r.number("expansion_limit", 0)
	q.SizeLimit = r.number("size_limit", q.ExpansionLimit)
}

func (r *postfixReader) domains() (domains []mail.Domain) {
	_, line := r.text("domain", "")
	for _, name := range r.list("domain") {
		domain, err := mail.ParseDomain(name)
		if strings.ContainsAny(name, ":/!") || err != nil {
			r.fail(line, "domain = ... %s: only names of domains are understood; write out what tables and files hold", name)
			continue
		}
		domains = append(domains, domain)
	}
	return domains
}

// servers takes over where the servers are.
func (r *postfixReader) servers() {
	c := &r.out.connection
	port := r.number("server_port", 389)
	hosts, line := r.text("server_host", "localhost")
	for _, host := range directory.PostfixList(hosts) {
		if strings.Contains(host, "://") {
			c.URIs = append(c.URIs, host)
			continue
		}
		name, own, err := net.SplitHostPort(host)
		if err != nil {
			name, own = strings.Trim(host, "[]"), strconv.Itoa(port)
		}
		c.URIs = append(c.URIs, "ldap://"+net.JoinHostPort(name, own))
	}
	if len(c.URIs) == 0 {
		r.fail(line, "server_host is empty")
	}
	if value, line := r.text("version", "2"); value != "3" && line > 0 {
		r.warn(line, "version = %s: version 3 is spoken, which every server knows since 1997", value)
	}
	c.Timeout = time.Duration(r.number("timeout", 10)) * time.Second
	c.Dereference = [...]string{"never", "searching", "finding", "always"}[min(r.number("dereference", 0), 3)]
	c.ChaseReferrals = r.table.ChaseReferrals
	if _, line := r.text("chase_referrals", ""); r.yes("chase_referrals", false) && len(c.ChaseReferrals) == 0 {
		r.warn(line, "chase_referrals = yes: referrals are followed only to servers that are known; name them beside postfix_file: chase_referrals = [\"ldaps://...\"]")
	}
}

// login takes over who searches.
func (r *postfixReader) login() {
	c := &r.out.connection
	bind, line := r.text("bind", "yes")
	dn, dnLine := r.text("bind_dn", "")
	_, passwordLine := r.text("bind_pw", "")
	mechanisms, _ := r.text("sasl_mechs", "")
	switch strings.ToLower(bind) {
	case "no", "none", "0":
		return
	case "sasl":
		switch strings.ToUpper(strings.TrimSpace(mechanisms)) {
		case "EXTERNAL":
			c.SASLExternal = true
		case "GSSAPI":
			if r.table.KerberosKeytab == "" {
				r.fail(line, "sasl_mechs = GSSAPI takes the key from a keytab: name it beside postfix_file, kerberos_keytab and kerberos_principal")
			}
			c.Kerberos = ldap.Kerberos{Principal: r.table.Principal, Keytab: r.table.KerberosKeytab, ConfigFile: r.table.KerberosConfig}
		default:
			r.fail(line, "bind = sasl: of the mechanisms only EXTERNAL and GSSAPI are known (sasl_mechs = EXTERNAL)")
		}
		return
	case "yes", "simple", "1":
	default:
		r.fail(line, "bind = %s is none of yes, no and sasl", bind)
	}
	if dn == "" {
		return // anonymous, as in Postfix
	}
	c.BindDN = dn
	switch {
	case r.table.BindPasswordFile != "":
		c.BindPasswordFile = r.table.BindPasswordFile
	case passwordLine > 0:
		c.BindPasswordFile, c.BindPasswordParameter = r.path, "bind_pw"
	default:
		r.fail(dnLine, "bind_dn without bind_pw: a server takes a name without a password for nobody")
	}
}

// tls takes over how connections are protected. Certificates are verified even
// where Postfix's standard is not to.
func (r *postfixReader) tls() {
	c, t := &r.out.connection, r.table
	c.StartTLS = r.yes("start_tls", false)
	c.CAFile, _ = r.text("tls_ca_cert_file", "")
	if dir, line := r.text("tls_ca_cert_dir", ""); dir != "" {
		r.warn(line, "tls_ca_cert_dir is not read: name a file by tls_ca_cert_file, or by ca_file beside postfix_file")
	}
	c.CertFile, _ = r.text("tls_cert", "")
	c.KeyFile, _ = r.text("tls_key", "")
	if t.CAFile != "" {
		c.CAFile = t.CAFile
	}
	c.ServerName, c.InsecureSkipVerify, c.AllowPlaintext = t.ServerName, t.InsecureNoVerify, t.AllowPlaintext
	value, line := r.text("tls_require_cert", "no")
	secured := c.StartTLS || slices.ContainsFunc(c.URIs, func(uri string) bool { return strings.HasPrefix(strings.ToLower(uri), "ldaps:") })
	if required := r.yes("tls_require_cert", false); !required && secured && !t.InsecureNoVerify {
		r.warn(line, "tls_require_cert = %s is not followed: the server's certificate is verified, or anybody on the way reads the passwords; insecure_skip_verify = true beside postfix_file does without", value)
	}
}

// rest tells of what is not followed.
func (r *postfixReader) rest() {
	ignored := map[string]string{
		"cache": "answers are remembered by cache_ttl", "cache_expiry": "answers are remembered by cache_ttl", "cache_size": "answers are remembered by cache_ttl",
		"debuglevel": "postern lookup shows every query", "tls_cipher_suite": "the program's own list is used", "tls_random_file": "the kernel's randomness is used",
		"sasl_realm": "EXTERNAL has none", "sasl_authz_id": "EXTERNAL takes the certificate's", "sasl_minssf": "TLS protects the connection",
		"lookup_wildcards": "", "domain_append": "",
	}
	for _, name := range slices.Sorted(maps.Keys(r.given)) {
		if r.used[name] {
			continue
		}
		line := r.given[name].Line
		if why, known := ignored[name]; known {
			r.warn(line, "%s is not followed: %s", name, why)
		} else {
			r.warn(line, "%s is no parameter of ldap_table(5) that is known", name)
		}
	}
}

// postfixFile reads a table's file and tells what is wrong in it.
func (c checker) postfixFile(t *QueryTable) bool {
	for _, name := range slices.Sorted(maps.Keys(t.attrs)) {
		if !slices.Contains(besidePostfixFile, name) {
			c.errorf(t.rangeOf(name), "Said twice", "%s stands in postfix_file, which says what the table does; only %s may stand beside it.", name, strings.Join(besidePostfixFile[1:], ", "))
		}
	}
	read, err := readPostfixTable(t)
	if err != nil {
		c.errorf(t.rangeOf("postfix_file"), "Wrong file", "%s: %v.", t.PostfixFile, err)
		return false
	}
	t.postfix = read
	for _, p := range read.problems {
		if p.fatal {
			c.errorf(t.rangeOf("postfix_file"), "Wrong file", "%s.", p.at(t.PostfixFile))
		}
	}
	return !slices.ContainsFunc(read.problems, func(p postfixProblem) bool { return p.fatal })
}

func (p postfixProblem) at(path string) string {
	if p.line == 0 {
		return path + ": " + p.text
	}
	return fmt.Sprintf("%s:%d: %s", path, p.line, p.text)
}

// warnings are what a table's file says and is not followed.
func (t *QueryTable) warnings() (all []string) {
	if t.postfix == nil {
		return nil
	}
	for _, p := range t.postfix.problems {
		if !p.fatal {
			all = append(all, p.at(t.PostfixFile))
		}
	}
	return all
}

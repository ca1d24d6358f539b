package config

import (
	"cmp"
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/nss"
	"github.com/postern-mail/postern/directory/sql"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/table"
)

// The kinds of directories.
const (
	DirectoryLDAP    = "ldap"
	DirectoryLDIF    = "ldif"
	DirectoryAliases = "aliases"
	DirectoryNSS     = "nss"
)

// aliasesBase stands for the suffix a directory of kind aliases has not got.
const aliasesBase = "dc=aliases"

// QueryTable is a lookup in the manner of Postfix's ldap_table(5).
type QueryTable struct {
	block
	Name string `conf:"name,label"`

	// postfix is what PostfixFile says, once it was read.
	postfix *postfixTable

	PostfixFile string        `conf:"postfix_file" doc:"File of Postfix's ldap_table(5), such as /etc/postfix/ldap-aliases.cf, that says all below and where the servers are. Beside it only use, ca_file, server_name, insecure_skip_verify, allow_plaintext, bind_password_file, kerberos_keytab, kerberos_principal, kerberos_config and chase_referrals may stand."`
	Use         string        `conf:"use" default:"aliases" oneof:"aliases tables rewrite" doc:"aliases: an address it knows is an alias. tables: only settings ask it that name it, as query:DIRECTORY/TABLE: restrictions, sender_login_maps, maps of the rewrite block. rewrite is another word for it."`
	SearchBase  string        `conf:"search_base" doc:"DN to search below. Expansions as in query_filter. Empty: the directory's base."`
	Scope       string        `conf:"scope" default:"sub" oneof:"sub one base" doc:"How deep to search."`
	QueryFilter string        `conf:"query_filter" default:"(mailacceptinggeneralid=%s)" doc:"Filter, RFC 4515. %s is the address, @domain or name looked up, %u and %d its local-part and domain, %1 to %9 the domain's labels from the right. They are put in as values, never as text of a filter."`
	Domain      []mail.Domain `conf:"domain" doc:"Domains whose addresses are looked up; names without a domain then are not. Empty: all."`

	ResultAttribute   []string `conf:"result_attribute" default:"maildrop" doc:"Attributes that hold the addresses."`
	SpecialAttribute  []string `conf:"special_result_attribute" doc:"Attributes that hold DNs or LDAP URLs of entries which are read the same way."`
	TerminalAttribute []string `conf:"terminal_result_attribute" doc:"Attributes that are all that counts of an entry which has one."`
	LeafAttribute     []string `conf:"leaf_result_attribute" doc:"Attributes that count for entries without special ones."`
	ResultFormat      string   `conf:"result_format" default:"%s" doc:"What is made of each result: %s the value, %u and %d its parts, %S, %U, %D and %1 to %9 those of what was looked up. A value that lacks a part is left out."`

	RecursionLimit int `conf:"recursion_limit" default:"1000" doc:"How deep special attributes nest. What goes beyond, here and below, is an error and mail waits."`
	ExpansionLimit int `conf:"expansion_limit" default:"1000" doc:"Results one lookup may have."`
	SizeLimit      int `conf:"size_limit" default:"1000" doc:"Entries one search may find."`

	URIs             []string      `conf:"uris" doc:"Servers of this table, if not the directory's; what is set here and below holds for this table. With servers of its own nothing of the directory's login and TLS settings is taken."`
	StartTLS         bool          `conf:"starttls" doc:"As in the directory, and so all below."`
	CAFile           string        `conf:"ca_file" doc:"CA certificates to trust, PEM."`
	ServerName       string        `conf:"server_name" doc:"Name the server's certificate must hold."`
	InsecureNoVerify bool          `conf:"insecure_skip_verify" doc:"Do not verify the server's certificate."`
	AllowPlaintext   bool          `conf:"allow_plaintext" doc:"Send passwords over ldap:// without TLS."`
	BindDN           string        `conf:"bind_dn" doc:"DN of the account that searches."`
	BindPasswordFile string        `conf:"bind_password_file" doc:"File that holds its password in its first line."`
	SASLExternal     bool          `conf:"sasl_external" doc:"Log in by the client certificate."`
	KerberosKeytab   string        `conf:"kerberos_keytab" doc:"Log in by Kerberos with the key in this file."`
	Principal        string        `conf:"kerberos_principal" doc:"Whose key it is."`
	KerberosConfig   string        `conf:"kerberos_config" doc:"krb5.conf with realms and KDCs."`
	CertFile         string        `conf:"cert_file" doc:"Certificate shown to the servers, PEM."`
	KeyFile          string        `conf:"key_file" doc:"Its key."`
	Timeout          time.Duration `conf:"timeout" doc:"Longest time one operation may take on one server."`
	Dereference      string        `conf:"dereference" default:"" oneof:"never searching finding always" doc:"When alias entries of the directory are followed."`
	ChaseReferrals   []string      `conf:"chase_referrals" doc:"Servers to which referrals are followed."`
}

// Host is where mail for the accounts of one backend goes.
type Host struct {
	block
	Name    string `conf:"name,label"`
	Deliver string `conf:"deliver" required:"the target of this backend, as target.NAME" doc:"Target the mail goes to, as target.NAME."`
	Home    string `conf:"home" doc:"Where the target is a replication pair: the host in its addresses whose node these accounts are at home on. Empty: the label, where it is such a host, else by the account's name."`
}

// hosts returns the targets by value of the host attribute.
func (d *Directory) hosts() map[string]string {
	targets := make(map[string]string)
	for _, h := range d.Hosts {
		targets[strings.ToLower(h.Name)] = h.Deliver
	}
	return targets
}

// hosts checks where the accounts of backends go.
func (c checker) hosts(dir *Directory) {
	seen := make(map[string]bool)
	for _, h := range dir.Hosts {
		name := strings.ToLower(h.Name)
		if seen[name] {
			c.errorf(h.at, "Repeated name", "The directory %q says already where host %q is.", dir.Name, h.Name)
		}
		seen[name] = true
		c.targetExists(&h.block, "deliver", h.Deliver)
		c.home(h)
	}
}

// Room returns the table of a directory with that base.
func (t *QueryTable) Room(base string) directory.QueryTableConfig {
	if t.postfix != nil {
		return t.postfix.lookup
	}
	scope, _ := directory.ParseScope(t.Scope) // one of a closed set
	if t.SearchBase != "" {
		base = t.SearchBase
	}
	return directory.QueryTableConfig{
		Name: t.Name, SearchBase: base, Scope: scope, QueryFilter: t.QueryFilter, Domains: t.Domain,
		ResultAttributes: t.ResultAttribute, SpecialResultAttributes: t.SpecialAttribute,
		TerminalResultAttributes: t.TerminalAttribute, LeafResultAttributes: t.LeafAttribute,
		ResultFormat: t.ResultFormat, RecursionLimit: t.RecursionLimit, ExpansionLimit: t.ExpansionLimit, SizeLimit: t.SizeLimit,
	}
}

// Aliases returns the names of the tables of aliases of a directory, in the
// order they are asked.
func (d *Directory) Aliases() []string {
	if d.Kind == DirectoryAliases {
		return append([]string{d.File}, d.AliasFiles...)
	}
	return d.AliasFiles
}

// AliasOpener opens them.
func (f *File) AliasOpener(d *Directory) *table.Opener {
	return &table.Opener{Dir: f.TableDir(), Default: table.KindAliases, IncludeDir: d.AliasIncludeDir}
}

// aliasesOnly checks a directory of kind aliases, which has neither people nor
// settings of theirs.
func (c checker) aliasesOnly(dir *Directory) {
	known := []string{"file", "alias_files", "alias_include_dir", "domains", "recipient_delimiter", "max_expansion", "max_depth"}
	for _, name := range slices.Sorted(maps.Keys(dir.attrs)) {
		if !slices.Contains(known, name) {
			c.forbid(&dir.block, dir.Kind, name)
		}
	}
	for _, t := range dir.Tables {
		if t.PostfixFile == "" && (len(t.URIs) == 0 || t.SearchBase == "") {
			c.errorf(t.at, "Setting of another kind", "A directory of kind %s has nothing to search: its tables need uris and search_base of their own, or postfix_file.", dir.Kind)
		}
	}
}

// BaseDN returns the DN above the entries: the one written, or the one that
// the service account and the URIs tell; "" when nothing does.
func (d *Directory) BaseDN() string {
	switch d.Kind {
	case DirectoryAliases:
		return aliasesBase
	case DirectorySQL:
		return string(sql.Base)
	}
	if d.Kind == DirectoryNSS {
		return string(nss.Suffix)
	}
	return cmp.Or(d.Base, d.impliedBase())
}

// meaning checks what a directory's settings make of its entries.
func (c checker) meaning(dir *Directory) {
	if dir.BaseDN() == "" {
		return // told already
	}
	if _, err := directory.New(dir.Room(nil), directory.NoEntries{}, hclog.NewNullLogger()); err != nil {
		c.errorf(dir.at, "Wrong directory", "%v.", err)
	}
	seen := make(map[string]bool)
	for _, t := range dir.Tables {
		if seen[t.Name] {
			c.errorf(t.at, "Repeated name", "The directory %q has a table %q already.", dir.Name, t.Name)
		}
		seen[t.Name] = true
		c.table(dir, t)
	}
}

// table checks a lookup and where it looks.
func (c checker) table(dir *Directory, t *QueryTable) {
	if t.PostfixFile != "" {
		if !c.postfixFile(t) {
			return
		}
	} else {
		for name, n := range map[string]int{"recursion_limit": t.RecursionLimit, "expansion_limit": t.ExpansionLimit, "size_limit": t.SizeLimit} {
			if n < 1 {
				c.errorf(t.rangeOf(name), "Wrong value", "%s must be 1 or more.", name)
			}
		}
	}
	if _, err := directory.NewQueryTable(t.Room(dir.BaseDN()), directory.NoEntries{}); err != nil {
		c.errorf(t.rangeOf("postfix_file"), "Wrong table", "%v.", err)
	}
	if cfg, own := t.LDAP(dir); own {
		cfg.Resolver = noResolver{}
		if _, err := ldap.New(cfg, hclog.NewNullLogger()); err != nil {
			c.errorf(t.rangeOf("postfix_file"), "Wrong servers", "%v.", err)
		}
	}
}

// noResolver stands for the resolver of a client that is only checked.
type noResolver struct{}

// SRV implements ldap.Resolver.
func (noResolver) SRV(context.Context, string) (dns.Answer[dns.SRV], error) {
	return dns.Answer[dns.SRV]{}, dns.ErrNoAnswer
}

// aliasFiles checks the files of aliases.
func (c checker) aliasFiles(dir *Directory) {
	if dir.AliasIncludeDir != "" && !filepath.IsAbs(dir.AliasIncludeDir) {
		c.errorf(dir.rangeOf("alias_include_dir"), "Wrong value", "alias_include_dir must begin with a slash.")
	}
	for i, name := range dir.Aliases() {
		setting := "alias_files"
		if dir.Kind == DirectoryAliases && i == 0 {
			setting = "file"
		}
		if name == "" {
			c.errorf(dir.at, "Missing setting", "A directory of kind %s needs %q.", dir.Kind, setting)
			continue
		}
		opener := c.file.AliasOpener(dir)
		opener.Foreign, opener.ForeignKinds = c.opener().Foreign, ForeignKinds()
		if _, err := opener.Open(name, directory.TargetUse); err != nil {
			c.errorf(dir.rangeOf(setting), "Wrong aliases", "%v.", err)
		}
	}
}

// withEntries reports whether people can be found in a directory.
func (d *Directory) withEntries() bool {
	return slices.Contains([]string{DirectoryLDAP, DirectoryLDIF, DirectoryNSS, DirectorySQL}, d.Kind)
}

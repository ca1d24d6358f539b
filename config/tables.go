package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/table"
	"github.com/postern-mail/postern/mail"
)

// The kinds of directories.
const (
	DirectoryLDAP    = "ldap"
	DirectoryLDIF    = "ldif"
	DirectoryAliases = "aliases"
)

// aliasesBase stands for the suffix a directory of kind aliases has not got.
const aliasesBase = "dc=aliases"

// QueryTable is a lookup in the manner of Postfix's ldap_table(5).
type QueryTable struct {
	block
	Name string `conf:"name,label"`

	Use         string        `conf:"use" default:"aliases" oneof:"aliases rewrite" doc:"aliases: an address it knows is an alias. rewrite: only the maps of the rewrite block ask it, as query:DIRECTORY/TABLE."`
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
}

// Host is where mail for the accounts of one backend goes.
type Host struct {
	block
	Name    string `conf:"name,label"`
	Deliver string `conf:"deliver" required:"the target of this backend, as target.NAME" doc:"Target the mail goes to, as target.NAME."`
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
	}
}

// Room returns the table of a directory with that base.
func (t *QueryTable) Room(base string) directory.QueryTableConfig {
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

// Aliases returns the alias files of a directory, in the order they are asked.
func (d *Directory) Aliases() []table.Config {
	files := d.AliasFiles
	if d.Kind == DirectoryAliases {
		files = append([]string{d.File}, files...)
	}
	configs := make([]table.Config, len(files))
	for i, file := range files {
		configs[i] = table.Config{File: file}
	}
	return configs
}

// aliasesOnly checks a directory of kind aliases, which has neither people nor
// settings of theirs.
func (c checker) aliasesOnly(dir *Directory) {
	known := []string{"file", "alias_files", "domains", "recipient_delimiter", "max_expansion", "max_depth"}
	for _, name := range slices.Sorted(maps.Keys(dir.attrs)) {
		if !slices.Contains(known, name) {
			c.forbid(&dir.block, dir.Kind, name)
		}
	}
	for _, t := range dir.Tables {
		c.errorf(t.at, "Setting of another kind", "A directory of kind %s has nothing to search, so it has no tables.", dir.Kind)
	}
}

// base is the DN above the entries.
func (d *Directory) base() string {
	if d.Kind == DirectoryAliases {
		return aliasesBase
	}
	return d.Base
}

// meaning checks what a directory's settings make of its entries.
func (c checker) meaning(dir *Directory) {
	if dir.base() == "" {
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
		for name, n := range map[string]int{"recursion_limit": t.RecursionLimit, "expansion_limit": t.ExpansionLimit, "size_limit": t.SizeLimit} {
			if n < 1 {
				c.errorf(t.rangeOf(name), "Wrong value", "%s must be 1 or more.", name)
			}
		}
		if _, err := directory.NewQueryTable(t.Room(dir.base()), directory.NoEntries{}); err != nil {
			c.errorf(t.at, "Wrong table", "%v.", err)
		}
	}
}

// aliasFiles checks the files of aliases.
func (c checker) aliasFiles(dir *Directory) {
	for i, cfg := range dir.Aliases() {
		name := "alias_files"
		if dir.Kind == DirectoryAliases && i == 0 {
			name = "file"
		}
		if cfg.File == "" {
			c.errorf(dir.at, "Missing setting", "A directory of kind %s needs %q.", dir.Kind, name)
			continue
		}
		before := len(c.diags)
		c.readable(&dir.block, name, cfg.File)
		if len(c.diags) > before {
			continue
		}
		if _, err := table.Open(cfg, hclog.NewNullLogger()); err != nil {
			c.errorf(dir.rangeOf(name), "Wrong aliases", "%v.", err)
		}
	}
}

// withEntries reports whether people can be found in a directory.
func (d *Directory) withEntries() bool {
	return slices.Contains([]string{DirectoryLDAP, DirectoryLDIF}, d.Kind)
}

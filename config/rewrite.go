package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite"
	"github.com/postern-mail/postern/rewrite/srs"
	"github.com/postern-mail/postern/table"
)

// Rewrite says how addresses are rewritten. Names and meanings are Postfix's.
type Rewrite struct {
	block
	Origin       mail.Domain `conf:"myorigin" doc:"Domain that a local-part without one gets, in headers, in MAIL and RCPT, and in results of maps. Empty: hostname."`
	AppendOrigin bool        `conf:"append_at_myorigin" default:"true" doc:"Take a local-part without a domain in MAIL and RCPT of those whose headers are rewritten, as one at myorigin. It is refused otherwise, but for postmaster in RCPT. Headers get myorigin in any case."`
	Domain       mail.Domain `conf:"mydomain" doc:"What append_dot_mydomain appends. Empty: hostname without its first label."`
	AppendDomain bool        `conf:"append_dot_mydomain" default:"false" doc:"Append a dot and mydomain to domains without a dot."`

	HeaderClients []string    `conf:"local_header_rewrite_clients" default:"permit_authenticated permit_mynetworks" doc:"Clients whose headers are rewritten: permit_authenticated, permit_mynetworks, and networks. The header of anybody else's mail stays as it is."`
	RemoteDomain  mail.Domain `conf:"remote_header_rewrite_domain" doc:"Rewrite the headers of everybody else too, and give incomplete addresses there this domain. Empty: never. Where a header changes, the signature of its author (DKIM) breaks."`

	Canonical          []string `conf:"canonical_maps" doc:"Tables of addresses and what they become: texthash:FILE in the notation of Postfix's canonical(5), regexp:FILE in that of regexp_table(5), query:DIRECTORY/TABLE for a directory's table with use = \"rewrite\". Files are read again when they change; names that are not absolute lie beside the configuration."`
	CanonicalClasses   []string `conf:"canonical_classes" default:"envelope_sender envelope_recipient header_sender header_recipient" doc:"Where canonical_maps holds."`
	SenderCanonical    []string `conf:"sender_canonical_maps" doc:"The same for senders, asked before canonical_maps."`
	SenderClasses      []string `conf:"sender_canonical_classes" default:"envelope_sender header_sender" doc:"Where sender_canonical_maps holds."`
	RecipientCanonical []string `conf:"recipient_canonical_maps" doc:"The same for recipients, asked before canonical_maps."`
	RecipientClasses   []string `conf:"recipient_canonical_classes" default:"envelope_recipient header_recipient" doc:"Where recipient_canonical_maps holds."`

	MasqueradeDomains    []string `conf:"masquerade_domains" doc:"Domains that take the place of all their subdomains, the first that matches; one with ! before it keeps its subdomains."`
	MasqueradeExceptions []string `conf:"masquerade_exceptions" doc:"Local-parts that keep their domain, such as root."`
	MasqueradeClasses    []string `conf:"masquerade_classes" default:"envelope_sender header_sender header_recipient" doc:"Where masquerading holds."`

	Generic   []string `conf:"smtp_generic_maps" doc:"Tables of addresses and what they become on the way out by SMTP, in envelope and header of all mail."`
	Delimiter string   `conf:"recipient_delimiter" default:"+" doc:"Characters that begin the extension of a local-part in lookups. Empty: none."`
	Propagate []string `conf:"propagate_unmatched_extensions" default:"canonical" doc:"Maps whose results get the extension back that was cut off to find an address: canonical, generic."`

	AlwaysBcc    []mail.Address `conf:"always_bcc" doc:"Addresses that get a copy of every message."`
	SenderBcc    []string       `conf:"sender_bcc_maps" doc:"Tables of senders and who gets a copy of their mail."`
	RecipientBcc []string       `conf:"recipient_bcc_maps" doc:"Tables of recipients and who gets a copy of mail to them."`
}

// SRS says how the sender of forwarded mail is rewritten.
type SRS struct {
	block
	Domain      mail.Domain   `conf:"domain" required:"the domain of rewritten senders, such as \"srs.example.com\", with an MX record that leads here and an SPF record that names what sends" doc:"Domain of rewritten senders. It may be one of the local domains."`
	SecretFiles []string      `conf:"secret_files" required:"files of keys, made with postern srs key" doc:"Files of keys, one a line. The first key of the first file signs, all are believed."`
	Separator   string        `conf:"separator" default:"=" oneof:"= + -" doc:"Character behind SRS0 and SRS1."`
	MaxAge      time.Duration `conf:"max_age" default:"21d" doc:"How long mail to a rewritten sender is taken, in whole days."`
	HashLength  int           `conf:"hash_length" default:"4" doc:"Characters of the hash, 4 to 20. Shorter ones are not believed."`
}

// The names of clients whose headers are rewritten.
const (
	clientsAuthenticated = "permit_authenticated"
	clientsNetworks      = "permit_mynetworks"
)

// Room returns how addresses are rewritten. open gives the tables of a map.
func (r *Rewrite) Room(f *File, open func(names []string) []table.Table) rewrite.Config {
	hostname := mail.Domain(strings.ToLower(f.Hostname))
	c := rewrite.Config{
		Origin: r.origin(f), LocalNames: []mail.Domain{hostname, "localhost"}, Delimiter: r.Delimiter,
		PropagateCanonical: slices.Contains(r.Propagate, "canonical"), PropagateGeneric: slices.Contains(r.Propagate, "generic"),
		SenderCanonical:    rewrite.Map{Tables: open(r.SenderCanonical), Classes: classes(r.SenderClasses)},
		RecipientCanonical: rewrite.Map{Tables: open(r.RecipientCanonical), Classes: classes(r.RecipientClasses)},
		Canonical:          rewrite.Map{Tables: open(r.Canonical), Classes: classes(r.CanonicalClasses)},
		MasqueradeDomains:  r.MasqueradeDomains, MasqueradeExceptions: r.MasqueradeExceptions, MasqueradeClasses: classes(r.MasqueradeClasses),
		RemoteDomain: r.RemoteDomain, AlwaysBcc: r.AlwaysBcc, SenderBcc: open(r.SenderBcc), RecipientBcc: open(r.RecipientBcc),
	}
	if f.Gateway.SRS != nil {
		c.SRSDomain = f.Gateway.SRS.Domain
	}
	c.HeaderClients, _ = r.clients(f.Gateway.MyNetworks) // checked
	if r.AppendDomain {
		c.AppendDomain = r.Domain
		if _, parent, ok := strings.Cut(string(hostname), "."); c.AppendDomain == "" && ok {
			c.AppendDomain = mail.Domain(parent)
		}
	}
	return c
}

// origin is what a local-part alone gets.
func (r *Rewrite) origin(f *File) mail.Domain {
	return cmp.Or(r.Origin, mail.Domain(strings.ToLower(f.Hostname)))
}

// originFor returns what it gets in MAIL and RCPT: from those whose headers are
// rewritten.
func (r *Rewrite) originFor(f *File) func(*mail.Client) mail.Domain {
	clients, _ := r.clients(f.Gateway.MyNetworks) // checked
	origin := r.origin(f)
	return func(client *mail.Client) mail.Domain {
		if !r.AppendOrigin || !clients.Hold(client) {
			return ""
		}
		return origin
	}
}

func classes(names []string) []rewrite.Class {
	list := make([]rewrite.Class, len(names))
	for i, name := range names {
		list[i] = rewrite.Class(name)
	}
	return list
}

// clients reads whose headers are rewritten.
func (r *Rewrite) clients(own []netip.Prefix) (c rewrite.Clients, err error) {
	for _, name := range r.HeaderClients {
		switch name {
		case clientsAuthenticated:
			c.Authenticated = true
		case clientsNetworks:
			c.Networks = append(c.Networks, own...)
		default:
			network, err := netip.ParsePrefix(name)
			if err != nil {
				return c, fmt.Errorf("%q is none of %s, %s, and no network", name, clientsAuthenticated, clientsNetworks)
			}
			c.Networks = append(c.Networks, network.Masked())
		}
	}
	return c, nil
}

// queryTable begins the name of a table of a directory.
const queryTable = "query:"

// RewriteTable returns the directory and the table that "query:..." names in
// a map; nil for other tables. known is false where there is no such one.
func (f *File) RewriteTable(name string) (dir *Directory, table *QueryTable, known bool) {
	rest, ok := strings.CutPrefix(name, queryTable)
	if !ok {
		return nil, nil, true
	}
	directory, wanted, _ := strings.Cut(rest, "/")
	if dir = f.Directory(directory); dir == nil {
		return nil, nil, false
	}
	at := slices.IndexFunc(dir.Tables, func(t *QueryTable) bool { return t.Name == wanted && !t.ForAliases() })
	if at < 0 {
		return nil, nil, false
	}
	return dir, dir.Tables[at], true
}

// ForAliases reports whether a directory asks the table for aliases.
func (t *QueryTable) ForAliases() bool { return t.Use == "aliases" }

// TableDir is where table files lie whose names are not absolute.
func (f *File) TableDir() string { return filepath.Dir(f.sources[0]) }

// Room returns how senders are rewritten. It reads the keys.
func (s *SRS) Room() (srs.Config, error) {
	c := srs.Config{Domain: s.Domain, MaxAge: s.MaxAge, HashOctets: s.HashLength}
	if s.Separator != "" {
		c.Separator = s.Separator[0]
	}
	for _, path := range s.SecretFiles {
		file, err := os.Open(path)
		if err != nil {
			return c, err
		}
		keys, err := srs.ReadKeys(path, file)
		_ = file.Close() // only read
		if err != nil {
			return c, err
		}
		c.Keys = append(c.Keys, keys...)
	}
	return c, nil
}

// rewriting checks the rewrite and srs blocks.
func (c checker) rewriting(g *Gateway) {
	if g.HopLimit < 1 {
		c.errorf(g.rangeOf("hopcount_limit"), "Wrong value", "hopcount_limit must be 1 or more.")
	}
	if s := g.SRS; s != nil {
		c.srs(s)
	}
	r := g.Rewrite
	if r == nil {
		return
	}
	if _, err := r.clients(nil); err != nil {
		c.errorf(r.rangeOf("local_header_rewrite_clients"), "Wrong value", "local_header_rewrite_clients: %v.", err)
	}
	c.members(&r.block, "canonical_classes", r.CanonicalClasses, rewriteClasses)
	c.members(&r.block, "sender_canonical_classes", r.SenderClasses, senderClasses)
	c.members(&r.block, "recipient_canonical_classes", r.RecipientClasses, recipientClasses)
	c.members(&r.block, "masquerade_classes", r.MasqueradeClasses, rewriteClasses)
	c.members(&r.block, "propagate_unmatched_extensions", r.Propagate, []string{"canonical", "generic"})
	for _, m := range []struct {
		setting string
		tables  []string
	}{
		{"canonical_maps", r.Canonical}, {"sender_canonical_maps", r.SenderCanonical}, {"recipient_canonical_maps", r.RecipientCanonical},
		{"smtp_generic_maps", r.Generic}, {"sender_bcc_maps", r.SenderBcc}, {"recipient_bcc_maps", r.RecipientBcc},
	} {
		for _, name := range m.tables {
			c.rewriteTable(r.rangeOf(m.setting), name)
		}
	}
	none := func([]string) []table.Table { return nil }
	if _, err := rewrite.New(r.Room(c.file, none)); err != nil {
		c.errorf(r.at, "Wrong value", "%v.", err)
	}
}

var (
	senderClasses    = []string{string(rewrite.EnvelopeSender), string(rewrite.HeaderSender)}
	recipientClasses = []string{string(rewrite.EnvelopeRecipient), string(rewrite.HeaderRecipient)}
	rewriteClasses   = slices.Concat(senderClasses, recipientClasses)
)

// members checks the elements of a list against a closed set.
func (c checker) members(b *block, name string, got, set []string) {
	for _, one := range got {
		if !slices.Contains(set, one) {
			c.errorf(b.rangeOf(name), "Wrong value", "%s holds %q; it may hold %s.%s", name, one, quoteList(set), didYouMean(one, set))
		}
	}
}

func (c checker) rewriteTable(at hcl.Range, name string) {
	if _, t := c.file.DatabaseTable(strings.TrimPrefix(name, queryTable)); strings.HasPrefix(name, queryTable) && t == nil {
		if _, _, known := c.file.RewriteTable(name); !known {
			c.errorf(at, "No such table", `%q names no table; it is query:DIRECTORY/TABLE, and the table says use = "tables".`, name)
		}
		return
	}
	if _, err := c.opener().Open(name, rewrite.TableUse); err != nil {
		c.errorf(at, "Wrong table", "%v.", err)
	}
}

func (c checker) srs(s *SRS) {
	if s.Domain == "" || len(s.SecretFiles) == 0 {
		return // told already
	}
	before := len(c.diags)
	for _, path := range s.SecretFiles {
		c.readable(&s.block, "secret_files", path)
	}
	if len(c.diags) > before {
		return
	}
	room, err := s.Room()
	if err == nil {
		_, err = srs.New(room)
	}
	if err != nil {
		c.errorf(s.at, "Wrong value", "%v.", err)
	}
}

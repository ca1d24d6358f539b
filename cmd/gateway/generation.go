package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/authn"
	authnfile "github.com/postern-mail/postern/authn/file"
	authnldap "github.com/postern-mail/postern/authn/ldap"
	"github.com/postern-mail/postern/authn/pam"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/dsn"
	"github.com/postern-mail/postern/delivery/lmtp"
	"github.com/postern-mail/postern/delivery/relay"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/ldif"
	"github.com/postern-mail/postern/directory/table"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/rewrite"
)

// auditor is what all rooms record to.
type auditor interface{ Record(mail.Event) }

// generation is everything that follows from one version of the
// configuration and can be replaced while sessions go on: who is who, who may
// log in, what is decided, where mail goes. It holds no mail and no listener.
type generation struct {
	file      *config.File
	made      time.Time
	sources   map[string]source
	verifiers *authn.Chain // nil without authn blocks
	book      *addressBook
	chains    map[string]*policy.Chain // by listener name
	resolver  *dns.Resolver            // nil without a gateway
	router    *delivery.Router         // nil without a gateway
	reporter  *dsn.Composer            // nil without a gateway
	tasks     []task
	rewriting
	users users // who may still need the tasks after a reload
}

// source is a directory with what it reads from.
type source struct {
	*directory.Directory
	file   *ldif.Source // nil for LDAP
	client *ldap.Client // nil for LDIF
}

// newGeneration builds the rooms of a configuration without touching the
// network. sessions is told of connections to other servers; nil for nobody. The
// error holds everything that is wrong.
func newGeneration(f *config.File, audit auditor, metrics prometheus.Registerer, log hclog.Logger, sessions tlspolicy.Sessions) (*generation, error) {
	for _, warning := range f.Warnings() {
		log.Warn("configuration", "problem", warning)
	}
	g := &generation{file: f, made: time.Now(), sources: make(map[string]source), book: &addressBook{domains: make(map[mail.Domain]domainEntry)}, chains: make(map[string]*policy.Chain)}
	b := &builder{generation: g, audit: audit, metrics: metrics, log: log, sessions: sessions, searchers: make(map[string]directory.Searcher)}
	b.directories()
	if b.err != nil {
		return nil, b.err // what follows would only repeat it
	}
	b.authn()
	if f.Backend != nil {
		b.failed("backend", f.Backend.Room().Check())
	}
	if f.Gateway != nil {
		b.names()
		b.domains()
		b.rewritings()
		b.policies()
		b.delivery()
		b.reports()
	}
	return g, b.err
}

// builder collects the mistakes of a generation.
type builder struct {
	*generation
	audit   auditor
	metrics prometheus.Registerer
	log     hclog.Logger
	err     error

	sessions tlspolicy.Sessions
	sts      *tlspolicy.STS
	// searchers are what the directories search, by their names.
	searchers map[string]directory.Searcher
}

func (b *builder) failed(what string, err error) bool {
	if err != nil {
		b.err = errors.Join(b.err, fmt.Errorf("%s: %w", what, err))
	}
	return err != nil
}

func (b *builder) task(name string, run func(context.Context) error) {
	b.tasks = append(b.tasks, task{name, run})
}

func (b *builder) directories() {
	for _, cfg := range b.file.Directories {
		what := "directory " + cfg.Name
		log := b.log.Named("directory").With("directory", cfg.Name)
		var searcher directory.Searcher
		var s source
		switch cfg.Kind {
		case config.DirectoryAliases:
			searcher = directory.NoEntries{}
		case config.DirectoryLDIF:
			file, err := ldif.Open(cfg.LDIF(), log)
			if b.failed(what, err) {
				continue
			}
			b.task(what, file.Run)
			searcher, s.file = file, file
		default:
			client, err := ldap.New(cfg.LDAP(), log)
			if b.failed(what, err) {
				continue
			}
			b.task(what, client.Run)
			searcher, s.client = client, client
		}
		tables, err := b.tables(cfg, searcher, log)
		if b.failed(what, err) {
			continue
		}
		d, err := directory.New(b.file.DirectoryRoom(cfg, b.domainsOf(cfg.Name)), searcher, log, tables...)
		if b.failed(what, err) {
			continue
		}
		s.Directory = d
		b.searchers[cfg.Name] = searcher
		b.sources[cfg.Name] = s
	}
}

// tables opens what a directory asks before its entries.
func (b *builder) tables(cfg *config.Directory, searcher directory.Searcher, log hclog.Logger) ([]directory.Table, error) {
	var tables []directory.Table
	for _, file := range cfg.Aliases() {
		t, err := table.Open(file, log)
		if err != nil {
			return nil, err
		}
		b.task("aliases "+t.Name(), t.Run)
		tables = append(tables, t)
	}
	for _, query := range cfg.Tables {
		if !query.ForAliases() {
			continue
		}
		t, err := directory.NewQueryTable(query.Room(cfg.Base), searcher)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// domainsOf lists the domains whose recipients a directory knows.
func (b *builder) domainsOf(name string) []mail.Domain {
	var domains []mail.Domain
	if b.file.Gateway == nil {
		return nil
	}
	for _, d := range b.file.Gateway.Domains {
		if d.Recipients == name {
			domains = append(domains, d.Names...)
		}
	}
	return domains
}

func (b *builder) authn() {
	if len(b.file.Authn) == 0 {
		return
	}
	hasher := make(map[bool]*authn.Hasher)
	var links []authn.Link
	for i, cfg := range b.file.Authn {
		what := fmt.Sprintf("authn %s (number %d)", cfg.Kind, i+1)
		if hasher[cfg.AllowCleartext] == nil {
			h, err := authn.NewHasher(authn.HashConfig{AllowCleartext: cfg.AllowCleartext})
			if b.failed(what, err) {
				continue
			}
			hasher[cfg.AllowCleartext] = h
		}
		link, err := b.link(cfg, hasher[cfg.AllowCleartext])
		if !b.failed(what, err) {
			links = append(links, link)
		}
	}
	var cfg authn.Config
	if b.file.Gateway != nil {
		cfg.ExemptNetworks = b.file.Gateway.MyNetworks
	}
	chain, err := authn.New(cfg, links, b.audit, b.log.Named("authn"))
	if !b.failed("authn", err) {
		b.verifiers = chain
	}
}

func (b *builder) link(cfg *config.Authn, hasher *authn.Hasher) (authn.Link, error) {
	log := b.log.Named("authn").Named(cfg.Kind)
	s, named := b.sources[cfg.Directory]
	link := authn.Link{Additional: cfg.Additional}
	if named {
		link.Accounts = s
	}
	var err error
	switch cfg.Kind {
	case "ldap":
		link.FindsAccounts = cfg.DNTemplate == ""
		link.Verifier, err = authnldap.New(cfg.LDAP(b.domainsOf(cfg.Directory)), s, s.client)
	case "ldif":
		link.FindsAccounts = true // the hashes come with their account
		link.Verifier, err = authnfile.NewStored("ldif", ldif.NewPasswords(s.Directory, s.file), hasher, log)
	case "file":
		link.Verifier, err = authnfile.New(cfg.PasswordFile(), hasher, log)
	case "pam":
		var v *pam.Verifier
		if v, err = pam.New(cfg.PAM(), log); err == nil {
			b.task("pam helper", v.Run)
			link.Verifier = v
		}
	}
	return link, err
}

func (b *builder) domains() {
	b.book.us, b.book.home = b.file.Gateway.Ourselves(), b.file.Postmaster().Domain
	for _, d := range b.file.Gateway.Domains {
		entry := domainEntry{class: policy.Local, directory: b.sources[d.Recipients].Directory}
		if d.Class == "relay" {
			entry.class = policy.Relay
		}
		for _, name := range d.Names {
			b.book.domains[name] = entry
		}
	}
}

// names makes what asks the DNS, and what depends on nothing else.
func (b *builder) names() {
	resolver, err := dns.New(b.file.DNS.Room())
	if b.failed("dns", err) {
		return
	}
	b.resolver = resolver
	cache := tlspolicy.NewDirCache(fsx.OS(), filepath.Join(b.file.DataDir, "mta-sts"))
	sts, err := tlspolicy.NewSTS(tlspolicy.STSConfig{}, resolver, cache, b.log.Named("delivery"))
	if !b.failed("MTA-STS", err) {
		b.sts = sts
		b.task("MTA-STS", sts.Run)
	}
}

func (b *builder) policies() {
	for _, l := range b.file.Gateway.Listeners {
		chain, err := policy.Build(b.file.Policy(), b.file.Gateway.Lists(l), policy.Deps{
			Domains: b.addresses(), Recipients: b.listedRecipients(), Owners: b.ownersFor(l), Resolver: b.resolver,
			Audit: b.audit, Logger: b.log.Named("policy"), Metrics: b.metrics,
		})
		if b.failed("policy of listener "+l.Name, err) {
			continue
		}
		b.chains[l.Name] = chain
		b.task("policy tables", chain.Run)
	}
}

func (b *builder) delivery() {
	cfg := b.file.Delivery()
	transports := make(map[string]delivery.Transport)
	targets := make(map[string]delivery.Target)
	for _, t := range cfg.Targets {
		targets[t.Name] = t
	}
	if _, ok := targets[delivery.Outbound]; !ok {
		targets[delivery.Outbound] = delivery.Target{Name: delivery.Outbound}
	}
	for name, t := range maps.All(targets) {
		log := b.log.Named("delivery").With("target", name)
		if t.Protocol == delivery.LMTP {
			transport, err := lmtp.New(t, cfg.Hostname, log)
			if !b.failed("target "+name, err) {
				transports[name] = transport
				b.task("target "+name, transport.Run)
			}
			continue
		}
		t.Sessions = b.sessions
		transport, err := relay.New(t, cfg.Hostname, b.resolver, b.sts, log)
		if !b.failed("target "+name, err) {
			transports[name] = outward{transport, b.outbound}
			b.task("target "+name, transport.Run)
		}
	}
	transports[rewrite.LoopTransport] = rewrite.Loops{}
	if b.err != nil {
		return
	}
	router, err := delivery.New(cfg, transports, b.log.Named("delivery"))
	if !b.failed("delivery", err) {
		b.router = router
		b.task("delivery rules", router.Run)
	}
}

// certificate reads a listener's certificates, or returns nil when it has none.
// Of several crypto/tls takes the first that suits a client.
func certificate(t *config.TLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, p := range t.Pairs() {
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", p.CertFile, err)
		}
		c.Certificates = append(c.Certificates, pair)
	}
	if t.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	return c, nil
}

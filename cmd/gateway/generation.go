package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/authn"
	authnfile "github.com/postern-mail/postern/authn/file"
	"github.com/postern-mail/postern/authn/pam"
	"github.com/postern-mail/postern/authn/sasl"
	"github.com/postern-mail/postern/authn/saslauthd"
	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/delivery/dsn"
	"github.com/postern-mail/postern/delivery/lmtp"
	"github.com/postern-mail/postern/delivery/relay"
	"github.com/postern-mail/postern/delivery/tlspolicy"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/ldif"
	"github.com/postern-mail/postern/directory/replica"
	"github.com/postern-mail/postern/directory/sql"
	"github.com/postern-mail/postern/internal/dns"
	"github.com/postern-mail/postern/internal/fsx"
	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/policy/delegation"
	"github.com/postern-mail/postern/policy/dnsbl"
	"github.com/postern-mail/postern/policy/mailauth"
	"github.com/postern-mail/postern/policy/mailauth/signing"
	"github.com/postern-mail/postern/policy/milter"
	"github.com/postern-mail/postern/policy/rspamd"
	"github.com/postern-mail/postern/policy/verify"
	"github.com/postern-mail/postern/proxy"
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
	verifiers *authn.Chain   // nil without authn blocks
	tickets   sasl.Acceptors // nil where none are taken
	helpers   []task         // those of tasks that a command needs to ask directories
	book      *addressBook
	chains    map[string]*policy.Chain // by listener name
	resolver  *dns.Resolver            // nil without a gateway
	router    *delivery.Router         // nil without a gateway
	reporter  *dsn.Composer            // nil without a gateway
	ring      *signing.Ring            // nil without a gateway
	own       *signing.Own             // nil where mail of our own is not signed
	lists     *dnsbl.Lists             // nil without a gateway
	verifier  *verify.Verifier         // nil without a gateway
	tasks     []task
	proxied   map[cellKey]*proxy.Cell
	services  map[delegation.Config]*delegation.Service
	milters   map[string]*milter.Milter // by name; nil until a list wants one
	rspamds   []*rspamd.Stage
	fronts    proxyPassword // of the proxies in front of the backend
	proofs
	rewriting
	// authentic asks the DNS about senders.
	authentic *authenticity
	users     users // who may still need the tasks after a reload
}

// source is a directory with what it reads from.
type source struct {
	*directory.Directory
	file   *ldif.Source // nil for LDAP
	client *ldap.Client // nil for LDIF
	// replica is nil but for LDAP with a live copy.
	replica *replica.Replica
}

// newGeneration builds the rooms of a configuration without touching the
// network. The error holds everything that is wrong.
func newGeneration(f *config.File, audit auditor, metrics prometheus.Registerer, log hclog.Logger, process lived) (*generation, error) {
	for _, warning := range f.Warnings() {
		log.Warn("configuration", "problem", warning)
	}
	g := &generation{file: f, made: time.Now(), sources: make(map[string]source), book: &addressBook{domains: make(map[mail.Domain]domainEntry)}, chains: make(map[string]*policy.Chain), proxied: make(map[cellKey]*proxy.Cell), services: make(map[delegation.Config]*delegation.Service)}
	b := &builder{generation: g, audit: audit, metrics: metrics, log: log, sessions: process.sessions, dmarcResults: process.dmarc, logins: process.logins, replicas: process.replicas, policyState: process.policy, present: process.milters, searchers: make(map[string]directory.Searcher)}
	b.openDatabases()
	if b.err != nil {
		return nil, b.err
	}
	b.directories()
	if b.err != nil {
		return nil, b.err // what follows would only repeat it
	}
	b.authn()
	b.findEndPoints()
	b.mechanismsPossible()
	if f.Backend != nil {
		b.failed("backend", f.Backend.Room().Check())
		b.proxyAccess()
	}
	if f.Proxy != nil {
		b.cells()
	}
	if f.Gateway != nil {
		b.names()
		b.domains()
		b.rewritings()
		b.keyring()
		b.authenticities()
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

	sessions     tlspolicy.Sessions
	logins       *logins          // nil for commands that only ask
	replicas     *replicas        // nil for them, too
	dmarcResults mailauth.Counter // told what DMARC found
	// policyState is made by facts for them.
	policyState *policyState
	sts         *tlspolicy.STS
	// present are the milters of the generation in force.
	present map[string]*milter.Milter

	signMetrics *signing.Metrics
	// clients are those of all directories and tables, each connection once.
	clients ldapClients
	// databases are those of the configuration by name, and those that Postfix's
	// files describe by what they say.
	databases map[string]*sql.DB
	described map[sqlPlace]*sql.DB
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
		case config.DirectorySQL:
			found, err := sql.NewSource(cfg.SQL(), b.databases[cfg.Database])
			if b.failed(what, err) {
				continue
			}
			searcher = found
		case config.DirectoryLDIF:
			file, err := ldif.Open(cfg.LDIF(), log)
			if b.failed(what, err) {
				continue
			}
			b.task(what, file.Run)
			searcher, s.file = file, file
		case config.DirectoryNSS:
			users, err := b.systemUsers(cfg, log)
			if b.failed(what, err) {
				continue
			}
			searcher = users
		default:
			client, err := b.ldapClient(cfg.LDAP(), log)
			if b.failed(what, err) {
				continue
			}
			s.client = client
			if s.replica, searcher, err = b.replicated(cfg, client, log); b.failed(what, err) {
				continue
			}
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
		b.task(what+" memory", d.Run)
		b.searchers[cfg.Name] = searcher
		b.sources[cfg.Name] = s
	}
}

// tables opens what a directory asks before its entries.
func (b *builder) tables(cfg *config.Directory, searcher directory.Searcher, log hclog.Logger) ([]directory.Table, error) {
	var tables []directory.Table
	opener := b.file.AliasOpener(cfg)
	b.foreignTables(opener)
	opener.Log = log
	for _, name := range cfg.Aliases() {
		t, err := opener.Open(name, directory.TargetUse)
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
		t, err := b.queryTable(cfg, query, searcher)
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
		if !b.failed(what, err) && link.Verifier != nil {
			links = append(links, b.beside(cfg, link))
		}
	}
	if b.logins == nil && len(links) == 0 {
		return
	}
	// Masters and recovery accounts come first: their names are nobody else's.
	slices.SortStableFunc(links, func(a, b authn.Link) int { return cmp.Compare(rank(a), rank(b)) })
	cfg := authn.Config{MasterSeparator: b.file.MasterSeparator()}
	if b.logins != nil {
		cfg.Memory = b.logins.memory
		b.saltKey = b.logins.saltKey
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
		link.Verifier, err = ldapVerifier(cfg, b.domainsOf(cfg.Directory), s, hasher, log)
	case "ldif":
		link.FindsAccounts = true // the hashes come with their account
		link.Verifier, err = authnfile.NewStored("ldif", ldif.NewPasswords(s.Directory, s.file), hasher, log)
	case "sql":
		link.Verifier, err = b.sqlVerifier(cfg, hasher, log)
	case "file":
		link.Verifier, err = authnfile.New(cfg.PasswordFile(), hasher, log)
	case "certificate", "oauth":
		link.Verifier, err = b.vouching(cfg, link.Accounts, log)
	case "pam":
		var v *pam.Verifier
		if v, err = pam.New(cfg.PAM(), log); err == nil {
			b.task("pam helper", v.Run)
			link.Verifier = v
		}
	case "gssapi":
		link.Verifier, err = b.kerberos(cfg, link.Accounts, log)
	case "dovecot":
		link.Verifier, err = b.dovecot(cfg, log)
	case "saslauthd":
		link.Verifier, err = saslauthd.New(cfg.Saslauthd())
	case config.AuthnAppPasswords, config.AuthnMaster, config.AuthnRecovery:
		return b.besideLink(cfg, link, hasher, log)
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
	resolver, err := b.dns()
	if b.failed("dns", err) {
		return
	}
	cache := tlspolicy.NewDirCache(fsx.OS(), filepath.Join(b.file.DataDir, "mta-sts"))
	sts, err := tlspolicy.NewSTS(tlspolicy.STSConfig{}, resolver, cache, b.log.Named("delivery"))
	if !b.failed("MTA-STS", err) {
		b.sts = sts
		b.task("MTA-STS", sts.Run)
	}
}

func (b *builder) policies() {
	for _, l := range b.file.Gateway.Listeners {
		lists := b.file.Gateway.Lists(l)
		chain, err := policy.Build(b.file.PolicyOf(l), lists, policy.Deps{
			Accounts: b.people(), Domains: b.addresses(), Recipients: b.listedRecipients(), Owners: b.ownersFor(l), Resolver: b.resolver, OurAddress: b.book.us.Have,
			Audit: b.audit, Logger: b.log.Named("policy"), Metrics: b.metrics, Tables: b.opener("policy"), Stages: b.looking(b.stages(), lists),
			Routes: b.file.FilterRoute,
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
	var err error
	if c.Certificates, err = certificates(t); err != nil {
		return nil, err
	}
	if t.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	return c, clientCertificates(t, c)
}

// certificates reads the pairs of a TLS block.
func certificates(t *config.TLS) ([]tls.Certificate, error) {
	var all []tls.Certificate
	for _, p := range t.Pairs() {
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", p.CertFile, err)
		}
		all = append(all, pair)
	}
	return all, nil
}

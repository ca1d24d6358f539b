package main

import (
	"fmt"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/config"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/internal/dns"
)

// dns returns the resolver of the generation.
func (b *builder) dns() (*dns.Resolver, error) {
	if b.resolver == nil {
		resolver, err := dns.New(b.file.DNS.Room())
		if err != nil {
			return nil, err
		}
		b.resolver = resolver
	}
	return b.resolver, nil
}

// ldapClients are clients by how they are configured.
type ldapClients map[string]*ldap.Client

// ldapClient returns a client of the servers, the same for the same connection:
// a directory and ten tables at the same servers share theirs.
func (b *builder) ldapClient(cfg ldap.Config, log hclog.Logger) (*ldap.Client, error) {
	key := cfg.Key()
	if c := b.clients[key]; c != nil {
		return c, nil
	}
	resolver, err := b.dns()
	if err != nil {
		return nil, err
	}
	cfg.Resolver = resolver
	c, err := ldap.New(cfg, log)
	if err != nil {
		return nil, err
	}
	if b.clients == nil {
		b.clients = make(ldapClients)
	}
	b.clients[key] = c
	b.task("directory servers", c.Run)
	return c, nil
}

// queryTable opens a table of a directory, which asks the directory's servers
// or its own.
func (b *builder) queryTable(dir *config.Directory, t *config.QueryTable, searcher directory.Searcher) (*directory.QueryTable, error) {
	if cfg, own := t.LDAP(dir); own {
		client, err := b.ldapClient(cfg, b.log.Named("directory").With("directory", dir.Name, "table", t.Name))
		if err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		searcher = client
	}
	return directory.NewQueryTable(t.Room(dir.BaseDN()), searcher)
}

// tableClient returns a client of a table's servers, for a command that asks
// them.
func (g *generation) tableClient(cfg ldap.Config) (*ldap.Client, error) {
	resolver, err := dns.New(g.file.DNS.Room())
	if err != nil {
		return nil, err
	}
	cfg.Resolver = resolver
	return ldap.New(cfg, hclog.NewNullLogger())
}

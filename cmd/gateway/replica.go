package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/replica"
	"github.com/postern-mail/postern/backend/replica/link"
	"github.com/postern-mail/postern/config"
)

// nodeOfPair is this server's end of a pair: the node, which knows what to say, and
// the link, which says it.
type nodeOfPair struct {
	node      *replica.Node
	link      *link.Link
	listeners []net.Listener
}

// openPair makes the store one of a pair, where that is configured.
func (s *server) openPair(ctx context.Context, f *config.File, e *engine) error {
	r := f.Backend.Replica
	if r == nil {
		return nil
	}
	log := s.log.Named("replica")
	node, err := replica.New(ctx, r.Room(f), replica.Deps{
		Mail: s.mailstore, KV: e.kv, Blobs: e.pack, Audit: s.audit, Log: log, Metric: s.metrics,
	})
	if err != nil {
		return err
	}
	s.mailstore.SetPartner(&modes{Node: node, of: r.Exception})
	cfg := r.Link(f)
	cfg.Origin, cfg.Software = uint64(s.mailstore.Origin()), versionText()
	if cfg.Certificate, err = ownReplicaCertificate(f, r); err != nil {
		return err
	}
	if r.SecretFile != "" {
		if cfg.Secret, err = link.ReadSecret(r.SecretFile); err != nil {
			return err
		}
	}
	p := &nodeOfPair{node: node}
	if p.link, err = link.New(cfg, node.Handler(), log); err != nil {
		return err
	}
	s.pair, s.pairing = p, p
	s.metrics.MustRegister(p.link)
	for _, bind := range r.Listen {
		l, err := listenOn(bind, 0)
		if err != nil {
			return fmt.Errorf("backend.replica.listen: %w", err)
		}
		p.listeners = append(p.listeners, l)
	}
	return nil
}

func ownReplicaCertificate(f *config.File, r *config.Replica) (tls.Certificate, error) {
	if r.CertFile != "" {
		return tls.LoadX509KeyPair(r.CertFile, r.KeyFile)
	}
	return link.OwnKey(f.ReplicaFolder(), uint16(f.Backend.Node))
}

// Linked implements pairing.
func (p *nodeOfPair) Linked() bool { return p.node.Health().Linked }

// Joining implements pairing.
func (p *nodeOfPair) Joining() bool { return p.node.Health().Joining }

// Stale implements pairing.
func (p *nodeOfPair) Stale() bool { return p.node.Health().Stale != "" }

// Behind implements pairing.
func (p *nodeOfPair) Behind(ctx context.Context) (uint64, error) {
	st, err := p.node.Status(ctx)
	return st.Lag.Operations, err
}

// runLink connects until ctx ends, then says goodbye.
func (p *nodeOfPair) runLink(ctx context.Context) error { return p.link.Run(ctx, p.listeners...) }

func (p *nodeOfPair) close() error {
	if p == nil {
		return nil
	}
	var err error
	for _, l := range p.listeners {
		if e := l.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// modes is a node of which some accounts have another durability. The store
// tells of a commit, and of the account's name, before it asks whether it is
// durable.
type modes struct {
	*replica.Node
	of     func(account string) mailstore.Durability
	others sync.Map // GUID of accounts to their mode, where that is not the pair's
}

// Committed implements mailstore.Partner.
func (m *modes) Committed(account mailstore.GUID, name string, seq uint64) {
	if mode := m.of(name); mode != mailstore.DurabilityDefault {
		m.others.Store(account, mode.WithoutKeeper())
	}
	m.Node.Committed(account, name, seq)
}

// Durable implements mailstore.Partner.
func (m *modes) Durable(ctx context.Context, account mailstore.GUID, seq uint64, mode mailstore.Durability) error {
	if mode == mailstore.DurabilityDefault {
		if other, ok := m.others.Load(account); ok {
			mode, _ = other.(mailstore.Durability)
		}
	}
	return m.Node.Durable(ctx, account, seq, mode)
}

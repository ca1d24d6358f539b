package config

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/postern-mail/postern/delivery"
	"github.com/postern-mail/postern/mail"
)

// homes maps the hosts that accounts of d may be pinned to to nodes of pairs:
// the hosts in the addresses of LMTP targets with a partner, and what host
// blocks say. It is nil where no target has a partner: nobody asks then.
func (f *File) homes(d *Directory) map[string]mail.Home {
	if f.Gateway == nil || !slices.ContainsFunc(f.Gateway.Targets, (*Target).hasPartner) {
		return nil
	}
	homes := make(map[string]mail.Home)
	if !d.placesByHost() {
		return homes
	}
	for _, t := range f.Gateway.Targets {
		if t.hasPartner() {
			for _, name := range t.hostNames() {
				homes[name] = mail.Home(name)
			}
		}
	}
	for _, h := range d.Hosts {
		name := strings.ToLower(h.Name)
		t := f.Gateway.target(h.Deliver)
		if t == nil || !t.hasPartner() {
			continue
		}
		if home := strings.ToLower(h.Home); home != "" || slices.Contains(t.hostNames(), name) {
			homes[name] = mail.Home(cmp.Or(home, name))
		}
	}
	return homes
}

// PairHint is what gateways are told of a node of a pair, behind XPOSTERN: the
// pair, so that two servers of different pairs are never taken for one, and the
// class of the node; and whether they are asked to keep mail for the partner. ""
// for a server that stands alone.
func (b *Backend) PairHint() string {
	if b.Replica == nil {
		return ""
	}
	hint := fmt.Sprintf("PAIR=%08x CLASS=%d", crc32.ChecksumIEEE([]byte("pair "+b.Replica.Pair)), b.Node&1)
	if b.Replica.KeepsMail() {
		hint += " KEEP"
	}
	return hint
}

// hasPartner reports whether mail to an LMTP target may go to another node.
func (t *Target) hasPartner() bool {
	return t.Protocol == string(delivery.LMTP) && len(t.Address) > 1
}

// target returns the target of that name, or nil.
func (g *Gateway) target(name string) *Target {
	for _, t := range g.Targets {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// home checks where a host block says that its accounts are at home.
func (c checker) home(h *Host) {
	t := c.file.Gateway.target(h.Deliver)
	if h.Home == "" || t == nil {
		return
	}
	if !t.hasPartner() || !slices.Contains(t.hostNames(), strings.ToLower(h.Home)) {
		c.errorf(h.rangeOf("home"), "Not its node", "home names a host out of the addresses of the target, which has two or more; the target %q has %s.",
			t.Name, strings.Join(t.Address, ", "))
	}
}

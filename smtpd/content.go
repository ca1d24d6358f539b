package smtpd

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/content"
)

// inspect takes in a message that policy looks into: it is spooled, decided upon
// and changed before any of it reaches the queue. section is the header section
// where addresses in it were rewritten.
func (t *transaction) inspect(ctx context.Context, h *head, section []byte, facts headerFacts, in *incoming) error {
	m, err := t.spool(h, section, facts, in)
	if in.err != nil { // what was spooled is not the whole message
		if err == nil {
			m.Close()
		}
		return in.err
	}
	if err != nil {
		return storeError(err)
	}
	defer m.Close()
	ascii := isASCII(m.Fields())
	if err := t.askWhole(ctx, in.octets, m); err != nil || t.decision.Discard {
		return err
	}
	staged, err := t.session.handler.deps.Queue.Stage(ctx, m.NewReader())
	if err != nil {
		return storeError(err)
	}
	t.changed.utf8 = ascii && !isASCII(m.Fields())
	t.changed.eightBit = m.EightBit()
	if err := t.submit(ctx, staged); err != nil {
		staged.Discard()
		return err
	}
	return nil
}

// spool reads the message to its end.
func (t *transaction) spool(h *head, section []byte, facts headerFacts, in *incoming) (*content.Message, error) {
	top, ours := t.prepend(facts, time.Now())
	written, _ := content.Split([]byte(top))
	read := h.section()
	fields, end := content.Split(read)
	if section != nil { // with the same fields
		fields, _ = content.Split(section)
	}
	rest := io.MultiReader(bytes.NewReader(h.octets[end:]), in)
	limits := content.Limits{HeaderGrowth: t.session.handler.cfg.MaxHeaderField, Client: t.client()}
	return content.New(t.session.handler.deps.Spool, limits, written[:ours], append(written[ours:], fields...), rest)
}

// client is who counts as one with the present client, where the spool is shared
// out; the zero Prefix is somebody near.
func (t *transaction) client() netip.Prefix {
	if t.flowExempt(&t.tx.Client) {
		return netip.Prefix{}
	}
	addr := t.tx.Client.Remote.Addr().Unmap().WithZone("")
	bits := cmp.Or(t.session.handler.cfg.IPv6Bits, 64)
	if addr.Is4() {
		bits = cmp.Or(t.session.handler.cfg.IPv4Bits, 32)
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return network
}

// askWhole puts the whole message to the chain.
func (t *transaction) askWhole(ctx context.Context, octets int64, m *content.Message) error {
	t.tx.Octets, t.tx.Message = octets, m
	defer func() { t.tx.Message = nil }()
	err := t.askAll(ctx, mail.PhaseEndOfData)
	if err == nil && m.Changed() {
		t.changed.content = true
		t.messageID = messageID(m, t.messageID)
	}
	return err
}

// messageID returns the Message-ID the message goes on with.
func messageID(m *content.Message, was string) string {
	for _, f := range m.Fields() {
		if f.Is("Message-ID") {
			id := f.Unfolded()
			return strings.ToValidUTF8(id[:min(len(id), maxMessageIDOctets)], "?")
		}
	}
	return was
}

func isASCII(fields []mail.Field) bool {
	for _, f := range fields {
		for i := range len(f) {
			if f[i] >= 0x80 {
				return false
			}
		}
	}
	return true
}

package rewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/rewrite/srs"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/table"
)

// OutboundConfig says what is rewritten on the way out.
type OutboundConfig struct {
	// Generic maps every address, of envelope and header, to its form outside.
	Generic []table.Table
	// Ours reports whether a domain is one that mail is accepted for. Required.
	Ours func(mail.Domain) bool
	// SRS signs the reverse-path of strangers' mail that is forwarded to
	// strangers; nil leaves it.
	SRS *srs.Rewriter
}

// Outbound rewrites what goes out by SMTP. It may be used concurrently and
// never changes.
type Outbound struct {
	cfg  OutboundConfig
	find finder
}

// NewOutbound returns an Outbound that looks addresses up as the Rewriter of
// cfg does.
func NewOutbound(cfg Config, out OutboundConfig) *Outbound {
	return &Outbound{out, finder{order: cfg.order(), propagate: cfg.PropagateGeneric, origin: cfg.Origin}}
}

// Deliver makes an attempt through next, which it calls once for recipients
// whose copies are alike. Outcomes are those of the recipients as d names
// them; one about whom a table has no answer is deferred.
func (o *Outbound) Deliver(ctx context.Context, d mail.Delivery, next func(context.Context, mail.Delivery) []mail.Outcome) []mail.Outcome {
	parts, err := o.parts(ctx, d)
	if err != nil {
		return allDeferred(d, err)
	}
	if parts == nil {
		return next(ctx, d)
	}
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	for _, p := range parts {
		one := p.delivery(d)
		if err := o.content(ctx, d, p.mark, &one); err != nil {
			p.take(outcomes, allDeferred(one, err), d)
			continue
		}
		p.take(outcomes, next(ctx, one), d)
	}
	return outcomes
}

// part is a copy of a message: recipients with the same reverse-path and mark.
type part struct {
	sender  mail.Address
	mark    mail.Address // for Delivered-To; null for none
	indices []int
	to      []mail.Recipient
}

// parts divides the recipients. Nil means that all go on as they are.
func (o *Outbound) parts(ctx context.Context, d mail.Delivery) ([]*part, error) {
	if len(o.cfg.Generic) == 0 && !o.forwardsAny(d) {
		return nil, nil
	}
	own, err := o.generic(ctx, d.Envelope.ReversePath)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	type key struct{ sender, mark mail.Address }
	var parts []*part
	known := make(map[key]*part)
	for i, r := range d.Envelope.Recipients {
		k := key{sender: own}
		if o.forwarded(r) {
			k = key{o.forwardPath(d.Envelope.ReversePath, own, now), markOf(r)}
		}
		if r.Address, err = o.generic(ctx, r.Address); err != nil {
			return nil, err
		}
		p := known[k]
		if p == nil {
			p = &part{sender: k.sender, mark: k.mark}
			known[k] = p
			parts = append(parts, p)
		}
		p.indices, p.to = append(p.indices, i), append(p.to, r)
	}
	return parts, nil
}

func (o *Outbound) forwardsAny(d mail.Delivery) bool {
	for i := range d.Envelope.Recipients {
		if o.forwarded(d.Envelope.Recipients[i]) {
			return true
		}
	}
	return false
}

// forwarded reports whether mail for an address of ours goes on to one that is
// not.
func (o *Outbound) forwarded(r mail.Recipient) bool {
	return (o.cfg.Ours(r.Accepted.Domain) || r.Accepted.IsPostmaster()) && !o.cfg.Ours(r.Address.Domain) && r.Address.Domain != ""
}

// markOf returns what Delivered-To says of a forwarded recipient. An address
// that would make the header need SMTPUTF8 is not worth that.
func markOf(r mail.Recipient) mail.Address {
	if r.Accepted.Domain == "" || !r.Accepted.IsASCII() {
		return mail.Address{}
	}
	return r.Accepted
}

// forwardPath returns the reverse-path of forwarded mail. Senders of ours, and
// those whose address would no longer fit or could not come back past our own
// relay check, stay as they are.
func (o *Outbound) forwardPath(sender, own mail.Address, now time.Time) mail.Address {
	if o.cfg.SRS == nil || sender.IsNull() || o.cfg.Ours(sender.Domain) || bytes.ContainsAny([]byte(sender.Local), "%!@") {
		return own
	}
	signed, err := o.cfg.SRS.Encode(sender, now)
	if err != nil {
		return own
	}
	return signed
}

// generic maps one address. The map is not gone through twice.
func (o *Outbound) generic(ctx context.Context, a mail.Address) (mail.Address, error) {
	if len(o.cfg.Generic) == 0 || a.IsNull() {
		return a, nil
	}
	return o.find.step(ctx, o.cfg.Generic, complete(a, o.find.origin, ""))
}

// delivery is d for the part.
func (p *part) delivery(d mail.Delivery) mail.Delivery {
	before := *d.Routed()
	routed := before.Recipients
	before.Recipients = make([]mail.Recipient, len(p.indices))
	for n, i := range p.indices {
		before.Recipients[n] = routed[i]
	}
	d.Before = &before
	d.Envelope.ReversePath, d.Envelope.Recipients = p.sender, p.to
	return d
}

// take sorts the outcomes of a part into those of the whole.
func (p *part) take(all, got []mail.Outcome, d mail.Delivery) {
	for n, i := range p.indices {
		all[i] = got[n]
		all[i].Recipient = d.Envelope.Recipients[i].Address
	}
}

// allDeferred returns the outcomes of an attempt that an outage of ours ended.
func allDeferred(d mail.Delivery, err error) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(d.Envelope.Recipients))
	for i, r := range d.Envelope.Recipients {
		outcomes[i] = mail.Outcome{Recipient: r.Address, Class: mail.Deferred, Reply: status.ReplyOf(err), At: time.Now()}
	}
	return outcomes
}

// maxHeaderOctets is how much of a message is looked at for addresses.
const maxHeaderOctets = 128 << 10

// content has one open the message with its mark, and with the addresses of
// its header mapped.
func (o *Outbound) content(ctx context.Context, d mail.Delivery, mark mail.Address, one *mail.Delivery) error {
	var prefix []byte
	if !mark.IsNull() {
		prefix = []byte("Delivered-To: " + mark.String() + "\r\n")
	}
	skip := 0
	if len(o.cfg.Generic) > 0 {
		section, err := readSection(d)
		if err != nil {
			return err
		}
		mapped, err := header(ctx, section, func(ctx context.Context, a mail.Address, _ Class) (mail.Address, error) {
			return o.generic(ctx, a)
		})
		if err != nil {
			return err
		}
		if mapped != nil {
			prefix, skip = append(prefix, mapped...), len(section)
			one.Envelope.SMTPUTF8 = one.Envelope.SMTPUTF8 || !IsASCII(mapped) && IsASCII(section)
		}
	}
	if prefix == nil {
		return nil
	}
	if d.Octets > 0 {
		one.Octets = d.Octets - int64(skip) + int64(len(prefix))
	}
	one.Open = func() (mail.Content, error) {
		content, err := d.Open()
		if err != nil {
			return nil, err
		}
		return splice(prefix, content, int64(skip))
	}
	return nil
}

// readSection reads a message's header section, whole fields only.
func readSection(d mail.Delivery) ([]byte, error) {
	content, err := d.Open()
	if err != nil {
		return nil, status.New(status.StoreDown, fmt.Errorf("open content: %w", err))
	}
	defer func() { _ = content.Close() }() // only read
	buffer := make([]byte, maxHeaderOctets)
	n, err := content.ReadAt(buffer, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, status.New(status.StoreDown, fmt.Errorf("read content: %w", err))
	}
	return Section(buffer[:n], err != nil || int64(n) == d.Octets), nil
}

// Section returns the header section at the beginning of a message, without
// the empty line that ends it. Where that is not in what was read, and whole
// does not tell that this is all there is, it ends before the last field.
func Section(read []byte, whole bool) []byte {
	if bytes.HasPrefix(read, []byte("\r\n")) {
		return nil
	}
	if end := bytes.Index(read, []byte("\r\n\r\n")); end >= 0 {
		return read[:end+2]
	}
	if whole {
		return read
	}
	for end := len(read) - 2; end >= 0; end-- {
		if read[end] == '\n' && read[end+1] != ' ' && read[end+1] != '\t' {
			return read[:end+1]
		}
	}
	return nil
}

// IsASCII reports whether a header can go to a peer without SMTPUTF8.
func IsASCII(text []byte) bool {
	for _, c := range text {
		if c > 127 {
			return false
		}
	}
	return true
}

// spliced is a message whose beginning is replaced.
type spliced struct {
	*io.SectionReader
	io.Closer
}

// splice returns content with prefix in the place of its first skip octets.
func splice(prefix []byte, content mail.Content, skip int64) (mail.Content, error) {
	octets, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	joint := joint{bytes.NewReader(prefix), int64(len(prefix)), content, skip}
	return spliced{io.NewSectionReader(joint, 0, octets-skip+joint.octets), content}, nil
}

// joint reads one after the other.
type joint struct {
	prefix  io.ReaderAt
	octets  int64
	content io.ReaderAt
	skip    int64
}

// ReadAt implements io.ReaderAt.
func (j joint) ReadAt(p []byte, at int64) (n int, err error) {
	if at < j.octets {
		if n, err = j.prefix.ReadAt(p, at); n == len(p) || !errors.Is(err, io.EOF) {
			return n, err
		}
	}
	more, err := j.content.ReadAt(p[n:], at+int64(n)-j.octets+j.skip)
	return n + more, err
}

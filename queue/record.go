package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
	"github.com/postern-mail/postern/store"
)

// recordVersion starts every record. A newer one is refused by name.
const recordVersion = 1

var errRecord = errors.New("malformed queue record")

// message is what all groups of a message share.
type message struct {
	id       mail.QueueID
	envelope mail.Envelope // without recipients
	content  store.Ref
	arrived  time.Time
	from     string // where it came from, for reports
	groups   uint32 // how many it was accepted with
	report   bool   // one of our own reports
}

// group is a set of recipients with one destination, and how far it got.
type group struct {
	destination string
	attempts    int
	due         time.Time // zero while held
	held        bool
	warned      bool // the sender was told of the delay
	last        status.Reply
	remote      string
	recipients  []mail.Recipient
}

func (m *message) encode() []byte {
	e := encoder{recordVersion}
	e.address(m.envelope.ReversePath)
	e.text(string(m.envelope.Body))
	e.flag(m.envelope.SMTPUTF8)
	e.number(m.envelope.DeclaredOctets)
	e.text(string(m.envelope.Return))
	e.text(m.envelope.EnvelopeID)
	e = append(e, m.content.Hash[:]...)
	e.number(m.content.Octets)
	e.instant(m.arrived)
	e.text(m.from)
	e.number(int64(m.groups))
	e.flag(m.report)
	return e
}

func decodeMessage(id mail.QueueID, record []byte) (*message, error) {
	d := newDecoder(record)
	m := &message{id: id}
	m.envelope.ReversePath = d.address()
	m.envelope.Body = mail.Body(d.text())
	m.envelope.SMTPUTF8 = d.flag()
	m.envelope.DeclaredOctets = d.number()
	m.envelope.Return = mail.DSNReturn(d.text())
	m.envelope.EnvelopeID = d.text()
	copy(m.content.Hash[:], d.take(len(m.content.Hash)))
	m.content.Octets = d.number()
	m.arrived = d.instant()
	m.from = d.text()
	m.groups = uint32(d.number())
	m.report = d.flag()
	return m, d.end("message " + string(id))
}

func (g *group) encode() []byte {
	e := encoder{recordVersion}
	e.text(g.destination)
	e.number(int64(g.attempts))
	e.instant(g.due)
	e.flag(g.held)
	e.flag(g.warned)
	e.number(int64(g.last.Code))
	for _, part := range g.last.Enhanced {
		e.number(int64(part))
	}
	e.text(g.last.Text)
	e.text(g.remote)
	e.number(int64(len(g.recipients)))
	for _, r := range g.recipients {
		e.address(r.Address)
		e.text(r.Original)
		e.address(r.Accepted)
		e = append(e, byte(r.Notify))
		e.text(r.Route.Transport)
		e.text(r.Route.NextHop)
	}
	return e
}

func decodeGroup(record []byte) (*group, error) {
	d := newDecoder(record)
	g := &group{destination: d.text()}
	g.attempts = int(d.number())
	g.due = d.instant()
	g.held = d.flag()
	g.warned = d.flag()
	g.last.Code = int(d.number())
	for i := range g.last.Enhanced {
		g.last.Enhanced[i] = int(d.number())
	}
	g.last.Text = d.text()
	g.remote = d.text()
	n := d.number()
	if n < 0 || n > int64(len(record)) {
		return nil, fmt.Errorf("%w: %d recipients", errRecord, n)
	}
	for range n {
		r := mail.Recipient{Address: d.address(), Original: d.text(), Accepted: d.address()}
		if b := d.take(1); len(b) == 1 {
			r.Notify = mail.Notify(b[0])
		}
		r.Route = mail.Route{Transport: d.text(), NextHop: d.text()}
		g.recipients = append(g.recipients, r)
	}
	return g, d.end("group")
}

// encoder appends fields: numbers as varints, texts with their length.
type encoder []byte

func (e *encoder) number(n int64) { *e = binary.AppendVarint(*e, n) }

func (e *encoder) text(s string) {
	*e = binary.AppendUvarint(*e, uint64(len(s)))
	*e = append(*e, s...)
}

func (e *encoder) flag(b bool) {
	if b {
		*e = append(*e, 1)
	} else {
		*e = append(*e, 0)
	}
}

func (e *encoder) address(a mail.Address) {
	e.text(string(a.Local))
	e.text(string(a.Domain))
}

func (e *encoder) instant(t time.Time) {
	if t.IsZero() {
		e.number(0)
		return
	}
	e.number(t.UnixNano())
}

// decoder reads what encoder wrote. After the first fault it yields zeros;
// end tells.
type decoder struct {
	rest []byte
	err  error
}

func newDecoder(record []byte) *decoder {
	d := &decoder{rest: record}
	if version := d.take(1); len(version) == 1 && version[0] != recordVersion {
		d.err = fmt.Errorf("%w: version %d, this program knows version %d", errRecord, version[0], recordVersion)
	}
	return d
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.rest) {
		if d.err == nil {
			d.err = fmt.Errorf("%w: cut short", errRecord)
		}
		return nil
	}
	part := d.rest[:n]
	d.rest = d.rest[n:]
	return part
}

func (d *decoder) number() int64 {
	n, used := binary.Varint(d.rest)
	if used <= 0 {
		d.take(len(d.rest) + 1)
		return 0
	}
	d.take(used)
	return n
}

func (d *decoder) text() string {
	n, used := binary.Uvarint(d.rest)
	if used <= 0 || n > uint64(len(d.rest)) {
		d.take(len(d.rest) + 1)
		return ""
	}
	d.take(used)
	return string(d.take(int(n)))
}

func (d *decoder) flag() bool {
	b := d.take(1)
	return len(b) == 1 && b[0] != 0
}

func (d *decoder) address() mail.Address {
	return mail.Address{Local: mail.LocalPart(d.text()), Domain: mail.Domain(d.text())}
}

func (d *decoder) instant() time.Time {
	n := d.number()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

func (d *decoder) end(what string) error {
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%w: %d octets too many", errRecord, len(d.rest))
	}
	if d.err != nil {
		return fmt.Errorf("%s: %w", what, d.err)
	}
	return nil
}

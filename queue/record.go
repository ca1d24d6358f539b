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

// formatVersion begins every record. A reader refuses a higher one.
const formatVersion = 1

// extendedVersion begins message records that hold more than the first release
// could read. The others stay at formatVersion, so that it still reads them.
const extendedVersion = 2

// record is what the groups of a queued message share.
type record struct {
	arrived      time.Time
	ref          store.Ref
	envelope     mail.Envelope // without recipients
	receivedFrom string
	groups       [][]mail.Recipient
}

// Bounds of one record, below what a value may hold.
const (
	maxRecordOctets = 56 << 10
	maxGroupOctets  = 32 << 10
)

var errRecord = errors.New("malformed queue record")

// encodeMessage returns the message's record and those of the groups that do
// not fit in it.
func encodeMessage(m *record) (first []byte, parts [][]byte) {
	groups := make([][]byte, len(m.groups))
	for i, g := range m.groups {
		groups[i] = appendGroup(nil, g)
	}
	buf := appendEnvelope(make([]byte, 0, 256+groupsOctets(groups)), m)
	n := fit(groups, maxRecordOctets-len(buf)-4*binary.MaxVarintLen32)
	rest := groups[n:]
	for left := rest; len(left) > 0; {
		n := max(fit(left, maxRecordOctets), 1)
		parts = append(parts, appendGroups([]byte{formatVersion}, left[:n]))
		left = left[n:]
	}
	buf = binary.AppendUvarint(buf, uint64(len(parts)))
	return appendGroups(buf, groups[:n]), parts
}

func groupsOctets(groups [][]byte) (n int) {
	for _, g := range groups {
		n += len(g)
	}
	return min(n, maxRecordOctets)
}

// fit returns how many groups from the first have room in octets.
func fit(groups [][]byte, octets int) int {
	for i, g := range groups {
		if octets -= len(g); octets < 0 {
			return i
		}
	}
	return len(groups)
}

func appendGroups(buf []byte, groups [][]byte) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(groups)))
	for _, g := range groups {
		buf = append(buf, g...)
	}
	return buf
}

// The flags of a message record. All but the first stand only in records of
// extendedVersion.
const (
	flagSMTPUTF8 = 1 << iota
	flagRequireTLS
	flagPriority // a priority follows
	flagTLSOptional
	flagHomes     // recipients with homeFollows have one
	flagSubmitter // account and directory of the submitter follow
	knownFlags    = flagSMTPUTF8 | flagRequireTLS | flagPriority | flagTLSOptional | flagHomes | flagSubmitter
)

// homeFollows in the octet of NOTIFY, which has room, means that the home of
// the recipient's account comes behind its route.
const homeFollows = 1 << 7

// envelopeFlags returns the flags of an envelope, and the version of the
// record that can hold them.
func envelopeFlags(e *mail.Envelope) (flags, version byte) {
	if e.RequireTLS {
		flags |= flagRequireTLS
	}
	if e.Priority != 0 {
		flags |= flagPriority
	}
	if e.TLSOptional {
		flags |= flagTLSOptional
	}
	if e.Submitter.Name != "" {
		flags |= flagSubmitter
	}
	version = formatVersion
	if flags != 0 {
		version = extendedVersion
	}
	if e.SMTPUTF8 {
		flags |= flagSMTPUTF8
	}
	return flags, version
}

func appendEnvelope(buf []byte, m *record) []byte {
	e := &m.envelope
	flags, version := envelopeFlags(e)
	if m.hasHomes() {
		flags, version = flags|flagHomes, extendedVersion
	}
	buf = append(buf, version)
	buf = binary.AppendVarint(buf, m.arrived.UnixMilli())
	buf = append(buf, m.ref.Hash[:]...)
	buf = binary.AppendUvarint(buf, uint64(m.ref.Octets))
	buf = appendAddress(buf, e.ReversePath)
	buf = appendString(buf, string(e.Body))
	buf = append(buf, flags)
	buf = binary.AppendUvarint(buf, uint64(max(e.DeclaredOctets, 0)))
	buf = appendString(buf, string(e.Return))
	buf = appendString(buf, e.EnvelopeID)
	buf = appendString(buf, m.receivedFrom)
	if e.Priority != 0 {
		buf = append(buf, byte(e.Priority))
	}
	if e.Submitter.Name != "" {
		buf = appendString(appendString(buf, e.Submitter.Name), e.Submitter.Source)
	}
	return buf
}

// hasHomes reports whether it is known of any recipient where it is at home.
func (m *record) hasHomes() bool {
	for _, g := range m.groups {
		for i := range g {
			if g[i].Home != "" {
				return true
			}
		}
	}
	return false
}

func appendGroup(buf []byte, recipients []mail.Recipient) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(recipients)))
	for _, r := range recipients {
		buf = appendRecipient(buf, r)
	}
	return buf
}

func appendRecipient(buf []byte, r mail.Recipient) []byte {
	buf = appendAddress(buf, r.Address)
	// Most often what RCPT named is where the message goes.
	if r.Accepted == r.Address {
		buf = append(buf, 0)
	} else {
		buf = appendAddress(append(buf, 1), r.Accepted)
	}
	buf = appendString(buf, r.Original)
	notify := byte(r.Notify)
	if r.Home != "" {
		notify |= homeFollows
	}
	buf = append(buf, notify)
	buf = appendString(buf, r.Route.Transport)
	buf = appendString(buf, r.Route.NextHop)
	if r.Home != "" {
		buf = appendString(buf, string(r.Home))
	}
	return buf
}

func appendAddress(buf []byte, a mail.Address) []byte {
	return appendString(appendString(buf, string(a.Local)), string(a.Domain))
}

func appendString(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// decodeMessage reads what encodeMessage wrote; part returns the further
// records, which a nil part leaves out.
func decodeMessage(first []byte, part func(n int) ([]byte, error)) (*record, error) {
	d := decoder{buf: first}
	version := d.version(extendedVersion)
	m := &record{arrived: time.UnixMilli(d.varint())}
	copy(m.ref.Hash[:], d.take(len(m.ref.Hash)))
	m.ref.Octets = int64(d.uvarint())
	m.envelope = mail.Envelope{ReversePath: d.address(), Body: mail.Body(d.string())}
	flags := d.flags(version)
	m.envelope.SMTPUTF8 = flags&flagSMTPUTF8 != 0
	m.envelope.DeclaredOctets = int64(d.uvarint())
	m.envelope.Return = mail.DSNReturn(d.string())
	m.envelope.EnvelopeID = d.string()
	m.receivedFrom = d.string()
	m.envelope.RequireTLS = flags&flagRequireTLS != 0
	m.envelope.TLSOptional = flags&flagTLSOptional != 0
	if flags&flagPriority != 0 {
		m.envelope.Priority = d.priority()
	}
	if flags&flagSubmitter != 0 {
		m.envelope.Submitter = mail.Submitter{Name: d.string(), Source: d.string()}
	}
	parts := d.uvarint()
	m.groups = d.groups(nil)
	if parts > store.MaxBatchOps {
		d.fail()
	}
	for i := 0; i < int(parts) && d.err == nil && part != nil; i++ {
		octets, err := part(i)
		if err != nil {
			return nil, err
		}
		p := decoder{buf: octets}
		p.version(formatVersion)
		m.groups = p.groups(m.groups)
		d.err = p.end()
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return m, nil
}

// decodeRef reads of a message's record which body it refers to, also where the
// rest of it is damaged.
func decodeRef(first []byte) (ref store.Ref, err error) {
	d := decoder{buf: first}
	d.version(extendedVersion)
	d.varint() // when it arrived
	copy(ref.Hash[:], d.take(len(ref.Hash)))
	ref.Octets = int64(d.uvarint())
	return ref, d.err
}

// decoder reads records. The first error sticks, and everything after it is
// zero.
type decoder struct {
	buf []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errRecord
	}
	d.buf = nil
}

// end returns the error, or one when octets are left.
func (d *decoder) end() error {
	if d.err == nil && len(d.buf) > 0 {
		d.fail()
	}
	return d.err
}

// version reads the format, which is at most newest.
func (d *decoder) version(newest byte) byte {
	v := d.byte()
	if d.err == nil && (v < formatVersion || v > newest) {
		d.err = fmt.Errorf("%w: format %d, this program knows %d", errRecord, v, newest)
		d.buf = nil
	}
	return v
}

// flags reads the flags of a message record. The first format did without
// those it did not know.
func (d *decoder) flags(version byte) byte {
	flags := d.byte()
	if version == formatVersion {
		return flags & flagSMTPUTF8
	}
	if flags&^knownFlags != 0 {
		d.fail()
	}
	return flags
}

func (d *decoder) priority() int8 {
	p := int8(d.byte())
	if p < mail.LowestPriority || p > mail.HighestPriority {
		d.fail()
		return 0
	}
	return p
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.buf) {
		d.fail()
		return nil
	}
	taken := d.buf[:n]
	d.buf = d.buf[n:]
	return taken
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.buf)) {
		d.fail()
		return ""
	}
	return string(d.take(int(n)))
}

func (d *decoder) address() mail.Address {
	return mail.Address{Local: mail.LocalPart(d.string()), Domain: mail.Domain(d.string())}
}

// count reads a number of things that take at least one octet each.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.buf)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) groups(groups [][]mail.Recipient) [][]mail.Recipient {
	for n := d.count(); n > 0 && d.err == nil; n-- {
		size := d.count()
		recipients := make([]mail.Recipient, 0, min(size, maxRecipientLimit))
		for ; size > 0 && d.err == nil; size-- {
			recipients = append(recipients, d.recipient())
		}
		groups = append(groups, recipients)
	}
	return groups
}

func (d *decoder) recipient() mail.Recipient {
	r := mail.Recipient{Address: d.address()}
	if d.byte() == 0 {
		r.Accepted = r.Address
	} else {
		r.Accepted = d.address()
	}
	r.Original = d.string()
	notify := d.byte()
	r.Notify = mail.Notify(notify &^ homeFollows)
	r.Route = mail.Route{Transport: d.string(), NextHop: d.string()}
	if notify&homeFollows != 0 {
		r.Home = mail.Home(d.string())
	}
	return r
}

// appendReply writes a reply with its text cut to textLimit octets.
func appendReply(buf []byte, r status.Reply, textLimit int) []byte {
	buf = binary.AppendUvarint(buf, uint64(r.Code))
	for _, n := range r.Enhanced {
		buf = binary.AppendUvarint(buf, uint64(n))
	}
	return appendString(buf, r.Text[:min(len(r.Text), textLimit)])
}

func (d *decoder) reply() status.Reply {
	r := status.Reply{Code: d.small()}
	for i := range r.Enhanced {
		r.Enhanced[i] = d.small()
	}
	r.Text = d.string()
	return r
}

// small reads a number of a reply.
func (d *decoder) small() int {
	n := d.uvarint()
	if n > 999 {
		d.fail()
	}
	return int(min(n, 999))
}

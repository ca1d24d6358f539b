package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The handshake's messages: an octet of kind, two of length, the content.
const (
	kindHello  = 'H'
	kindRefuse = 'R'
	kindGo     = 'G'

	maxHello = 48 << 10
)

// The fields of a hello: two octets of tag, two of length, the value. What is
// not known is passed over: it is a newer release's.
const (
	tagVersions = 1 // oldest, newest
	tagFeatures = 2
	tagNode     = 3
	tagOrigin   = 4
	tagPair     = 5
	tagClock    = 6 // microseconds since 1970
	tagSoftware = 7
	tagProof    = 8
	tagSetting  = 9 // name, NUL, value; repeated
	tagAuth     = 10
)

// How a side knows its partner.
const (
	authPin    = 1
	authSecret = 2
)

// hello is what each side says first.
type hello struct {
	minVersion, version uint16
	features            uint64
	node                uint16
	origin              uint64
	pair, software      string
	clock               time.Time
	auth                uint8
	proof               []byte
	settings            []Setting
}

func helloOf(cfg Config, now time.Time, proof []byte) hello {
	h := hello{
		minVersion: cfg.MinVersion, version: cfg.Version, features: cfg.Features, node: cfg.Node, origin: cfg.Origin,
		pair: cfg.Pair, software: cfg.Software, clock: now, auth: authPin, proof: proof, settings: cfg.Settings,
	}
	if len(cfg.Secret) > 0 {
		h.auth = authSecret
	}
	return h
}

func (h hello) encode() []byte {
	var b []byte
	field := func(tag uint16, value []byte) {
		b = binary.BigEndian.AppendUint16(b, tag)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, value...)
	}
	u16, u64 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint64
	field(tagAuth, []byte{h.auth})
	field(tagVersions, u16(u16(nil, h.minVersion), h.version))
	field(tagFeatures, u64(nil, h.features))
	field(tagNode, u16(nil, h.node))
	field(tagOrigin, u64(nil, h.origin))
	field(tagPair, []byte(h.pair))
	field(tagClock, u64(nil, uint64(h.clock.UnixMicro())))
	field(tagSoftware, []byte(h.software))
	field(tagProof, h.proof)
	for _, s := range h.settings {
		value := s.Name + "\x00" + s.Value
		field(tagSetting, []byte(value[:min(len(value), maxSettingOctet)]))
	}
	return b
}

var errHello = fmt.Errorf("%w: malformed hello", ErrProtocol)

func parseHello(b []byte) (hello, error) {
	var h hello
	for len(b) > 0 {
		if len(b) < 4 {
			return h, errHello
		}
		tag, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; n > len(b) {
			return h, errHello
		}
		if err := h.field(tag, b[:n]); err != nil {
			return h, err
		}
		b = b[n:]
	}
	if h.version == 0 || h.minVersion > h.version || h.auth == 0 {
		return h, errHello
	}
	return h, nil
}

// lengths are those of the fields that have one.
var lengths = map[uint16]int{tagVersions: 4, tagFeatures: 8, tagNode: 2, tagOrigin: 8, tagClock: 8, tagAuth: 1}

func (h *hello) field(tag uint16, v []byte) error {
	if n, fixed := lengths[tag]; fixed && len(v) != n {
		return errHello
	}
	switch tag {
	case tagVersions:
		h.minVersion, h.version = binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(v[2:])
	case tagFeatures:
		h.features = binary.BigEndian.Uint64(v)
	case tagNode:
		h.node = binary.BigEndian.Uint16(v)
	case tagOrigin:
		h.origin = binary.BigEndian.Uint64(v)
	case tagClock:
		h.clock = time.UnixMicro(int64(binary.BigEndian.Uint64(v)))
	case tagAuth:
		h.auth = v[0]
	case tagProof:
		h.proof = bytes.Clone(v)
	case tagPair, tagSoftware:
		if len(v) > maxText {
			return errHello
		}
		if tag == tagPair {
			h.pair = printable(string(v))
		} else {
			h.software = printable(string(v))
		}
	case tagSetting:
		name, value, ok := bytes.Cut(v, []byte{0})
		if !ok || len(v) > maxSettingOctet || len(h.settings) == maxSettings {
			return errHello
		}
		h.settings = append(h.settings, Setting{printable(string(name)), printable(string(value))})
	}
	return nil
}

func writeMessage(w io.Writer, kind byte, content []byte) error {
	b := binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(content)))
	_, err := w.Write(append(b, content...))
	return err
}

// readMessage reads one message of the handshake; a refusal comes back as one.
func readMessage(r io.Reader, want byte) ([]byte, error) {
	var h [3]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the other end hung up during the handshake")
		}
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(h[1:]))
	if n > maxHello || h[0] != want && h[0] != kindRefuse {
		return nil, errHello
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if h[0] == kindRefuse {
		return nil, parseRefusal(b)
	}
	return b, nil
}

// RefusalCode says why a partner is refused.
type RefusalCode uint8

// The reasons.
const (
	WrongSecret RefusalCode = 1 + iota
	UnknownKey
	OtherAuth  // one side has a secret, the other pins
	SameNode   // both have one number, or class
	Itself     // the address leads back here
	Cloned     // the data is a copy
	OtherPair  // the names of the pair differ
	OldVersion // no version both speak
	Busy       // a session is there, or about to be
)

// Refusal is why one side wants no session with the other. The text tells an
// operator what to do.
type Refusal struct {
	Code   RefusalCode
	Text   string
	Theirs bool // the other side's words
}

// Error implements error.
func (r *Refusal) Error() string {
	if r.Theirs {
		return "the partner refuses: " + r.Text
	}
	return "the partner is refused: " + r.Text
}

const maxRefusal = 1 << 10

func (r *Refusal) encode() []byte {
	return append([]byte{byte(r.Code)}, r.Text[:min(len(r.Text), maxRefusal)]...)
}

func parseRefusal(b []byte) error {
	if len(b) < 1 || len(b) > maxRefusal+1 {
		return errHello
	}
	return &Refusal{Code: RefusalCode(b[0]), Text: printable(string(b[1:])), Theirs: true}
}

// judge compares what the two sides said of themselves.
func (c Config) judge(h hello) error {
	switch same := c.Origin&(1<<48-1) == h.origin&(1<<48-1); {
	case h.origin == c.Origin && h.node == c.Node && same:
		return &Refusal{Code: Itself, Text: "both ends have the same data and the same number: either partner is the address of the server itself, or one machine is a copy of the other. Correct partner; a copy must have its mail folder under data_dir emptied first, it is filled again from here"}
	case same:
		return &Refusal{Code: Cloned, Text: "the mailboxes of one server are a copy of the other's, which both would go on changing under one identity. Stop the copy, empty its mail folder under data_dir, and start it: it is filled again by the pair"}
	case h.node == c.Node:
		return &Refusal{Code: SameNode, Text: fmt.Sprintf("both servers have node = %d in their backend block; give one of them node = 0 and the other node = 1", c.Node)}
	case h.node&1 == c.class():
		return &Refusal{Code: SameNode, Text: fmt.Sprintf("the numbers %d and %d of the nodes are both even or both odd; give one of them node = 0 and the other node = 1", c.Node, h.node)}
	case h.pair != c.Pair:
		return &Refusal{Code: OtherPair, Text: fmt.Sprintf("this is the pair %q and not %q; partner leads to a server of another pair, or pair is not written alike in both replica blocks", c.Pair, h.pair)}
	case h.version < c.MinVersion || c.Version < h.minVersion:
		return &Refusal{Code: OldVersion, Text: fmt.Sprintf("versions %d to %d of the protocol are spoken here and %d to %d there: upgrade the older server (%q here, %q there); a pair may be one release apart", c.MinVersion, c.Version, h.minVersion, h.version, c.Software, h.software)}
	}
	return nil
}

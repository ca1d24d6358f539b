// Package sortkey works out what SORT and THREAD compare messages by.
//
// What comes in: the ENVELOPE in its wire form and the header of a message, any
// octets at all. What goes out: a Key of bounded size, whose strings compare as
// i;unicode-casemap does (RFC 5051). What it leaves to others: the criteria that
// need no header.
//
// RFC 5256 sections 2 and 3, RFC 5957.
package sortkey

import (
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/backend/imapd/subject"
	"github.com/postern-mail/postern/backend/mailstore/text"
)

const (
	// maxStringOctets is how much of a string counts.
	maxStringOctets = 500
	// maxSubjectOctets is how much of a Subject field is looked at.
	maxSubjectOctets = 4 << 10
	// maxReferences is how many ancestors of a message count, the nearest ones.
	maxReferences = 500
)

// Field is a string of a Key.
type Field uint8

// The strings of a Key: the base subject, the local-parts of the first address,
// and the names shown for it.
const (
	Subject Field = iota
	From
	To
	Cc
	DisplayFrom
	DisplayTo

	Fields = iota // how many there are
)

// Key is what a message is compared by. It is read-only.
type Key struct {
	// Sent is the instant of the Date field, in unix seconds, if Dated.
	Sent  int64
	Dated bool
	// Reply says that the subject is that of a reply or a forwarded message.
	Reply bool

	ends [Fields]uint16
	text string // the strings, one behind the other

	// ID and References are the Message-IDs for threading; equal Message-IDs
	// have equal numbers, and 0 is none.
	ID         uint64
	References []uint64
}

// Octets is about how much memory the key takes.
func (k *Key) Octets() int64 { return 88 + int64(len(k.text)) + 8*int64(len(k.References)) }

// Text is one of the strings, folded, and "" when there is nothing.
func (k *Key) Text(f Field) string {
	from := uint16(0)
	if f > 0 {
		from = k.ends[f-1]
	}
	return k.text[from:k.ends[f]]
}

// Of works out a message's key.
func Of(envelope, header []byte) Key {
	var k Key
	var buffer [1 << 10]byte
	all := buffer[:0]
	add := func(f Field, s string) {
		from := len(all)
		if all = appendFolded(all, s); len(all) > from+maxStringOctets {
			all = all[:from+maxStringOctets]
		}
		k.ends[f] = uint16(len(all))
	}
	w := wire{strings.TrimPrefix(string(envelope), "(")} // what is read are parts of it
	k.Sent, k.Dated = instant(w.nstring())
	title := w.nstring()
	title = title[:min(len(title), maxSubjectOctets)]
	base, reply := subject.Base(decoded(title))
	k.Reply = reply
	from := w.address()
	w.pass() // Sender
	w.pass() // Reply-To
	to, cc := w.address(), w.address()
	w.pass() // Bcc
	inReplyTo := w.nstring()
	add(Subject, base)
	add(From, from.mailbox)
	add(To, to.mailbox)
	add(Cc, cc.mailbox)
	add(DisplayFrom, from.display())
	add(DisplayTo, to.display())
	k.text = string(all)
	if ids := messageIDs(nil, w.nstring(), 1); len(ids) > 0 {
		k.ID = ids[0]
	}
	k.References = references(header, inReplyTo)
	return k
}

// appendFolded appends s folded for comparison.
func appendFolded(dst []byte, s string) []byte {
	from := len(dst)
	for i := range len(s) {
		c := s[i]
		if c >= utf8.RuneSelf {
			return text.Fold(dst[:from], []byte(s))
		}
		if c-'a' < 26 {
			c -= 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// decoded is s with its encoded-words decoded.
func decoded(s string) string {
	if strings.Contains(s, "=?") {
		return text.Decode(s)
	}
	return s
}

// address is the first of a list.
type address struct {
	name, mailbox, host string
	group               bool // mailbox is the name of a group
}

// display is what RFC 5957 has mail programs show: the name, else the address.
func (a address) display() string {
	switch {
	case a.name != "":
		return decoded(a.name)
	case a.group:
		return decoded(a.mailbox)
	case a.host == "":
		return a.mailbox
	}
	return a.mailbox + "@" + a.host
}

// wire reads an ENVELOPE, which is always well formed; of anything else it
// makes nothing.
type wire struct{ s string }

func (w *wire) space() { w.s = strings.TrimLeft(w.s, " ") }

func (w *wire) take(c byte) bool {
	if len(w.s) > 0 && w.s[0] == c {
		w.s = w.s[1:]
		return true
	}
	return false
}

func (w *wire) nstring() string {
	s, _ := w.text()
	return s
}

// text reads a string; ok is false for NIL.
func (w *wire) text() (s string, ok bool) {
	w.space()
	switch {
	case len(w.s) == 0:
		return "", false
	case w.s[0] == '"':
		return w.quoted(), true
	case w.s[0] == '{':
		return w.literal(), true
	}
	end := strings.IndexAny(w.s, " ()")
	if end < 0 {
		end = len(w.s)
	}
	w.s = w.s[end:]
	return "", false
}

func (w *wire) quoted() string {
	i, escaped := 1, false
	for ; i < len(w.s) && w.s[i] != '"'; i++ {
		if w.s[i] == '\\' {
			escaped = true
			i++
		}
	}
	s := w.s[1:min(i, len(w.s))]
	w.s = w.s[min(i+1, len(w.s)):]
	if !escaped {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (w *wire) literal() string {
	end := strings.IndexByte(w.s, '\n')
	n := 0
	for _, c := range []byte(w.s[1:max(end, 1)]) {
		if c < '0' || c > '9' || n > len(w.s) {
			break
		}
		n = n*10 + int(c-'0')
	}
	start := end + 1
	stop := min(start+n, len(w.s))
	s := w.s[start:stop]
	w.s = w.s[stop:]
	return s
}

// address reads a list of addresses and returns the first.
func (w *wire) address() (a address) {
	w.space()
	if !w.take('(') {
		w.text() // NIL
		return a
	}
	if w.take('(') {
		a.name = w.nstring()
		w.text() // the route
		a.mailbox = w.nstring()
		host, ok := w.text()
		a.host, a.group = host, !ok
		w.skip(1)
	}
	w.skip(1)
	return a
}

// pass passes over a list of addresses.
func (w *wire) pass() {
	w.space()
	if w.take('(') {
		w.skip(1)
	} else {
		w.text() // NIL
	}
}

// skip leaves so many lists.
func (w *wire) skip(depth int) {
	for depth > 0 && len(w.s) > 0 {
		switch c := w.s[0]; c {
		case '(', ')':
			w.s = w.s[1:]
			if c == '(' {
				depth++
			} else {
				depth--
			}
		case '"', '{':
			w.text()
		default:
			w.s = w.s[1:]
		}
	}
}

// Package mime finds the structure of a message: where its parts lie, and
// what IMAP's ENVELOPE and BODYSTRUCTURE say about them.
//
// What goes in: any octets at all, in one pass and bounded memory. What comes
// out: a tree of parts with offsets and IMAP wire forms that are always well
// formed, however broken the message is, and the preview of its text (package
// preview). What it leaves to others: decoding of transfer encodings, charsets
// and encoded-words (RFC 2047), which go through untouched as IMAP wants them.
//
// RFC 2045, 2046, 5322 (read tolerantly); RFC 9051 section 7.5.2, RFC 3501.
package mime

import (
	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

// Span is a range of octets of a message: [Start, End).
type Span struct{ Start, End int64 }

// Len returns the number of octets.
func (s Span) Len() int64 { return s.End - s.Start }

// Part is an entity: the message itself, or a part of a multipart, or the
// message inside a message/rfc822 part. Parts are read-only once made.
type Part struct {
	// Header includes the blank line that ends it, when there is one.
	Header Span
	Body   Span
	Kind   Kind
	// Encoding is the Content-Transfer-Encoding as BINARY needs it.
	Encoding Encoding
	// Parts are the children of a Multipart, or the one message in a Message.
	Parts []*Part
}

// Kind tells how a part's number goes on.
type Kind uint8

// The kinds of parts.
const (
	Leaf      Kind = iota
	Multipart      // multipart/*: Parts are the children, possibly none
	Message        // message/rfc822 or message/global: Parts[0] is the message
)

// Encoding is a Content-Transfer-Encoding.
type Encoding = transfer.Encoding

// The transfer encodings. Identity covers 7bit, 8bit and binary.
const (
	Identity        = transfer.Identity
	Base64          = transfer.Base64
	QuotedPrintable = transfer.QuotedPrintable
	OtherEncoding   = transfer.Other
)

// Find resolves an IMAP part number (RFC 9051 section 6.4.5): every message
// that is no multipart has one part, number 1. The empty path is p itself,
// which must be the root of a message.
func (p *Part) Find(path []int) (*Part, bool) {
	part, message := p, true // message: part stands for a whole message
	for _, n := range path {
		if !message && part.Kind == Message {
			part, message = part.Parts[0], true
		}
		switch {
		case part.Kind == Multipart && n >= 1 && n <= len(part.Parts):
			part, message = part.Parts[n-1], false
		case part.Kind != Multipart && message && n == 1:
			message = false
		default:
			return nil, false
		}
	}
	return part, true
}

// Section returns where the octets of BODY[path.specifier] lie. HEADER is
// asked for also for HEADER.FIELDS, whose fields Fields then picks. False when
// the message has no such section.
func (p *Part) Section(path []int, specifier imap.PartSpecifier) (Span, bool) {
	part, ok := p.Find(path)
	if !ok {
		return Span{}, false
	}
	if len(path) == 0 {
		switch specifier {
		case imap.PartSpecifierNone:
			return Span{part.Header.Start, part.Body.End}, true
		case imap.PartSpecifierHeader:
			return part.Header, true
		case imap.PartSpecifierText:
			return part.Body, true
		}
		return Span{}, false
	}
	switch specifier {
	case imap.PartSpecifierNone:
		return part.Body, true
	case imap.PartSpecifierMIME:
		return part.Header, true
	}
	if part.Kind != Message {
		return Span{}, false
	}
	return part.Parts[0].Section(nil, specifier)
}

package mailstore

import "github.com/postern-mail/postern/backend/mailstore/mime"

// Meta is what FETCH and SEARCH need of a message without touching its body.
// It is computed once, when the message is added, by a tolerant scanner that
// accepts any octets, and is stored beside the index. It is read-only.
type Meta struct {
	// Header is the header block, the trace header first, with its blank line
	// when the message has one.
	Header []byte
	// Envelope and BodyStructure are the IMAP wire forms (RFC 9051 section
	// 7.5.2), ready to be written: a parenthesised list each. Body is
	// BODYSTRUCTURE without extension data, for FETCH BODY.
	Envelope      []byte
	BodyStructure []byte
	Body          []byte
	// SentDate is the Date header's day, as SEARCH SENTON wants it: unix
	// seconds at midnight UTC of the date as written; 0 when unreadable.
	SentDate int64
	// Preview is the beginning of the text (RFC 8970): UTF-8, one line; empty
	// when there is none to show. With NoPreview it is not known: the message
	// came with an earlier release, and Mailbox.CompletePreviews makes it.
	Preview   []byte
	NoPreview bool
	// Root tells where each part lies in what Mailbox.Body reads, for
	// BODY[1.2.MIME] and its like.
	Root *mime.Part
}

// MetaParts says what of a Meta is wanted beside SentDate and NoPreview: the
// rest costs time.
type MetaParts uint8

// The parts of a Meta that cost time; those that are not wanted may be nil.
const (
	MetaHeader MetaParts = 1 << iota
	MetaRoot
	MetaEnvelope
	MetaBodyStructure
	MetaBody
	MetaPreview

	MetaAll = MetaHeader | MetaRoot | MetaEnvelope | MetaBodyStructure | MetaBody | MetaPreview
)

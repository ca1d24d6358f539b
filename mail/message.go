package mail

import (
	"io"
	"strings"
)

// Message is a received message as the stages at the end of data see it, with
// what the stages before asked to change. It belongs to one session and is used
// by one stage at a time.
type Message interface {
	// Fields returns the header fields from the top. They are the Message's: not
	// to be changed, and gone with the next Apply.
	Fields() []Field
	// Ours is how many of the first fields this server wrote itself while it took
	// the message in. Who judges what a sender said leaves them out.
	Ours() int
	// Body returns a reader of the body from its beginning; several may be in use.
	// Lines end in CRLF. The errors of Read are those of a disk of ours.
	Body() io.ReadSeeker
	// BodyOctets is how long the body is.
	BodyOctets() int64
	// Apply changes the message. Edits of the envelope do nothing here. An error
	// leaves it as it was: a place that is not there, a field that is none, a disk
	// that is full, or more edits than a message may have.
	Apply(Edit) error
}

// Field is one header field as it stands in the message: name, colon and body,
// with the CRLF of its inner folds and without the last one.
type Field string

// Name returns the field's name as it is written, without the white space that
// may stand before the colon.
func (f Field) Name() string {
	name, _, _ := strings.Cut(string(f), ":")
	return strings.TrimRight(name, " \t")
}

// Is reports whether the field has that name, in any letter case.
func (f Field) Is(name string) bool { return strings.EqualFold(f.Name(), name) }

// Value returns what follows the colon, folds included.
func (f Field) Value() string {
	_, value, _ := strings.Cut(string(f), ":")
	return value
}

// Unfolded returns the value on one line, without the white space around it
// (RFC 5322 section 2.2.3).
func (f Field) Unfolded() string {
	return strings.TrimSpace(strings.NewReplacer("\r\n", "", "\n", "", "\r", "").Replace(f.Value()))
}

// InsertField is a new field ahead of the one At that place, counted from 0 at
// the top; a place beyond the last is the end of the header.
type InsertField struct {
	At    int
	Field Field
}

// ChangeField puts another field in the place of the one At, or none when Field
// is "".
type ChangeField struct {
	At    int
	Field Field
}

// Finding is what one check found out about a message, in the terms of RFC 8601
// section 2.7: method and result, why, and what was looked at. Findings of other
// checks have a Method that begins with "x-".
type Finding struct {
	Method string // "spf", "dkim", "dmarc", "arc", "auth", "iprev"
	Result string // "pass", "fail", ...
	Reason string // free text, "" for none
	// Domain is the domain the result speaks for; "" for none.
	Domain string
	Props  []Property
	// Stage gave it; filled in by the chain.
	Stage string
}

// Property is one of a Finding's: smtp.mailfrom=example.com is {"smtp",
// "mailfrom", "example.com"}.
type Property struct{ Type, Name, Value string }

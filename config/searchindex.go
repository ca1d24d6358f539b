package config

import "github.com/postern-mail/postern/backend/mailstore"

// SearchIndex is what is indexed of messages, so that searches of text need not
// read them.
type SearchIndex struct {
	block
	Enabled     bool   `conf:"enabled" default:"true" doc:"Keep an index of the text of messages. Without it searches find the same and read every message for it."`
	Attachments bool   `conf:"attachments" default:"false" doc:"Text is also what is in attachments that are no text/*, but text: JSON, XML, RTF and their like. For searches with the index and without it. A change has the indexes built anew."`
	Documents   bool   `conf:"documents" default:"false" doc:"Text is also what is in attached documents of office programs: docx, xlsx, pptx, odt, ods, odp, as far as docs/search.md says. For searches with the index and without it. A change has the indexes built anew."`
	MaxOctets   Octets `conf:"max_octets" default:"4 MiB" doc:"How much text of a message is indexed. One that has more is read by every search that comes to it. A change has the indexes built anew."`
}

// Room returns what is indexed; nil is nothing.
func (s *SearchIndex) Room() *mailstore.SearchIndex {
	switch {
	case s == nil:
		return &mailstore.SearchIndex{}
	case !s.Enabled:
		return nil
	}
	return &mailstore.SearchIndex{Attachments: s.Attachments, Documents: s.Documents, MaxOctets: int64(s.MaxOctets)}
}

// minIndexOctets is less than what most messages have.
const minIndexOctets = 64 << 10

func (c checker) searchIndex(s *SearchIndex) {
	if s == nil {
		return
	}
	if s.MaxOctets < minIndexOctets {
		c.errorf(s.rangeOf("max_octets"), "Too small", "max_octets is at least 64 KiB; enabled = false indexes nothing.")
	}
	if !s.Enabled && s.wrote("attachments") && s.Attachments {
		c.errorf(s.rangeOf("attachments"), "Contradiction", "attachments = true needs enabled = true.")
	}
	if !s.Enabled && s.wrote("documents") && s.Documents {
		c.errorf(s.rangeOf("documents"), "Contradiction", "documents = true needs enabled = true.")
	}
}

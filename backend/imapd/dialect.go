package imapd

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore"
)

// dialect is what a client enabled that changes how all is said.
type dialect struct {
	// rev2 is IMAP4rev2 (RFC 9051); accepts is UTF8=ACCEPT (RFC 9755).
	rev2, accepts bool
	// utf8, which both bring, makes mailbox names and quoted strings UTF-8.
	utf8 bool
	// uidOnly has no sequence numbers (RFC 9586).
	uidOnly bool
}

func (s *session) enableRev2() {
	s.rev2 = true
	s.speakUTF8()
}

func (s *session) enableUTF8() {
	s.accepts = true
	s.speakUTF8()
}

func (s *session) speakUTF8() { s.utf8, s.w.utf8 = true, true }

// enableUIDOnly ends the searches whose changes would be told by number.
func (s *session) enableUIDOnly() {
	s.uidOnly = true
	if s.box == nil {
		return
	}
	s.box.contexts = slices.DeleteFunc(s.box.contexts, func(c *searchContext) bool {
		if !c.uid {
			s.noUpdate(c.tag, "Message numbers are not used any more")
		}
		return !c.uid
	})
}

// errUIDRequired answers sequence numbers of clients that gave them up.
var errUIDRequired error = &syntaxError{what: "message numbers are not used after ENABLE UIDONLY", code: "UIDREQUIRED"}

// byNumber reports whether a command names or tells messages by number, where
// another does so by UID. EXPUNGE tells VANISHED then, and goes on to work.
func byNumber(name string) bool {
	_, twin := verbs["UID "+name]
	return twin && name != "EXPUNGE"
}

// fetchHead begins a FETCH response for message i.
func (s *session) fetchHead(i int, m *mailstore.Message) {
	s.w.str("* ")
	if s.uidOnly {
		s.w.num(uint64(m.UID))
		s.w.str(" UIDFETCH (")
		return
	}
	s.w.num(uint64(i) + 1)
	s.w.str(" FETCH (")
}

// nameTold tells a client of IMAP4rev2 the name of a mailbox that it selected
// or made, and the name it asked for where that was another (RFC 9051 sections
// 6.3.2 and 6.3.9.7).
func (s *session) nameTold(name, asked string) {
	s.w.str(`* LIST () "` + s.separator() + `" `)
	s.writeMailbox(name)
	if asked != s.wireName(name) && !strings.EqualFold(asked, inbox) {
		s.w.str(` ("OLDNAME" (`)
		s.w.text(asked)
		s.w.str("))")
	}
	s.w.line("")
}

package imapd

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/mime"
)

// Object identifiers (RFC 8474) are a letter, so that those of mailboxes and
// of messages are never the same, and a GUID in hexadecimal.
const (
	mailboxPrefix = 'F'
	emailPrefix   = 'M'
	threadPrefix  = 'T'
)

// maxObjectIDOctets is the grammar's bound.
const maxObjectIDOctets = 255

func (w *writer) objectID(prefix byte, id mailstore.GUID) {
	w.grow()
	w.buf = append(w.buf, prefix)
	w.buf = hex.AppendEncode(w.buf, id[:])
}

// mailboxIDCode is the response code of SELECT, EXAMINE and CREATE.
func mailboxIDCode(id mailstore.GUID) string {
	return "MAILBOXID (" + string(mailboxPrefix) + id.String() + ")"
}

// threadID identifies the thread that a message belongs to: it is made of the
// identifier of the message that began it, so that it is the same in every
// mailbox and on both nodes of a pair, and never changes (RFC 8474 section 5.2).
// A message of which no identifier tells is a thread of its own.
func threadID(m *mailstore.Message, header []byte) mailstore.GUID {
	root := mime.ThreadRoot(header)
	if root == nil {
		return m.EmailID
	}
	sum := sha256.Sum256(root)
	return mailstore.GUID(sum[:16])
}

// objectKey reads the identifier of a search for EMAILID or THREADID. One that
// is well formed but none of ours finds nothing.
func (p *searchParser) objectKey(word string) (searchKey, error) {
	if err := p.sp(); err != nil {
		return searchKey{}, err
	}
	text, err := p.astring()
	if err != nil || !isObjectID(text) {
		return searchKey{}, orSyntax(err, "invalid object identifier")
	}
	key, prefix := searchKey{op: searchEmailID}, byte(emailPrefix)
	if word == "THREADID" {
		key, prefix = searchKey{op: searchThreadID, cost: costMeta}, threadPrefix
	}
	n, err := hex.Decode(key.id[:], []byte(text[1:min(len(text), 2*len(key.id)+1)]))
	if err != nil || n != len(key.id) || text != string(prefix)+key.id.String() {
		return searchKey{op: searchNone}, nil
	}
	return key, nil
}

func isObjectID(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '_' && c != '-' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxObjectIDOctets
}

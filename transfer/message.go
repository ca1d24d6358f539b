package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
)

// Folder is a mailbox, or a name that is only subscribed.
type Folder struct {
	// Name in the store's form: UTF-8, "/" between levels, "INBOX" in capitals.
	Name       string `json:"name"`
	Subscribed bool   `json:"subscribed,omitempty"`
	// ID stays with a mailbox through renames, and is never another's.
	ID string `json:"id,omitempty"`
	// SpecialUse is RFC 6154's attribute, "" for none.
	SpecialUse string `json:"special_use,omitempty"`
	// UIDValidity is 0 where UIDs mean nothing.
	UIDValidity uint32 `json:"uid_validity,omitempty"`
	UIDNext     uint32 `json:"uid_next,omitempty"`
	ModSeq      uint64 `json:"modseq,omitempty"`
	Messages    int    `json:"messages,omitempty"`
	// Absent: a subscription to a name without a mailbox.
	Absent bool `json:"absent,omitempty"`
}

// Message is what is known of a message beside its text.
type Message struct {
	// UID is 0 where it means nothing.
	UID uint32 `json:"uid,omitempty"`
	// Flags are system flags as RFC 9051 writes them, and keywords.
	Flags []string `json:"flags,omitempty"`
	// Date is INTERNALDATE.
	Date time.Time `json:"date"`
	// Octets is the size, 0 where it is not known before the text is.
	Octets int64 `json:"octets,omitempty"`
	// ID names the message for the store: a second one with it is not stored.
	ID string `json:"id,omitempty"`
	// Key tells the same message in two stores; see KeyOf. "" where not asked for.
	Key string `json:"key,omitempty"`
	// Body is the SHA-256 of the octets behind Trace, in hexadecimal digits.
	Body string `json:"body,omitempty"`
	// Trace are the octets before the shared body.
	Trace []byte `json:"trace,omitempty"`
	// EmailID stays with a message through copies (RFC 8474).
	EmailID string `json:"email_id,omitempty"`
}

// systemFlags pairs the store's flags with their names.
var systemFlags = []struct {
	flag mailstore.Flags
	name string
}{
	{mailstore.FlagAnswered, `\Answered`}, {mailstore.FlagDeleted, `\Deleted`}, {mailstore.FlagDraft, `\Draft`},
	{mailstore.FlagFlagged, `\Flagged`}, {mailstore.FlagSeen, `\Seen`},
}

// flagNames writes flags as a Message has them, sorted.
func flagNames(flags mailstore.Flags, keywords []string) []string {
	var names []string
	for _, f := range systemFlags {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	names = append(names, keywords...)
	slices.Sort(names)
	return names
}

// flagsOf is the reverse. What the store cannot keep is left out.
func flagsOf(names []string) (flags mailstore.Flags, keywords []string) {
next:
	for _, name := range names {
		for _, f := range systemFlags {
			if strings.EqualFold(name, f.name) {
				flags |= f.flag
				continue next
			}
		}
		if Keyword(name) && !slices.ContainsFunc(keywords, func(k string) bool { return strings.EqualFold(k, name) }) {
			keywords = append(keywords, name)
		}
	}
	if len(keywords) > maxKeywords {
		keywords = keywords[:maxKeywords]
	}
	slices.Sort(keywords)
	return flags, keywords
}

// Bounds of the store on the keywords of a message.
const (
	maxKeywords      = 64
	maxKeywordOctets = 128
)

// Keyword reports whether the store keeps a keyword: an atom of RFC 9051.
func Keyword(name string) bool {
	if name == "" || len(name) > maxKeywordOctets {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("(){%*\"\\]", r) })
}

// KeyOf tells the same message in two stores: by Message-ID, size and the
// second of INTERNALDATE. "" without a Message-ID, for then it may be any.
func KeyOf(messageID string, octets int64, date time.Time) string {
	if messageID = strings.TrimSpace(messageID); messageID == "" {
		return ""
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", messageID, octets, date.Unix()))
	return hex.EncodeToString(h[:12])
}

package imapd

import (
	"cmp"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/backend/mailstore/text"
	"github.com/postern-mail/postern/store"
)

// candidate is a message under examination.
type candidate struct {
	message *mailstore.Message
	meta    *mailstore.Meta
	open    func() (store.Body, error)
	opened  store.Body
	options text.Options // what is text
	hints   textIndex    // nil: every text has to be read
	watch   watch        // nil: nothing ends the reading
}

func (c *candidate) body() (store.Body, error) {
	if c.opened == nil {
		var err error
		if c.opened, err = c.open(); err != nil {
			return nil, err
		}
	}
	return c.opened, nil
}

func (c *candidate) close() {
	if c.opened != nil {
		_ = c.opened.Close()
		c.opened = nil
	}
}

// matches decides one key for the message.
func (c *candidate) matches(k *searchKey) (bool, error) {
	switch k.op {
	case searchAnd:
		for i := range k.kids {
			if ok, err := c.matches(&k.kids[i]); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	case searchOr:
		for i := range k.kids {
			if ok, err := c.matches(&k.kids[i]); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	case searchNot:
		ok, err := c.matches(&k.kids[0])
		return !ok, err
	case searchHeader, searchBody, searchText:
		if ruledOut(c.hints, k, c.message) {
			return false, nil
		}
	}
	switch k.op {
	case searchThreadID:
		return threadID(c.message, c.meta.Header) == k.id, nil
	case searchHeader:
		header, err := c.header()
		return err == nil && headerContains(header, k.word, k.text), err
	case searchBody:
		return c.bodyContains(k.text)
	case searchText:
		return c.textContains(k.text)
	}
	if k.cost == costMeta {
		return c.sentMatches(k), nil
	}
	return c.indexMatches(k), nil
}

// indexMatches decides the keys that the index answers.
func (c *candidate) indexMatches(k *searchKey) bool {
	m := c.message
	switch k.op {
	case searchAll:
		return true
	case searchFlag:
		return m.Flags&k.flag != 0
	case searchKeyword:
		return hasKeyword(m.Keywords, k.word)
	case searchSequence, searchUID:
		return hasUID(k.runs, uint32(m.UID))
	case searchBefore:
		return dayOf(m.InternalDate.Unix()) < k.day
	case searchOn:
		return dayOf(m.InternalDate.Unix()) == k.day
	case searchSince:
		return dayOf(m.InternalDate.Unix()) >= k.day
	case searchOlder:
		return m.InternalDate.Unix() <= k.instant
	case searchYounger:
		return m.InternalDate.Unix() > k.instant
	case searchMailbox:
		return k.here
	case searchSavedOlder:
		return savedAt(m).Unix() <= k.instant
	case searchSavedYounger:
		return savedAt(m).Unix() > k.instant
	case searchSavedBefore:
		return savedOn(m) < k.day
	case searchSavedOn:
		return savedOn(m) == k.day
	case searchSavedSince:
		return savedOn(m) >= k.day
	case searchLarger:
		return uint64(m.Octets) > k.number
	case searchSmaller:
		return uint64(m.Octets) < k.number
	case searchModSeq:
		return m.ModSeq > k.above
	case searchEmailID:
		return m.EmailID == k.id
	default: // searchNone
		return false
	}
}

// sentMatches decides the keys about the Date field. A message without a
// readable one was sent on no day.
func (c *candidate) sentMatches(k *searchKey) bool {
	if c.meta.SentDate == 0 {
		return false
	}
	day := dayOf(c.meta.SentDate)
	switch k.op {
	case searchSentBefore:
		return day < k.day
	case searchSentOn:
		return day == k.day
	default:
		return day >= k.day
	}
}

// savedOn is the day on which the message came into the mailbox (RFC 8514); the
// day of its INTERNALDATE when that is not known.
func savedOn(m *mailstore.Message) int64 { return dayOf(savedAt(m).Unix()) }

func savedAt(m *mailstore.Message) time.Time {
	if m.SaveDate.IsZero() {
		return m.InternalDate
	}
	return m.SaveDate
}

// hasUID reports whether uid lies in one of the sorted runs.
func hasUID(runs []uidRange, uid uint32) bool {
	at, found := slices.BinarySearchFunc(runs, uid, func(r uidRange, uid uint32) int { return cmp.Compare(r.first, uid) })
	return found || at > 0 && uid <= runs[at-1].last
}

package mailstore

import (
	"encoding/binary"

	"github.com/emersion/go-imap/v2"
)

// Keys. Everything of an account lies in one range, so that an account can be
// moved by copying it:
//
//	m n o                    this node's origin
//	m a <account> h          head: counters, guarded by every commit
//	m a <account> i          the account's name
//	m a <account> b <mbox>   mailbox
//	m a <account> m <mbox> <uid>     message
//	m a <account> t <mbox> <uid>     its Meta
//	m a <account> x <mbox> <modseq>  UIDs expunged at that MODSEQ
//	m a <account> s <name>   subscription to a name without a mailbox
//	m a <account> d <start> <hash>   ID of a delivery
//	m a <account> j <seq>    journal record
//	m a <account> g <mbox>   mailbox that was deleted and awaits the sweep
const (
	tag        = 'm'
	tagAccount = 'a'
	tagNode    = 'n'

	kindHead         = 'h'
	kindInfo         = 'i'
	kindMailbox      = 'b'
	kindMessage      = 'm'
	kindMeta         = 't'
	kindExpunged     = 'x'
	kindSubscription = 's'
	kindDelivery     = 'd'
	kindJournal      = 'j'
	kindGarbage      = 'g'
)

var originKey = []byte{tag, tagNode, 'o'}

const accountPrefixOctets = 2 + 16

func accountKey(account GUID, kind byte) []byte {
	k := make([]byte, 0, accountPrefixOctets+1+16+8)
	k = append(k, tag, tagAccount)
	k = append(k, account[:]...)
	return append(k, kind)
}

func mailboxKey(account GUID, kind byte, mailbox GUID) []byte {
	return append(accountKey(account, kind), mailbox[:]...)
}

func messageKey(account GUID, kind byte, mailbox GUID, uid imap.UID) []byte {
	return binary.BigEndian.AppendUint32(mailboxKey(account, kind, mailbox), uint32(uid))
}

func deliveryKey(account GUID, id deliveryMark) []byte {
	return append(accountKey(account, kindDelivery), id[:]...)
}

func numberKey(prefix []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(prefix[:len(prefix):len(prefix)], n)
}

// above returns the end of the range of keys that begin with prefix.
func above(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

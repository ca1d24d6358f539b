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
//	m a <account> F <mbox> <uid>     flags of many messages, see flagBlocks
//	m a <account> x <mbox> <modseq>  UIDs expunged at that MODSEQ
//	m a <account> s <name>   subscription to a name without a mailbox
//	m a <account> e <space> <mbox> <key>  entry: one of the other registers
//	m a <account> d <start> <hash>   ID of a delivery
//	m a <account> j <seq>    journal record
//	m a <account> g <mbox>   mailbox that was deleted and awaits the sweep
//	m a <account> k <origin> <seq>   journal record of another origin
//	m a <account> p <mbox> <dot>     message without a UID that can be shown
//	m a <account> P <mbox> <dot>     its Meta
//	m a <account> r <class> <modseq> what who was told that MODSEQ knows
//	m s <identifier> 0 <account> <mbox>  what names an identifier; derived
//	m a <account> f ...      index of the messages' text, see package fulltext
//	m a <account> l <mbox> <uid>     what line ends gain, see LineEnds
//	m a <account> N <mbox> <reader> <block>  when that reader's marks changed, see Reader
//	m a <account> o <mbox> <uid>     what messages are sorted by, see SortKey
//	m a <account> R          what the account is being restored from
//	m a <account> V <mbox> ...   UIDs of a virtual mailbox, see virtualIndex; derived
//	m n p                    that this store is, or was, one of a pair
const (
	tag        = 'm'
	tagAccount = 'a'
	tagNode    = 'n'
	tagShared  = 's'

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
	kindForeign      = 'k'
	kindPending      = 'p'
	kindPendingMeta  = 'P'
	kindMark         = 'r'
	kindEntry        = 'e'
	kindFlagBlock    = 'F'
	kindIndex        = 'f'
	kindLineEnds     = 'l'
	kindSeenAt       = 'N'
	kindSortKeys     = 'o'
	kindRestoring    = 'R'
	kindVirtual      = 'V'
)

var (
	originKey = []byte{tag, tagNode, 'o'}
	pairKey   = []byte{tag, tagNode, 'p'}
)

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

// foreignKey is the prefix of another origin's journal records.
func foreignKey(account GUID, origin Origin) []byte {
	return binary.BigEndian.AppendUint64(accountKey(account, kindForeign), uint64(origin))
}

// numberOf reads the number at the end of a key.
func numberOf(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key[len(key)-8:])
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

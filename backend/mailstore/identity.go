package mailstore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// String returns the GUID in hexadecimal, as OBJECTID identifiers show it.
func (g GUID) String() string { return hex.EncodeToString(g[:]) }

// derive returns the GUID of whatever role names within the parts. Both nodes
// of a pair derive the same.
func derive(role string, parts ...[]byte) GUID {
	h := sha256.New()
	sum := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	sum([]byte("postern " + role))
	for _, part := range parts {
		sum(part)
	}
	var g GUID
	copy(g[:], h.Sum(nil))
	return g
}

func accountGUID(name string) GUID { return derive("account", []byte(name)) }

// configuredGUID is the identity of INBOX and of the mailboxes made with the
// account. A mailbox that is deleted and created again gets another one.
func configuredGUID(account GUID, role string) GUID {
	return derive("mailbox role", account[:], []byte(role))
}

// configuredUIDValidity lies below every UIDVALIDITY that is taken from the
// clock, so that one created later under the name is higher.
func configuredUIDValidity(account GUID, role string) uint32 {
	g := derive("uidvalidity", account[:], []byte(role))
	return binary.BigEndian.Uint32(g[:])&(1<<30-1) | 1
}

// nextUIDValidity is above last and unique over both nodes of a pair: its last
// bit is the class.
func nextUIDValidity(last uint32, now time.Time, class uint64) uint32 {
	v := max(last+1, uint32(now.Unix()))
	if uint64(v&1) != class {
		v++
	}
	return v
}

func (d Dot) bytes() []byte {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(d.Origin))
	binary.BigEndian.PutUint64(b[8:], d.Seq)
	return b[:]
}

func emailID(account GUID, d Dot) GUID { return derive("email", account[:], d.bytes()) }

func createdGUID(account GUID, d Dot) GUID { return derive("mailbox", account[:], d.bytes()) }

// deliveryMark is what is remembered of a delivery: the first octets of its ID
// as they are, so that IDs which grow with time, as those of a queue do, lie in
// that order, and its identity.
type deliveryMark [deliveryOrder + 16]byte

const deliveryOrder = 8

func markDelivery(account GUID, id string) (m deliveryMark) {
	copy(m[:deliveryOrder], id)
	identity := derive("delivery", account[:], []byte(id))
	copy(m[deliveryOrder:], identity[:])
	return m
}

func (m *deliveryMark) identity() GUID { return GUID(m[deliveryOrder:]) }

// nextHLC is a hybrid logical clock's next reading: 48 bits of milliseconds,
// 16 of counter, always above last.
func nextHLC(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(now.UnixMilli())<<16)
}

// hlcTime is the wall clock part of a reading.
func hlcTime(hlc uint64) time.Time { return time.UnixMilli(int64(hlc >> 16)) }

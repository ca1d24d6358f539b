package queue

import (
	"encoding/binary"
	"time"

	"github.com/postern-mail/postern/mail"
)

// The keys of the queue, behind its tag:
//
//	m <id>                       the message: what every recipient shares, and
//	                             its first groups of recipients
//	p <id> 0 <part>              further groups of recipients
//	r <id> 0 <group>             state of a group that was tried
//	h <id>                       present while the message is on hold
//	d <shard> <due> <id> <group> present while the group waits for its time;
//	                             group 0 is the first attempt at all of them,
//	                             group n+1 the next attempt at group n
//	c <shard> m                  counter: messages in the shard
//	c <shard> h                  counter: those of them on hold
//	v                            version of the layout, number of shards
//	s <shard>                    lease of the process that serves the shard
//	w <holder>                   heartbeat of a process
//	i <shard> <id>               a message that another than the shard's process
//	                             accepted, until that one has seen it; its due
//	                             time
//
// A message's shard is a hash of its id. A message without an entry under d is
// on hold.
const tag = 'q'

// What is counted in each shard.
const (
	countedMessages = 'm'
	countedHeld     = 'h'
)

const countKeyOctets = 5

func countKey(shard uint16, what byte) []byte {
	return []byte{tag, 'c', byte(shard >> 8), byte(shard), what}
}

func layoutKey() []byte { return []byte{tag, 'v'} }

// firstAttempt stands in a due entry for all groups that were not tried.
const firstAttempt = -1

func messageKey(id mail.QueueID) []byte { return idKey('m', id) }
func holdKey(id mail.QueueID) []byte    { return idKey('h', id) }

func partKey(id mail.QueueID, part int) []byte {
	return binary.BigEndian.AppendUint32(append(idKey('p', id), 0), uint32(part))
}

// partRange bounds the further groups of a message.
func partRange(id mail.QueueID) (lo, hi []byte) {
	return append(idKey('p', id), 0), append(idKey('p', id), 1)
}

func stateKey(id mail.QueueID, group int) []byte {
	return binary.BigEndian.AppendUint32(append(idKey('r', id), 0), uint32(group))
}

// stateGroup reads the group out of a state key.
func stateGroup(key []byte) (int, bool) {
	if len(key) < 4 {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(key[len(key)-4:])), true
}

// stateRange bounds the states of all groups of a message.
func stateRange(id mail.QueueID) (lo, hi []byte) {
	return append(idKey('r', id), 0), append(idKey('r', id), 1)
}

func idKey(kind byte, id mail.QueueID) []byte {
	key := make([]byte, 0, 2+maxIDOctets)
	return append(append(key, tag, kind), id...)
}

// kindRange bounds all keys of a kind.
func kindRange(kind byte) (lo, hi []byte) { return []byte{tag, kind}, []byte{tag, kind + 1} }

// dueEntry is a due key, taken apart.
type dueEntry struct {
	shard uint16
	due   time.Time
	id    mail.QueueID
	group int // firstAttempt, or the group
}

func dueKey(e dueEntry) []byte {
	key := append(dueTimeKey(e.shard, e.due), e.id...)
	return binary.BigEndian.AppendUint32(key, uint32(e.group+1))
}

// dueTimeKey is where a shard's entries of a time begin.
func dueTimeKey(shard uint16, due time.Time) []byte {
	key := make([]byte, 0, 12+maxIDOctets+4)
	key = binary.BigEndian.AppendUint16(append(key, tag, 'd'), shard)
	return binary.BigEndian.AppendUint64(key, uint64(max(due.UnixMilli(), 0)))
}

// dueEnd bounds the due entries of a shard.
func dueEnd(shard uint16) []byte { return binary.BigEndian.AppendUint16([]byte{tag, 'd'}, shard+1) }

// shardOfDue reads the shard out of a due key.
func shardOfDue(key []byte) uint16 { return binary.BigEndian.Uint16(key[2:]) }

func parseDueKey(key []byte) (dueEntry, bool) {
	if len(key) < 4+8+1+4 {
		return dueEntry{}, false
	}
	id := mail.QueueID(key[12 : len(key)-4])
	if !validID(id) {
		return dueEntry{}, false
	}
	return dueEntry{
		shard: shardOfDue(key),
		due:   time.UnixMilli(int64(binary.BigEndian.Uint64(key[4:]))),
		id:    id,
		group: int(binary.BigEndian.Uint32(key[len(key)-4:])) - 1,
	}, true
}

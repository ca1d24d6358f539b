package queue

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/postern-mail/postern/mail"
)

// The queue's keys. tag keeps them apart from other rooms' in a shared store.
//
//	q m <id>                          message record
//	q r <id> 0 <group>                group record
//	q d <shard> <due> <id> 0 <group>  due index, value empty
const tag = 'q'

// shard is the only one while one process runs the queue; the key has room
// for more.
const shard = 0

func messageKey(id mail.QueueID) []byte {
	return append([]byte{tag, 'm'}, id...)
}

func groupKey(id mail.QueueID, group uint32) []byte {
	key := append([]byte{tag, 'r'}, id...)
	key = append(key, 0)
	return binary.BigEndian.AppendUint32(key, group)
}

// groupRange spans the groups of one message.
func groupRange(id mail.QueueID) (lo, hi []byte) {
	lo = append([]byte{tag, 'r'}, id...)
	return append(lo, 0), append(append([]byte(nil), lo...), 1)
}

func messageRange(after mail.QueueID) (lo, hi []byte) {
	lo = messageKey(after)
	if after != "" {
		lo = append(lo, 0)
	}
	return lo, []byte{tag, 'm' + 1}
}

func dueKey(due time.Time, id mail.QueueID, group uint32) []byte {
	key := binary.BigEndian.AppendUint64([]byte{tag, 'd', shard}, uint64(due.UnixNano()))
	key = append(key, id...)
	key = append(key, 0)
	return binary.BigEndian.AppendUint32(key, group)
}

// dueRange spans the entries due from one instant up to and without another.
func dueRange(from, to time.Time) (lo, hi []byte) {
	lo = binary.BigEndian.AppendUint64([]byte{tag, 'd', shard}, uint64(max(from.UnixNano(), 0)))
	hi = binary.BigEndian.AppendUint64([]byte{tag, 'd', shard}, uint64(to.UnixNano()))
	return lo, hi
}

// never is later than every due time.
var never = time.Unix(1<<33, 0)

func parseDueKey(key []byte) (due time.Time, ref groupRef, err error) {
	const head, tail = 3 + 8, 1 + 4
	if len(key) <= head+tail {
		return due, ref, fmt.Errorf("malformed due key %x", key)
	}
	due = time.Unix(0, int64(binary.BigEndian.Uint64(key[3:head])))
	ref.id = mail.QueueID(key[head : len(key)-tail])
	ref.group = binary.BigEndian.Uint32(key[len(key)-4:])
	return due, ref, nil
}

// groupRef names one group of one message.
type groupRef struct {
	id    mail.QueueID
	group uint32
}

// deliveryID is the same for every attempt at a group, so that a backend can
// tell a repetition.
func (r groupRef) deliveryID() string { return fmt.Sprintf("%s.%x", r.id, r.group) }

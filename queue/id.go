package queue

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/mail"
)

// idAlphabet has no vowels, so that no id spells a word, and one case, so that
// ids differ however they are compared. It is in ASCII order: ids sort by age.
const idAlphabet = "0123456789BCDFGHJKLMNPQRSTVWXYZ"

// An id is the microsecond it was given, which suffices for 800 years, and a
// random tail that tells nodes apart and starts after the clock was set back.
const (
	idTimeDigits   = 11
	idRandomDigits = 4
	idOctets       = idTimeDigits + idRandomDigits
)

// lastID is the time part of the newest id of this process.
var lastID atomic.Int64

// NewID returns a new queue id: 15 letters and digits that sort by time.
func NewID() mail.QueueID {
	now := time.Now().UnixMicro()
	for {
		last := lastID.Load()
		now = max(now, last+1)
		if lastID.CompareAndSwap(last, now) {
			break
		}
	}
	var id [idOctets]byte
	putDigits(id[:idTimeDigits], uint64(now))
	putDigits(id[idTimeDigits:], rand.Uint64()>>8)
	return mail.QueueID(id[:])
}

// putDigits fills buf with the lowest digits of n.
func putDigits(buf []byte, n uint64) {
	for i := len(buf) - 1; i >= 0; i-- {
		buf[i] = idAlphabet[n%uint64(len(idAlphabet))]
		n /= uint64(len(idAlphabet))
	}
}

// validID reports whether id can be one of ours, or of another queue whose
// messages were brought here.
func validID(id mail.QueueID) bool {
	if len(id) == 0 || len(id) > maxIDOctets {
		return false
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

const maxIDOctets = 32

package delivery

import "time"

// The times of single steps are long, for hosts that have reason to be slow.
// One that uses all of them up would hold a delivery, and a place for others,
// for days. So a conversation is bounded as a whole, too: dialTime to begin one,
// sendTime for a message, and a second more for each sendPace octets.
const (
	dialTime = 15 * time.Minute
	sendTime = 45 * time.Minute
	sendPace = 2 << 10
)

// sendPatience is how long a message of so many octets may take.
func sendPatience(octets int64) time.Duration {
	return sendTime + time.Duration(octets/sendPace)*time.Second
}

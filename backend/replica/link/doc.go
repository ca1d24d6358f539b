// Package link carries frames between the two servers of a pair.
//
// What comes in: frames of one account each, in one of three classes, and
// connections from the network. What goes out: the partner's frames, and when
// it came and went. The link knows nothing of mail; what the frames mean is
// its user's business.
//
// It guarantees: the other end proved that it is the partner, by the key of its
// certificate or by a secret both know, before anything of a frame is believed.
// Frames of one class and one stream arrive in the order they were sent, once,
// or the session ends; between classes and streams there is no order. A frame
// of a class never waits for more than one record (16 KiB) of a class below,
// and streams share their class. What a partner that is slow, or was taken
// over, can make this process hold is bounded. A partner that is silent for
// Config.DeadAfter is dead, in either direction; one that resets the connection
// is dead at once.
//
// It does not guarantee that a frame which was sent arrived: that is what the
// acknowledgements of its user are for.
//
// One connection carries everything. Two would not be fairer: what makes a
// mail body delay a flag is octets that cannot be taken back, so the link keeps
// few of them. It cuts frames into records, asks the kernel to take no more
// than it can send soon (TCP_NOTSENT_LOWAT), and lets a receiver that is behind
// in one class grant no more in that class only. With one connection there is
// one thing that is alive or dead, and no order of joining and leaving to get
// wrong. The price: on a network that loses packets, a lost one delays all
// classes for a round trip.
//
// TLS 1.3 (RFC 8446) with ALPN (RFC 7301); channel binding after RFC 9266.
package link

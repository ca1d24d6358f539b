// Package shared keeps small facts that policy learns about the world and that
// several gateways share: who waits in the greylist, who passed it, how much a
// client sent in the last hour.
//
// What goes in: values under keys in named tables, each with the time of its
// end, and what peers tell. What comes out: the values, at once and from
// memory; nothing here makes an answer wait for a disk or for another gateway.
//
// What it guarantees: tables have a bound and an order in which entries go,
// which is counted and told; two gateways that told each other everything hold
// the same, in whatever order they heard it, since facts are merged and never
// applied; a peer is believed only after it proved on an encrypted connection
// that it knows the common secret. What it does not: a change is written to
// disk, and told to peers, up to a second after it was made, so that a crash
// takes back the last second of this gateway's own changes, unless a peer heard
// of them; then they come back from there. Nothing may be kept here whose loss
// would lose or refuse mail.
//
// TLS 1.3 (RFC 8446) with ALPN (RFC 7301); channel binding after RFC 9266.
package shared

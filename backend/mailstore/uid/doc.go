// Package uid decides which UID a message gets on which of the two nodes of a
// replication pair. It is pure: no I/O, no clock, no goroutines, and the caller
// keeps what has to be durable.
//
// The rules, per mailbox:
//
//   - While the nodes are attached only the account's home allocates, and
//     contiguously: the highest UID it has allocated or shown, plus one. It
//     never goes further than Window above what its partner has durably
//     acknowledged to know.
//   - A detached node allocates in blocks of Block UIDs that belong to its
//     class, above a threshold that keeps clear of all that an attached home can
//     have allocated meanwhile. The home leaps two pairs of blocks further, so
//     that after a split it is the other node's messages that are renumbered.
//   - The UID of a message is the highest that was ever given to it. A node
//     shows a message at a UID only above all it has shown before; where that
//     is not possible, home gives the message a new one.
//
// So no UID names two messages on any node (the allocations of both are
// monotonic; attached ones lie at or below what the other has acknowledged plus
// Window, detached ones above that and in blocks of their own class), whatever
// either node believes about the link or about who is home; and each node shows
// UIDs in ascending order only, as RFC 9051, section 2.3.1.1, demands.
package uid

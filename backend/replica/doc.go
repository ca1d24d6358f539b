// Package replica keeps two nodes of a pair in step, account by account.
//
// What comes in: what this node commits (mailstore.Partner), and frames of the
// partner over a link. What goes out: frames, and whether the partner has what
// a client is to be answered for.
//
// A Channel is the replication of one account: a deterministic state machine
// without goroutines, clock or randomness of its own, which the simulation
// drives as it is. A Node owns the channels of the accounts that need one, runs
// them on a few workers, and answers the mail store and the operator.
//
// What it guarantees: records are applied exactly once and in order; a record
// is acknowledged only when it and its bodies are durable; what one account
// brings does not hold up another; a node that is behind its own past does not
// serve. What it leaves to others: octets on the wire (package link), UIDs,
// merging and the journal itself (package mailstore).
//
// docs/replication-protocol.md tells what the frames mean, the states, and what
// is done when something fails.
package replica

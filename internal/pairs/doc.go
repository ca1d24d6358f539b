// Package pairs compares pairs of mail servers that replicate their mailboxes
// to each other: ours and two Dovecot 2.3, whose dsync many pairs run on.
//
// The same clients do the same things to both, mostly while the cable between
// the nodes is pulled, and look afterwards at what each node shows. The losses
// that dsync was seen with are in the list of scenarios, each with what must be
// true at its end. Our pair has to pass every one; what Dovecot's does stands
// beside it. docs/replication-compared.md has the table and says how to make it.
package pairs

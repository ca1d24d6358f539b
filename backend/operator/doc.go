// Package operator does in people's mailboxes what operators ask for: list,
// search, fetch, move, remove.
//
// What comes in: a Request, by way of Run where the store is open, or over a
// connection, Call at the one end and Serve at the other. What goes out: the
// answer in one of some formats, what went wrong with single accounts, and how
// far the work is.
//
// What it guarantees: access control lists do not count, quotas do; clients see
// each change as they would that of another client; a change is done in pieces,
// each of which is whole, so that it can be stopped between any two; what goes
// wrong with one account does not keep the others; all that is changed, and
// whose mail is read, is audited. Memory is bounded by the messages of a mailbox,
// never by their octets.
//
// What it leaves to others: who may ask, and whose mailboxes a login or address
// means.
package operator

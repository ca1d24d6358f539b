// Package arc verifies and adds to Authenticated Received Chains (RFC 8617).
//
// In comes a message as its header fields and a reader of its body, with CRLF
// line ends; out comes the state of its chain, with what each set says, or the
// three header fields of a set of our own. What a set claims is for the caller
// to believe or not, by the domain that sealed it.
//
// A chain has at most 50 sets; the keys of all are asked for at once, each name
// once. The body is read once. Seals are verified from the newest to the oldest.
//
// RFC 8617 knows no state for a DNS that does not answer. Here it is TempError,
// so that a chain is never declared failed, which is for ever, because of an
// outage.
package arc

// Package greylist puts off the first attempt of who was never seen.
//
// What comes in: transactions at RCPT. What goes out: a transient refusal that
// says how many seconds to wait, for a client, sender and recipient that were
// not seen together before; and nothing, once the same three come again after
// that time. Mail servers come again, as RFC 5321 section 4.5.4 demands; much of
// what sends junk does not.
//
// What it guarantees: it never refuses for good; a server that tries again from
// another address of its network is known; who passed stays known for weeks, a
// client that passed several times altogether; the tables are bounded, and a
// flood of first attempts pushes out first attempts only. While what it
// remembers cannot be kept it lets everybody pass. What it leaves to package
// shared: keeping what is known over restarts, and telling other gateways.
package greylist

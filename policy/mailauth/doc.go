// Package mailauth tells who a message comes from, as far as the DNS and
// signatures can, and does what is configured about it.
//
// It holds two restrictions for policy's lists. check_spf asks SPF while the
// client can still be refused recipient by recipient; authenticate stands in
// the content list, asks all methods at once, writes what they found as one
// Authentication-Results field on top of the message (RFC 8601) and applies
// DMARC. The methods themselves are the packages below, which know nothing of
// lists.
//
// What it guarantees: an outage of the DNS is a result, temperror, and never a
// refusal by itself; the time of a message is bounded as a whole; fields that
// claim to be ours and came from outside are gone. Clients that logged in or
// stand in the networks of ours are not judged.
package mailauth

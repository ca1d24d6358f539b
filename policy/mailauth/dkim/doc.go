// Package dkim verifies and makes DKIM signatures (RFC 6376 with RFC 8301 and
// RFC 8463).
//
// In comes a message as its header fields and a reader of its body, with CRLF
// line ends; out come one Verification for each signature, in the words of RFC
// 8601, or the header fields of new signatures. The body is read once, whatever
// the number of signatures, in pieces of bounded size, and by the caller's
// goroutine alone. What a stranger can make it do is bounded: signatures that
// are looked at, keys that are asked for, keys tried for one signature, the size
// of a key and of a signature field.
//
// Keys come through Resolver; to keep their answers is the resolver's task. To
// decide what a result means for the message is the caller's.
//
// The parts are exported that package arc builds its own signatures from.
package dkim

// Package spf tells whether a client may use a domain in HELO or MAIL (Sender
// Policy Framework, RFC 7208).
//
// In goes the client's address with what it said, out comes one of the seven
// results of section 2.6, with the explanation that the domain publishes for
// its fails. It asks the DNS and nothing else, within the limits of section
// 4.6.4 and a time; whatever goes wrong on our side is TempError.
//
// Where it is stricter or milder than the letter: only names that do not exist
// count as void lookups where addresses of one family are asked for, or IPv6
// clients would suffer from hosts that have but IPv4; expanded names that the
// DNS cannot hold do not exist (section 4.3 leaves that open).
package spf

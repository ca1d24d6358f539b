// Package dmarc tells what the domain in a message's From field wants done with
// it (DMARC, RFC 7489).
//
// In go the header's From fields and what SPF and DKIM found; out come a result
// for Authentication-Results, the policy that the domain publishes, and what it
// asks for this one message. What is done about it is for others to decide.
//
// Records are read generously, since a typo in one must not switch its policy
// off: tags and words in any letter case, what is not known is left out, and a
// bad value of a tag that has a default is that default. Of the successor of RFC
// 7489 there are the policy np for subdomains that do not exist (RFC 9091), the
// tag t, and several authors, each of whom is asked for: the strictest counts.
// Organizational domains come from the public suffix list. An outage of the DNS
// is a temporary error and never a policy.
package dmarc

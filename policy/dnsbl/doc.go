// Package dnsbl asks lists in the DNS about clients and names (RFC 5782):
// Postfix's reject_rbl_client and its family, and a score over several lists.
//
// What comes in: a transaction. What goes out: a verdict, with what the list
// says of its entry in the reply. A list that fails, lies or refuses us is
// left out until it does better, and never keeps mail away: a list's silence
// is no listing. Lookups about one client begin when it connects, share one
// question however many sessions ask, and are bounded in number and time.
//
// What it leaves to others: the DNS itself, caching beyond an hour, and what
// follows from a verdict.
package dnsbl

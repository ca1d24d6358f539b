// Package dmarcrpt reports to domains what became of mail that claims to be
// from them (DMARC aggregate reports, RFC 7489 section 7.2 and appendix C).
//
// In go the evaluations of policy/mailauth; out comes, once a UTC day and for
// each domain whose record names addresses for reports, a message with the
// report in XML and gzip. Counts are written to the store once a minute and when
// Run ends: a crash costs what was counted since. A report is sent at least
// once; after a crash at the wrong instant it is sent again under the same
// report id. What strangers can make it keep is bounded in every direction: what
// has no room is counted in a metric and left out.
//
// Addresses in other organizations get reports only when these say in the DNS
// that they want them (section 7.1). Failure reports (ruf) are not made: they
// would tell strangers what people write.
package dmarcrpt

// Package tlsrpt reports to domains how connections to their mail servers met
// what they publish about TLS (SMTP TLS Reporting, RFC 8460).
//
// In go the sessions that package delivery had; out comes, once a UTC day and
// for each domain that asks for it by a TXT record at _smtp._tls, a report by
// mail or HTTPS. Counts are written to the store once a minute and when Run
// ends: a crash costs what was counted since. A report is sent at least once;
// after a crash at the wrong instant it is sent again under the same report id.
// What strangers can make it keep is bounded in every direction: what has no
// room is counted in a metric and left out.
//
// It signs nothing: the DKIM signature that section 3 asks for on reports by mail
// is the Mailer's to add. Certificates of HTTPS receivers are verified, which
// section 3 leaves open.
package tlsrpt

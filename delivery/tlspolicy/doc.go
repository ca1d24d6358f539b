// Package tlspolicy decides how the connection to a mail server is protected,
// and checks that it is.
//
// In goes a next hop with the hosts found for it; out comes one Plan per host:
// whether TLS is asked for or required, and what the server's certificate must
// be. A plan follows from the operator's rule for the destination, in the
// levels of Postfix, and from what the destination publishes: TLSA records
// (DANE, RFC 7672), which come first, or an MTA-STS policy (RFC 8461).
//
// What cannot be learned or does not hold is transient without exception: mail
// waits until the destination, or the name service, is repaired or the
// operator says otherwise. It is not bounced, and where a plan requires TLS it
// never goes in the clear. Only level may falls back to that.
//
// Deviations: of TLSA records with usage 2 those that hold a bare key of an
// authority (2 1 0) match only an authority the server sends; certificates
// without subjectAltName match no name.
package tlspolicy

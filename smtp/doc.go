// Package smtp is the wire: the session engine of SMTP (RFC 5321), message
// submission (RFC 6409) and LMTP (RFC 2033), and the client side of both.
//
// It knows grammar, order of commands, line ends, time and size limits, TLS
// and SASL framing. It knows no policy and no storage: a Handler decides.
// A connection on which framing was lost (a timeout or error inside DATA, BDAT
// or a SASL line) is closed, never resumed.
package smtp

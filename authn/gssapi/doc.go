// Package gssapi takes Kerberos tickets: the SASL mechanism GSSAPI (RFC 4752),
// by which people who are logged in at a FreeIPA or Active Directory domain read
// and send mail without typing a password.
//
// The tickets are judged in the helper process (package helper), by the
// system's libgssapi and a keytab that only the helper has to be able to read.
// Tokens of the client go in, tokens for it and in the end the principal come
// out; neither the keytab nor a session key is ever in the daemon. No security
// layer is negotiated: TLS protects the session.
//
// Answers are three-valued. A ticket that is expired, replayed, for another
// service or no ticket at all is a definite no; whatever the machine is missing,
// such as a keytab, a key of the right number or the right time of day, is not
// known.
package gssapi

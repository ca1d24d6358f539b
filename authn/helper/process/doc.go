// Package process is what runs behind "postern auth-helper": requests of the
// daemon come in over a socket, what PAM, Kerberos and the name service switch
// say goes back. It is the only part of Postern that may need root, the only one
// that has to read the keytab, and the only one with C in it.
//
// A PAM transaction blocks, forks and changes signal handlers as its modules
// please, libgssapi and the switch's modules ask name servers and files, so each
// question runs in a worker: a process of its own that answers one at a time on
// one thread, is replaced after a number of them, and is killed with everything
// it started when it takes too long. Nothing a module does reaches the helper
// itself. The helper serves only peers of the uids it was told and only what it
// was started for: the PAM services named, tickets where it was given a keytab,
// users where it was told so. It refuses NUL (C would cut the name or password
// there), and always runs account management after a right password.
//
// A GSSAPI exchange (RFC 4752) has two questions: the ticket, and the choice of
// a security layer. Between them the context is exported and kept by the helper,
// a few hundred octets for the time a client thinks; no worker waits for
// clients.
//
// All of it needs cgo. PAM needs the headers of libpam and the build tag "pam",
// tickets those of libkrb5 and the tag "gssapi", which the Makefile sets where
// the headers stand (Debian: libpam0g-dev, libkrb5-dev); users need either tag.
// Built without, everything compiles and runs, and Main says what is missing.
package process

// Package pamhelper is the process behind "postern pam-helper": requests of
// the daemon come in over a socket, what PAM says goes back. It is the only
// part of Postern that may need root, and the only one with C in it.
//
// A PAM transaction blocks, forks and changes signal handlers as its modules
// please, so each runs in a worker: a process of its own that does one
// transaction at a time on one thread, is replaced after a number of them, and
// is killed with everything it started when it takes too long. Nothing a module
// does reaches the helper itself. The helper serves only peers of the uids it
// was told and only the PAM services it was told, refuses NUL (C would cut the
// name or password there), and always runs account management after a right
// password.
//
// PAM needs cgo and the headers of libpam, so it is built only with the build
// tag "pam", which the Makefile sets where /usr/include/security/pam_appl.h
// stands (Debian: libpam0g-dev). Built without, everything compiles and runs,
// Available is false, and Main says what is missing.
package pamhelper

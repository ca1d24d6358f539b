// Package imap is a client of just the IMAP that keeping two servers in step
// needs: RFC 3501 with UIDPLUS (RFC 4315), CONDSTORE and QRESYNC (RFC 7162),
// NOTIFY (RFC 5465) or IDLE (RFC 2177), LIST-EXTENDED and LIST-STATUS (RFC 5258,
// 5819), OBJECTID (RFC 8474) or Dovecot's X-GUID.
//
// What goes in: commands, one at a time. What comes out: typed answers, and what
// the server told by itself. What it guarantees: every answer is bounded, every
// wait has a deadline, a message body goes from one server to the other without
// being held in memory, and after an error in the middle of a command the
// connection is of no more use. It leaves to others what any of it means.
//
// It is our own because no client library that we know of speaks VANISHED,
// SELECT with QRESYNC and NOTIFY, and because a body must flow from a literal
// that is being read into a literal that is being written.
package imap

// Package content holds a message while the stages of the content list look at
// it and change it.
//
// What comes in: a header section and a reader of the body, as the wire gave
// them, with CRLF line ends. What goes out: the header fields with their octets
// exactly as they came, the body as often as anybody wants to read it, and, in
// the end, the whole message with the edits applied. What it guarantees: memory,
// disk, the number of edits and the growth of the header are bounded, for one
// message and for all of them together; a disk without room is
// status.MailSystemFull; no edit makes a line end out of anything but CRLF, or a
// header field that the next server would read as two. What it leaves to
// others: what to look for (the folders below, and other rooms' stages), and
// what becomes of the message (smtpd).
//
// Messages are those of RFC 5322 and RFC 6532; what is neither is kept as it is.
package content

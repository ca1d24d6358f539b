// Package smtpd is the gateway's side of SMTP sessions: mail exchange and
// message submission.
//
// What comes in: the commands of the session engine (package smtp). What goes
// out: decisions asked of the policy chain and the directory, and messages
// with their trace header handed to the queue. What it guarantees: a message
// is answered 250 only when the queue has made it durable; a directory, disk
// or policy that is out of order is a transient reply; a recipient that was
// accepted stays resolved as it was at RCPT. What it leaves to others: the
// wire and its limits (smtp), what is allowed (policy), who is who
// (directory, authn), and where mail goes (queue, delivery).
//
// Trace header fields follow RFC 5321 section 4.4, their protocol names RFC
// 3848 and RFC 6531; submission follows RFC 6409.
package smtpd

// Package pop3d serves a mailbox of each account by POP3: the one that mail is
// delivered to.
//
// What comes in: connections, in the clear, under TLS or upgraded by STLS, and
// the octets of clients. What goes out: messages as they are stored, with the
// line ends and the stuffing that the protocol needs; audit events; messages
// that are removed by QUIT. What it guarantees: a session works on the messages
// that were there at its login, whatever others do meanwhile; LIST tells the
// octets that RETR sends; nothing is removed but by a QUIT that came whole, and
// the answer to it says whether everything was; an outage never looks like a
// wrong password. A session takes bounded memory whatever a client sends or
// does not read.
//
// What it leaves to others: who may log in is the Authenticator's, connections
// and their limits are backend/sessions', everything durable mailstore's.
//
// RFC 1939 without APOP, RFC 2449 (CAPA), RFC 2595 (STLS), RFC 3206
// (AUTH-RESP-CODE), RFC 5034 (AUTH) and RFC 8314 (TLS from the first octet).
package pop3d

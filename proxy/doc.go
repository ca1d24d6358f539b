// Package proxy is the one name that mail programs know: it finds out who a
// client is and connects it to the node that has its mailboxes.
//
// What comes in: connections of mail programs, which it greets, protects by TLS
// and authenticates with the same verifiers as any other listener. What goes
// out: a connection to a node of the user's cell, logged in as the user by an
// identity of the proxy's own, and from then on every octet in both directions,
// unread but for line ends. What it guarantees: a password is judged here and
// goes no further; a node that is away costs the client a reconnect at most,
// and is no reason to call a password wrong; nothing the client sent ahead of
// the reply to its login is lost. What it leaves to others: where an account is
// placed, and everything behind the login.
//
// A cell is one mailbox server or the two nodes of a replication pair. The
// node an account is at home on is asked first, its partner when that one does
// not answer in time, refuses new logins, or was found dead lately.
//
// The part that knows a protocol is a dialect: this package has those of IMAP
// and POP3. It is a room of its own, not a mode of the backend's servers: it
// runs where no mailboxes are, and shares with them nothing but the first
// commands of a session.
package proxy

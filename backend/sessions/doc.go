// Package sessions is what the servers of the backend, and the proxy before
// them, share about the clients that are connected to them: who they are, how
// many there may be, how they are told to go, and the same steps of a login in
// every protocol: the TLS handshake, the SASL exchange, a proxy's word on who
// its client is.
//
// What comes in: listeners, and for each protocol a function that serves one
// connection. What goes out: that function is called for every connection that
// may come in, with a Session to tell it by; operators list the sessions and
// end them. What it guarantees: a connection is counted from before its first
// octet is read until its function has returned, whatever the way it ends;
// whoever is asked to go is interrupted while nothing is under way, and cut off
// where that takes too long.
//
// What it leaves to others: everything that is said on the connections, and who
// may log in. Lockout is authn's; how a login is refused, the protocol's.
package sessions

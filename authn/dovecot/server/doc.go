// Package server lets other programs log people in through us: Postfix, Exim
// and whatever else speaks the client side of Dovecot's authentication protocol
// (version 1.2), over unix and TCP sockets. Lines come in, exchanges of the same
// SASL mechanisms that our own listeners have go on behind them, and each ends
// with OK and the account's name or with FAIL.
//
// What cannot be known is never told as a wrong password. To clients that know
// "temp" it is FAIL with that word. Those of version 1.0, Postfix above all,
// answer 535 to every FAIL; to them the connection is closed without a word,
// which they answer 454.
//
// Clients are believed: what they say of address and TLS of whom they ask for
// counts for the lockout, the audit and the choice of mechanisms. Who may be
// one is decided by the permissions of the socket and a list of networks.
package server

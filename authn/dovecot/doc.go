// Package dovecot verifies passwords by a running Dovecot, over the socket that
// it has for Postfix and its like (auth-client; protocol version 1.2). All
// logins of a process share one connection, each as a request of its own.
//
// FAIL is a definite no, unless Dovecot says that it is temporary or about the
// account. A socket that cannot be reached, an answer that does not come and
// one that makes no sense are not known. The identity is the name that Dovecot
// gives, which may be another than was typed.
package dovecot

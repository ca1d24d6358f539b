// Package ldap searches LDAP servers and verifies passwords by binding.
//
// A Client keeps connections to a list of servers that hold the same
// directory. Each operation has a deadline that also bounds writing, uses a
// connection alone, and gives it back only when the server answered: after
// any other error the connection is thrown away. A stale connection is
// replaced once without the caller noticing; a server that fails is followed
// by the next one, and one that failed repeatedly is left alone for a while.
//
// What is not a certain answer is status.DirectoryDown: outages, results cut
// by limits, referrals (never followed, nor are search references, without
// which nothing found is no answer), wrong certificates and refused service
// accounts alike.
//
// A Feed follows the servers for a replica (directory/replica), on connections
// of its own: by content synchronization (RFC 4533), by Active Directory's
// DirSync, or by reading everything again and again.
//
// The protocol is RFC 4511 over go-ldap, TLS as RFC 4513 section 3, paging as
// RFC 2696, password policy responses as draft-behera-ldap-password-policy,
// and Active Directory's range retrieval.
package ldap

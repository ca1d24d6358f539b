// Package directory answers who an address or a login stands for.
//
// In come addresses and logins, as strangers typed them. Out go accounts,
// recipients and owners. One definition, the Mapping, serves every use:
// login to account, address to recipients through aliases, forwards and
// nested groups, sender ownership, quota and placement.
//
// Entries come from a Searcher: an LDAP server (directory/ldap) or a file
// (directory/ldif). This package decides what an entry means and never
// trusts a server's matching rules for it: an entry stands for an address
// only when one of its values, read by package mail, is that address.
//
// Every answer is three-valued. Yes is a nil error; no is an error whose
// status.Reason is permanent; everything else is unknown, and unknown is
// never no: a server that is down, slow, misconfigured or cut short by a
// size limit gives status.DirectoryDown.
//
// Filters are trees in which values are values (RFC 4511 section 4.5.1.7).
// No string from outside is ever read as a filter. DNs follow RFC 4514, filter
// text RFC 4515, LDAP URLs RFC 4516.
package directory

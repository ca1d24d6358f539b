// Package table is the one language of lookup tables: what a table is, how
// its files are written and in which order a table is asked for the keys of an
// address, a host or a network.
//
// In come the name of a table ("texthash:/etc/postern/virtual", "cidr:...",
// "regexp:...", "unionmap:{...}") and a Use, which says what its entries mean
// to whoever asks. Out comes a Table, whose answer has three values: what a key
// stands for, nothing, or an error, which means that nobody knows.
//
// What it guarantees: a file that changed is taken over when it has come to
// rest and has no mistakes; otherwise the one read before stays in force and
// the log tells each mistake with file and line. Lookups in files never block
// and take time linear in the key.
//
// Notations are Postfix's: texthash, cidr_table(5), regexp_table(5) and
// pcre_table(5) on RE2, aliases(5), inline, static, unionmap and pipemap. Where
// we differ, docs/tables.md tells it. Tables behind a network (LDAP, SQL) are
// other rooms'; they are plugged into an Opener.
package table

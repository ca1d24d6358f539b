// Package ldif is a directory kept in a file: it reads LDIF content records
// (RFC 2849), indexes them and searches them in process.
//
// A Source serves the last good version of its file. When the file changes and
// the new version is broken, the old one stays and the mistakes are logged
// with file and line. Searches block on nothing and never fail for want of a
// server; a filter whose matching rule is not known here is refused, since
// not knowing is not the same as not matching.
//
// Change records are refused: this is a directory, not its journal. Values
// taken from URLs are refused: a data file does not name other files.
package ldif

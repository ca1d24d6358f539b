// Package file verifies passwords against stored hashes: those of a password
// file (File) and those a directory in this process hands out (Stored), such
// as the userPassword of an LDIF file.
//
// A login that is not there costs the same hash work as one that is. A password
// file is read again when it changes; while its new text is wrong, the old one
// stays in force and the log names file, line and mistake.
package file

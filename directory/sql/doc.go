// Package sql looks things up in databases: MySQL and MariaDB, PostgreSQL,
// SQLite.
//
// In come queries of the operator with placeholders, in the notation of
// Postfix's mysql_table(5) or of Dovecot's password_query; out come rows, by
// way of a Table, of a Source of directory entries, or as they are. What is
// filled in is bound as a parameter and never part of the query's text; a key
// that has not got a part that is asked for is not looked up.
//
// What it guarantees: every operation ends within the time configured. An
// error means that nobody knows (status.DirectoryDown): it is never an empty
// result. A host that did not answer is left alone for a while, and the next
// one is asked. A result with more rows than allowed is an error.
package sql

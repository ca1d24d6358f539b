// Package apppass keeps passwords for applications: each of one account, for
// some protocols and networks, until a day, made here and known to no
// directory. A telephone that loses one costs its owner nothing else, and a
// program with a wrong one can lock nobody out of a directory.
//
// A password is 80 random bits in 16 letters and digits and 4 more that check
// them, in five groups. By the check it is told from what people think up, so
// that it never goes on to a directory. Against 80 bits nobody guesses, with
// the store or without: it is kept as a keyed SHA-256, as a slow hash would
// protect nothing more and cost each login.
//
// Whether the account exists and may log in is left to authn.
package apppass

// Package text says what of a message is text, and reads it as SEARCH compares
// it: transfer encoding, charset and encoded-words taken off, folded so that
// letters that differ in case or form only are the same octets.
//
// What goes in: any octets at all with the parts that package mime found. What
// comes out: folded UTF-8, piece by piece in bounded memory. Whoever looks
// through a message and whoever indexes one read it here, so that they agree.
// What it leaves to others: which parts of a message a search is about.
//
// RFC 9051 section 6.4.4 (what TEXT and BODY are), RFC 5051 (i;unicode-casemap),
// RFC 2045, 2046 and 2047, read tolerantly.
package text

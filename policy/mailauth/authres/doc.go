// Package authres reads and writes Authentication-Results fields (RFC 8601).
//
// In goes the value of a field, with its folds, comments and quotes, or the
// results to write; out comes the other. Reading is bounded, and takes the
// unquoted values that others write although the grammar wants quotes. Whose
// claim a field is can be told even where the rest of it makes no sense, so
// that a forged one does not get past by being malformed.
package authres

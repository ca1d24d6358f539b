// Package rewrite changes the addresses of mail, as Postfix's cleanup,
// trivial-rewrite and generic mapping do.
//
// On the way in, Rewriter gives the envelope and, for mail of our own clients,
// the header the form addresses have outside: incomplete ones are completed,
// canonical maps and masquerading applied, copies (bcc) found. On the way out
// by SMTP, Outbound applies generic maps, signs the reverse-path of forwarded
// mail by SRS (package srs) and marks it with Delivered-To, by which a loop is
// known when it comes back.
//
// What it guarantees: only addresses change. Names, comments, folding and
// fields that cannot be read stay octet by octet as they were, and so does
// the body. A table that cannot answer is a transient error, never "no entry".
// The order of the steps stands in docs/rewriting.md.
//
// RFC 5322 sections 3.4 and 4.4, RFC 6532; canonical(5) and generic(5) of
// Postfix.
package rewrite

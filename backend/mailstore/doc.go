// Package mailstore keeps accounts, their mailboxes and messages.
//
// What goes in: deliveries, and what an IMAP client may do to its mailboxes.
// What comes out: immutable Views of a mailbox, parsed headers and structures,
// bodies. What it promises:
//
//   - When a call that changes something returns nil, the change is on stable
//     storage; before that no View shows it.
//   - UIDs and MODSEQs are given out in the order in which they become visible.
//   - A delivery with an ID is stored once, however often it is repeated.
//   - Every change is one commit of journal record and index, guarded by the
//     account's head: whoever else writes the account, nothing is overwritten
//     unseen, and a commit whose outcome was lost is settled before the next.
//
// An account's changes go through one writer at a time, which takes whatever
// came in during the last commit into the next; accounts do not wait for each
// other. What it leaves to others: IMAP syntax, access rights, Sieve, the
// exchange with a partner.
//
// RFC 9051, RFC 3501, RFC 7162 (MODSEQ, expunged UIDs), RFC 8474 (identities),
// RFC 6154 (special use), RFC 8514 (SAVEDATE).
package mailstore

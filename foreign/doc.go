// Package foreign keeps the mailboxes of two IMAP servers in step, of which
// neither need be ours: two Dovecots, or a Dovecot and the server that its
// people move to.
//
// What comes in: a mirror, which is two servers and the accounts they share.
// What goes out: the same messages, flags, keywords, mailboxes and subscriptions
// on both. What it guarantees: a message that is on one side gets to the other
// once, however often the agent is killed; nothing is removed on one side but
// what the other side said is gone; a server that lost its UIDs, or that says
// that too much is gone, stops what is removed, never the mail. What it leaves
// to others: UIDs, UIDVALIDITY and MODSEQ, which differ on both sides, and
// whatever IMAP does not show.
//
// How: for each mailbox the state remembers a position on both sides (UIDVALIDITY
// and MODSEQ), which UID on the left is which on the right, and the flags both
// agreed on. A pass asks both for what happened since (QRESYNC, RFC 7162), merges
// flags bit by bit against what was agreed, appends what is new, and expunges what
// the other side named in VANISHED. The position moves only when all of that is
// done, so that a pass that was cut short is done again; what may not be done
// twice, APPEND and COPY, is written down as an intent before.
package foreign

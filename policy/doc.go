// Package policy decides what a client may do: Postfix's restriction lists as
// one chain of stages.
//
// What comes in: at each step of the dialogue the transaction so far. What
// goes out: one mail.Decision. The evaluation is Postfix's: a list runs from
// left to right, the first stage that permits ends that list only, the first
// that rejects ends everything, the end of a list permits, and deferred
// verdicts raise flags that are honoured at the end. The chain alone applies
// edits, logs, counts and audits; stages look and answer.
//
// What it guarantees: a stage that cannot decide because something of ours is
// out of order defers the mail, it never rejects it; no local-part can carry
// an address past the relay check; a chain that could relay for strangers
// cannot be built. What it leaves to others: the wire, the directory, the
// queue. Replies follow RFC 5321 and RFC 3463.
package policy

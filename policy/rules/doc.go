// Package rules is the restriction "rules": what is to become of mail, said by
// who sends it to whom and what it is.
//
// What comes in: rules in the order of the configuration, and the transaction.
// What goes out: a verdict and the edits of all rules that hold. A rule that
// looks into the message, or changes it, counts in the content list; the others
// count at each recipient, and refuse or send on that one only.
//
// What it guarantees: a rule whose condition nobody can find out the truth of,
// because a directory is out of order, leads to an error, which the chain turns
// into what on_error says; it is never taken for false. What it leaves to
// others: who is who (the directory), and what edits do (the chain, smtpd).
package rules

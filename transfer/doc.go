// Package transfer brings mailboxes in from elsewhere and takes them out.
//
// What comes in: folders and messages of a Source (a Maildir, an mbox, another
// IMAP server, a backup). What goes out: the same by way of a Client, to which
// the other end, Serve, answers from a mail store. The two ends talk over any
// connection: over the control socket to a server that runs, over a pipe to a
// store that was opened for the purpose. So files are read and written by the
// operator's process with the operator's rights, and the store by its owner.
//
// What it guarantees: a message is stored once, however often an import is
// repeated or interrupted; it is noted as done after it is on stable storage;
// memory is bounded by the number of messages of one folder, never by their
// octets. Nothing that is in the store is overwritten or removed.
//
// What it leaves to others: who may do it, and the formats, which are in the
// folders below.
package transfer

// Package backup keeps backups of a mail store's accounts in a folder.
//
// What comes in: accounts as transfer.BackupClient photographs them. What goes
// out: the same, into a store where they are lost, or message by message into
// one that lives. What it guarantees: a run has its name only when all that it
// names is on stable storage; runs share what they have in common, and one that
// was interrupted leaves the others as they were and is cheap to take again;
// whatever is read is compared with the checksum it was written with; nothing
// that a run names is removed before the run is. Memory is bounded by the number
// of messages of one account, at some 40 octets each, never by what they hold.
//
// The format is in docs/backup.md, so that others can read it. What it leaves to
// others: encryption, copies elsewhere, and when it is done.
package backup

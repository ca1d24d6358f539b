// Package tree makes names of an account's mailboxes out of registers that two
// nodes of a pair may write at the same time.
//
// What goes in: for each mailbox where it was created and where it was moved
// last, each with the stamp of the operation. What comes out: one name for each
// mailbox. What it promises: registers merge in any order and any number of
// times to the same; the same registers give the same names on both nodes; no
// two mailboxes have the same name, none is unreachable, INBOX stays INBOX.
// What it leaves to others: storing, and to make permanent what it shows of a
// conflict. It does no I/O and reads no clock.
//
// Why registers and a cut, not undo and redo: docs/adr/0012-mailbox-names-out-of-registers.md.
package tree

import (
	"cmp"
)

// ID is a mailbox's GUID; the zero ID stands for the top of the tree.
type ID [16]byte

// Stamp tells when and by which operation a register was written. Hybrid
// clocks are merged with every record that is applied, so whoever knew an
// operation has a higher stamp than it.
type Stamp struct {
	HLC    uint64
	Origin uint64
	Seq    uint64
}

// Compare orders stamps: clock, then origin, then sequence number.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.HLC, o.HLC), cmp.Compare(s.Origin, o.Origin), cmp.Compare(s.Seq, o.Seq))
}

// IsZero reports whether s is the stamp of nothing.
func (s Stamp) IsZero() bool { return s == Stamp{} }

// Register is what is known of a mailbox's place.
type Register struct {
	// Parent is the mailbox it hangs below, or zero. Leaf is the name below
	// that; it holds "/" where levels between exist only as part of names.
	Parent ID
	Leaf   string
	// Created is the stamp of the operation that made the mailbox; zero: not
	// known yet.
	Created Stamp
	// Moved is the stamp of the last rename; zero: never renamed. A rename
	// beats every creation: a mailbox that both nodes make by themselves, such
	// as a configured one, keeps the name it was given on one of them.
	Moved Stamp
	// Deleted marks one that exists no more and has no name of its own, but
	// others may hang below it. It takes no part in Merge: whether a mailbox
	// lives is decided by its messages.
	Deleted bool
}

// Merge returns what both know: it is commutative, associative and idempotent.
// The later rename wins; without one, the earlier creation. Deleted is r's.
func (r Register) Merge(o Register) Register {
	out := r
	if o.isAfter(r) {
		out.Parent, out.Leaf, out.Moved = o.Parent, o.Leaf, o.Moved
	}
	if r.Created.IsZero() || !o.Created.IsZero() && o.Created.Compare(r.Created) < 0 {
		out.Created = o.Created
	}
	return out
}

// isAfter reports whether r's place wins over o's.
func (r Register) isAfter(o Register) bool {
	switch c := r.Moved.Compare(o.Moved); {
	case c != 0:
		return c > 0
	case r.Created.IsZero() || !r.Moved.IsZero():
		return false
	case o.Created.IsZero():
		return true
	}
	return r.Created.Compare(o.Created) < 0
}

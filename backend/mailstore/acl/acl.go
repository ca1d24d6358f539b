// Package acl computes who may do what with a mailbox (RFC 4314).
//
// What comes in: a mailbox's access control list, and who asks. What goes out:
// that person's rights. Pure functions: where lists are kept is mailstore's
// part, and what each command needs is the server's.
//
// An identifier is the name of an account, [Anyone], [Authenticated], or a
// group's name behind a "$". Behind a "-" any of them takes rights away. A
// person has the union of what all identifiers that stand for them grant, less
// the union of what they take away (RFC 4314 section 2 leaves the choice).
package acl

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Rights is a set of rights.
type Rights uint16

// The rights of RFC 4314 section 2.1, in its order.
const (
	Lookup        Rights = 1 << iota // l: the mailbox is seen in lists, and may be subscribed
	Read                             // r: SELECT, STATUS, messages are read
	Seen                             // s: \Seen is kept
	Write                            // w: flags but \Seen and \Deleted
	Insert                           // i: APPEND, COPY into it
	Post                             // p: mail to the mailbox's own address
	Create                           // k: mailboxes are made below it
	DeleteMailbox                    // x: the mailbox is deleted, and renamed
	DeleteMessage                    // t: \Deleted
	Expunge                          // e: EXPUNGE
	Admin                            // a: the list itself

	// All are all rights there are.
	All Rights = 1<<iota - 1
)

// letters are the rights as they are written, in the order of their bits.
const letters = "lrswipkxtea"

// The rights of RFC 2086 that others came from (RFC 4314 section 2.1.1).
const (
	oldCreate = Create | DeleteMailbox
	oldDelete = DeleteMessage | Expunge
)

// Capability are the rights that RFC 2086 did not have, as RIGHTS= names them.
const Capability = "kxte"

var (
	// ErrRight is a letter that is no right.
	ErrRight = errors.New("unknown right")
	// ErrIdentifier is an identifier that nobody can have.
	ErrIdentifier = errors.New("invalid identifier")
)

// Parse reads rights in any order, "c" and "d" of RFC 2086 too.
func Parse(s string) (Rights, error) {
	var r Rights
	for _, c := range []byte(s) {
		switch i := strings.IndexByte(letters, c); {
		case i >= 0:
			r |= 1 << i
		case c == 'c':
			r |= oldCreate
		case c == 'd':
			r |= oldDelete
		default:
			return 0, ErrRight
		}
	}
	return r, nil
}

// String writes rights in the order of the RFC.
func (r Rights) String() string {
	var b strings.Builder
	for i, c := range []byte(letters) {
		if r&(1<<i) != 0 {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Wire is String with "c" and "d" for clients of RFC 2086, where any of what
// these stood for is granted (RFC 4314 section 2.1.1).
func (r Rights) Wire() string {
	s := r.String()
	if r&oldCreate != 0 {
		s += "c"
	}
	if r&oldDelete != 0 {
		s += "d"
	}
	return s
}

// Has reports whether all of need are there.
func (r Rights) Has(need Rights) bool { return r&need == need }

// Identifiers that stand for everybody. Nobody gets to a mailbox without
// logging in, so that the two mean the same.
const (
	Anyone        = "anyone"
	Authenticated = "authenticated"
)

// groupMark begins the name of a group, negative an identifier whose rights are
// taken away.
const (
	groupMark = "$"
	negative  = "-"
)

// MaxIdentifierOctets bounds an identifier.
const MaxIdentifierOctets = 512

// Check returns ErrIdentifier for what cannot stand in a list.
func Check(identifier string) error {
	bare := strings.TrimPrefix(identifier, negative)
	if bare == "" || bare == groupMark || len(identifier) > MaxIdentifierOctets || !utf8.ValidString(bare) ||
		!norm.NFC.IsNormalString(bare) || strings.HasPrefix(bare, negative) || strings.ContainsFunc(bare, isControl) {
		return ErrIdentifier
	}
	return nil
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// Split takes the sign off an identifier.
func Split(identifier string) (bare string, takesAway bool) {
	return strings.CutPrefix(identifier, negative)
}

// IsAccount reports whether an identifier is the name of an account.
func IsAccount(bare string) bool {
	return bare != Anyone && bare != Authenticated && !strings.HasPrefix(bare, groupMark)
}

// Group is the identifier of a group.
func Group(name string) string { return groupMark + name }

// Grant is one line of a list.
type Grant struct {
	Identifier string
	Rights     Rights
}

// List is a mailbox's list; each identifier stands in it once.
type List []Grant

// Of returns the rights of an identifier as the list has them.
func (l List) Of(identifier string) (Rights, bool) {
	for _, g := range l {
		if g.Identifier == identifier {
			return g.Rights, true
		}
	}
	return 0, false
}

// Over returns l with the lines of base that it says nothing about, sorted.
func (l List) Over(base List) List {
	if len(base) == 0 {
		return l
	}
	all := slices.Clone(l)
	for _, g := range base {
		if _, said := l.Of(g.Identifier); !said {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b Grant) int { return strings.Compare(a.Identifier, b.Identifier) })
	return all
}

// Who is a person who asks.
type Who struct {
	Account string
	Groups  []string // without the mark
}

// Identifiers lists those that stand for the person.
func (w Who) Identifiers() []string {
	ids := []string{w.Account, Anyone, Authenticated}
	for _, g := range w.Groups {
		ids = append(ids, Group(g))
	}
	return ids
}

// is reports whether an identifier stands for the person.
func (w Who) is(bare string) bool {
	if IsAccount(bare) && bare == w.Account || bare == Anyone || bare == Authenticated {
		return true
	}
	group, ok := strings.CutPrefix(bare, groupMark)
	return ok && slices.Contains(w.Groups, group)
}

// For returns what the list lets a person do.
func (l List) For(w Who) Rights {
	var granted, taken Rights
	for _, g := range l {
		bare, takesAway := Split(g.Identifier)
		switch {
		case !w.is(bare):
		case takesAway:
			taken |= g.Rights
		default:
			granted |= g.Rights
		}
	}
	return granted &^ taken
}

package ldif

import (
	"context"
	"encoding/binary"
	"iter"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/index"
)

// Tree is an immutable set of entries. It implements directory.Searcher and
// may be used concurrently.
type Tree struct {
	public *index.Set          // what searches see: no passwords
	hashes map[string][]string // password values, by the DN's key
}

const passwordAttribute = "userpassword"

// NewTree returns a tree of entries.
func NewTree(entries []directory.Entry) *Tree {
	t := &Tree{public: index.New(), hashes: make(map[string][]string)}
	for i, e := range entries {
		if hashes := e.Values(passwordAttribute); len(hashes) > 0 {
			t.hashes[e.DN.Key()] = hashes
		}
		var id index.ID
		binary.BigEndian.PutUint64(id[:], uint64(i))
		t.public.Put(id, directory.StandardClasses.Complete(e.Without(passwordAttribute)))
	}
	return t
}

// Len returns the number of entries.
func (t *Tree) Len() int { return t.public.Len() }

// Search implements directory.Searcher. Passwords are never returned.
func (t *Tree) Search(ctx context.Context, req directory.Request) ([]directory.Entry, error) {
	return t.public.Search(ctx, req)
}

// All yields the entries in the file's order, without passwords.
func (t *Tree) All() iter.Seq2[index.ID, directory.Entry] { return t.public.All() }

// passwords returns the stored password values of an entry.
func (t *Tree) passwords(dn directory.DN) []string { return t.hashes[dn.Key()] }

package ldif

import (
	"context"
	"iter"
	"maps"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
)

// Passwords gives a verifier the password hashes of a file's accounts. It may
// be used concurrently.
type Passwords struct {
	directory *directory.Directory
	source    *Source
}

// NewPasswords returns the hashes in source for the accounts that d, which
// must read from source, finds.
func NewPasswords(d *directory.Directory, source *Source) *Passwords {
	return &Passwords{directory: d, source: source}
}

// AllPasswordHashes yields the values of userPassword of each entry that has
// any. The version is another one when the file was read again.
func (p *Passwords) AllPasswordHashes() (version any, all iter.Seq[[]string]) {
	tree := p.source.Tree()
	return tree, maps.Values(tree.hashes)
}

// PasswordHashes returns the account behind a login and the values of its
// userPassword, in the file's notation ("{SSHA}...", "{CRYPT}$6$..."), which
// the caller must not change; none when the account has no password. Reasons
// as those of directory.Directory.Account.
func (p *Passwords) PasswordHashes(ctx context.Context, login string) (mail.Account, []string, error) {
	dn, account, err := p.directory.FindLogin(ctx, login)
	if err != nil {
		return mail.Account{}, nil, err
	}
	return account, p.source.Tree().passwords(directory.DN(dn)), nil
}

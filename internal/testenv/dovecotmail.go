package testenv

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// PutMaildir gives a user, before any login, the Maildir at dir, which moves
// there.
func (s *DovecotServer) PutMaildir(user, dir string) {
	s.t.Helper()
	owner := dovecotOwner(s.t)
	home := filepath.Join(s.path("mail"), strings.ToLower(user))
	if err := os.MkdirAll(home, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(dir, filepath.Join(home, "Maildir")); err != nil {
		s.t.Fatal(err)
	}
	err := filepath.WalkDir(home, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, owner.uid, owner.gid)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

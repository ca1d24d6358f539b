package tlspolicy

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/fsx"
)

// Cache keeps MTA-STS policies over a restart. What it is given it gives back;
// it need not be safe for concurrent use.
type Cache interface {
	// Load returns all policies that are kept, as they were stored, by domain.
	Load() (map[string][]byte, error)
	// Store keeps one, durably when it returns nil.
	Store(domain string, policy []byte) error
	// Delete forgets one. There may be none.
	Delete(domain string) error
}

// DirCache keeps each policy in a file of its own, named as its domain.
type DirCache struct {
	fs  fsx.FS
	dir string
}

// NewDirCache returns the cache in dir, which is made when something is stored.
func NewDirCache(fsys fsx.FS, dir string) *DirCache { return &DirCache{fsys, dir} }

// suffix tells policies from other files.
const suffix = ".sts"

// Load implements Cache. Files that cannot be read are left out.
func (c *DirCache) Load() (map[string][]byte, error) {
	names, err := c.fs.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	policies := make(map[string][]byte)
	for _, name := range names {
		domain, ours := strings.CutSuffix(name, suffix)
		if !ours || len(policies) >= maxPolicies {
			continue
		}
		if content, err := c.read(filepath.Join(c.dir, name)); err == nil {
			policies[domain] = content
		}
	}
	return policies, nil
}

func (c *DirCache) read(name string) (content []byte, err error) {
	f, err := c.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil || size > maxPolicyOctets+maxStoredHead {
		return nil, errors.Join(err, errStored)
	}
	content = make([]byte, size)
	_, err = f.ReadAt(content, 0)
	return content, err
}

// Store implements Cache.
func (c *DirCache) Store(domain string, policy []byte) error {
	if err := c.fs.MkdirAll(c.dir); err != nil {
		return err
	}
	return fsx.WriteFile(c.fs, filepath.Join(c.dir, domain+suffix), policy)
}

// Delete implements Cache.
func (c *DirCache) Delete(domain string) error {
	err := c.fs.Remove(filepath.Join(c.dir, domain+suffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// known is what is known about the MTA-STS policy of a domain.
type known struct {
	id      string
	fetched time.Time
	text    string
	policy  *STSPolicy
}

// expires returns until when the policy holds.
func (k known) expires() time.Time { return k.fetched.Add(k.policy.MaxAge) }

// storedVersion begins the stored form; a reader refuses another one.
const storedVersion = "postern-mta-sts 1"

// maxStoredHead bounds what stands before the policy itself.
const maxStoredHead = 200

var errStored = errors.New("not a stored MTA-STS policy")

// encode returns the stored form: the version, the id, when the policy was
// fetched, an empty line, and the policy as it came.
func (k known) encode() []byte {
	return fmt.Appendf(nil, "%s\nid: %s\nfetched: %s\n\n%s", storedVersion, k.id, k.fetched.UTC().Format(time.RFC3339), k.text)
}

func decodeKnown(stored []byte) (k known, err error) {
	head, text, found := strings.Cut(string(stored), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) != 3 || lines[0] != storedVersion {
		return k, errStored
	}
	id, okID := strings.CutPrefix(lines[1], "id: ")
	fetched, okFetched := strings.CutPrefix(lines[2], "fetched: ")
	if !okID || !okFetched || parseSTSRecord([]string{"v=STSv1; id=" + id}) != id {
		return k, errStored
	}
	k.id, k.text = id, text
	if k.fetched, err = time.Parse(time.RFC3339, fetched); err != nil {
		return k, errStored
	}
	k.policy, err = parseSTSPolicy(text)
	return k, err
}

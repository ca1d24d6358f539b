package maildir

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern-mail/postern/transfer"
)

// Bounds on what is read whole.
const (
	maxFolders     = 100_000
	maxDepth       = 50
	maxIndexOctets = 256 << 20 // of dovecot-uidlist
	piece          = 500
	maxHeader      = 256 << 10
)

// Source reads a Maildir.
type Source struct {
	root    string
	keys    bool
	folders map[string]string // path by name
}

var _ transfer.Source = (*Source)(nil)

// Open looks at the Maildir or tree of Maildirs at dir. With keys messages get
// the Key by which repeats are known.
func Open(dir string, keys bool) (*Source, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file; is it an mbox?", dir)
	}
	return &Source{root: dir, keys: keys, folders: make(map[string]string)}, nil
}

// Name implements transfer.Source: messages keep their files' names wherever
// the Maildir is moved to.
func (s *Source) Name() string { return "maildir" }

func isMaildir(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, "cur"))
	return err == nil && info.IsDir()
}

// Folders implements transfer.Source.
func (s *Source) Folders(ctx context.Context) (all []transfer.Folder, skipped []transfer.Skip, err error) {
	if isMaildir(s.root) {
		s.folders["INBOX"] = s.root
	}
	skip := func(path, why string) {
		skipped = append(skipped, transfer.Skip{Folder: path, Why: why})
	}
	if err := s.walk(ctx, s.root, "", skip, 0); err != nil {
		return nil, skipped, err
	}
	if len(s.folders) == 0 {
		return nil, skipped, fmt.Errorf("%s is no Maildir: neither it nor what is below it has a folder cur", s.root)
	}
	subscribed := s.subscriptions()
	for name, dir := range s.folders {
		list := readUIDList(dir)
		all = append(all, transfer.Folder{
			Name: name, Subscribed: subscribed[name], UIDValidity: list.validity, UIDNext: list.next, Messages: count(dir),
		})
	}
	for name := range subscribed {
		if s.folders[name] == "" {
			all = append(all, transfer.Folder{Name: name, Subscribed: true, Absent: true})
		}
	}
	slices.SortFunc(all, func(a, b transfer.Folder) int { return strings.Compare(a.Name, b.Name) })
	return all, skipped, nil
}

// walk finds the Maildirs below dir: those with a dot by Maildir++, others by
// their paths.
func (s *Source) walk(ctx context.Context, dir, rel string, skip func(path, why string), depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		skip(rel, "too many levels")
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if depth == 0 {
			return err
		}
		skip(rel, err.Error())
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		below := filepath.Join(rel, e.Name())
		if !e.IsDir() || e.Name() == "cur" || e.Name() == "new" || e.Name() == "tmp" {
			continue
		}
		if len(s.folders) >= maxFolders {
			return fmt.Errorf("more than %d folders", maxFolders)
		}
		dotted := strings.HasPrefix(e.Name(), ".") && depth == 0
		switch {
		case isMaildir(path):
			name, ok := treeName(below)
			if dotted {
				name, ok = folderName(e.Name())
			}
			if !ok {
				skip(below, "its name is no mailbox name")
			} else if s.folders[name] != "" {
				skip(below, "another folder is mailbox "+name+" already")
			} else {
				s.folders[name] = path
			}
			fallthrough
		default:
			if !dotted && !strings.HasPrefix(e.Name(), ".") {
				if err := s.walk(ctx, path, below, skip, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *Source) subscriptions() map[string]bool {
	subscribed := make(map[string]bool)
	for _, name := range []string{"subscriptions", "courierimapsubscribed"} {
		text, err := readBounded(filepath.Join(s.root, name), 16<<20)
		if err != nil {
			continue
		}
		for _, n := range parseSubscriptions(string(text)) {
			subscribed[n] = true
		}
	}
	return subscribed
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

func readUIDList(dir string) uidList {
	text, err := readBounded(filepath.Join(dir, "dovecot-uidlist"), maxIndexOctets)
	if err != nil {
		return uidList{}
	}
	return parseUIDList(string(text))
}

func count(dir string) int {
	n := 0
	for _, sub := range []string{"cur", "new"} {
		if entries, err := os.ReadDir(filepath.Join(dir, sub)); err == nil {
			n += len(entries)
		}
	}
	return n
}

// Messages implements transfer.Source: in the order of UIDs where there are
// some, then of arrival.
func (s *Source) Messages(ctx context.Context, folder string, each func([]transfer.Item) error, skip func(transfer.Skip)) error {
	dir := s.folders[folder]
	list := readUIDList(dir)
	text, err := readBounded(filepath.Join(dir, "dovecot-keywords"), 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	keywords := parseKeywords(string(text))
	var found []located
	for _, sub := range []string{"cur", "new"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
				continue
			}
			f := parseFile(e.Name())
			found = append(found, located{file: f, sub: sub, name: e.Name(), uid: list.uids[f.base]})
		}
	}
	slices.SortFunc(found, located.compare)
	seen := make(map[string]bool, len(found))
	for some := range slices.Chunk(found, piece) {
		items := make([]transfer.Item, 0, len(some))
		for _, l := range some {
			if seen[l.base] {
				skip(transfer.Skip{Folder: folder, Message: l.base, Why: "another file is the same message"})
				continue
			}
			seen[l.base] = true
			it, err := s.item(dir, l, keywords)
			if err != nil {
				skip(transfer.Skip{Folder: folder, Message: l.base, Why: err.Error()})
				continue
			}
			items = append(items, it)
		}
		if err := cmp.Or(ctx.Err(), each(items)); err != nil {
			return err
		}
	}
	return nil
}

// located is a message's file and where it is.
type located struct {
	file
	sub, name string
	uid       uint32
}

func (l located) compare(o located) int {
	last := func(uid uint32) uint64 { return uint64(uid) - 1 } // none comes last
	return cmp.Or(cmp.Compare(last(l.uid), last(o.uid)), l.at.Compare(o.at), strings.Compare(l.base, o.base))
}

func (s *Source) item(dir string, l located, keywords []string) (transfer.Item, error) {
	path := filepath.Join(dir, l.sub, l.name)
	info, err := os.Lstat(path)
	if err != nil {
		return transfer.Item{}, err
	}
	if !info.Mode().IsRegular() {
		return transfer.Item{}, errors.New("not a regular file")
	}
	it := transfer.Item{Key: l.base, Place: place{dir, l.base, path}, Message: transfer.Message{
		UID: l.uid, Flags: flagsOf(l.flags, keywords), Date: info.ModTime().UTC(), Octets: cmp.Or(l.size, info.Size()),
	}}
	if s.keys {
		it.Message.Key, err = keyOf(path, it.Message)
	}
	return it, err
}

// keyOf reads a message for its Message-ID and for its size with CRLF.
func keyOf(path string, m transfer.Message) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	br := bufio.NewReaderSize(transfer.Lines(f), maxHeader)
	head, err := br.Peek(maxHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	id := transfer.MessageID(head)
	n, err := io.Copy(io.Discard, br)
	return transfer.KeyOf(id, n, m.Date), err
}

// place is where a message's file was. Its name changes with its flags.
type place struct{ dir, base, path string }

func (p place) open() (*os.File, error) {
	f, err := os.Open(p.path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	for _, sub := range []string{"cur", "new"} {
		entries, err := os.ReadDir(filepath.Join(p.dir, sub))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if parseFile(e.Name()).base == p.base {
				return os.Open(filepath.Join(p.dir, sub, e.Name()))
			}
		}
	}
	return nil, err
}

// Texts implements transfer.Source.
func (s *Source) Texts(ctx context.Context, _ string, items []transfer.Item, take func(*transfer.Item, io.Reader) error) error {
	for i := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := items[i].Place.(place).open()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		} else if err != nil {
			return err
		}
		err = take(&items[i], transfer.Lines(f))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

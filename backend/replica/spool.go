package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailstore"
	"github.com/postern-mail/postern/store"
)

// Blobs are the bodies of the mail store as the node uses them.
type Blobs interface {
	Open(ctx context.Context, ref store.Ref) (store.Body, error)
}

// spool keeps bodies that come in parts, as files: they outlive the link and
// the process, so that a large body goes on where it stopped. What a crash of
// the machine spoils is found by the hash.
type spool struct {
	dir string

	mu   sync.Mutex
	sent map[store.Hash]bool // over this link
	last map[store.Hash]bool // before those
}

// maxSent bounds how many bodies are remembered as sent, twice.
const maxSent = 50_000

// maxPartsAge is how long parts wait for the rest.
const maxPartsAge = 7 * 24 * time.Hour

func openSpool(dir string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		info, err := f.Info()
		if err == nil && time.Since(info.ModTime()) > maxPartsAge && filepath.Ext(f.Name()) == partExtension {
			err = os.Remove(filepath.Join(dir, f.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &spool{dir: dir, sent: make(map[store.Hash]bool)}, nil
}

const (
	partExtension   = ".part"
	recordExtension = ".record"
)

func (s *spool) path(ref store.Ref) string {
	return filepath.Join(s.dir, fmt.Sprintf("%x", ref.Hash)+partExtension)
}

// keep adds octets at offset, unless that leaves a gap, and returns how many
// there are.
func (s *spool) keep(ref store.Ref, offset int64, octets []byte) (have int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	file, err := os.OpenFile(s.path(ref), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	have = info.Size()
	if offset > have {
		return have, nil
	}
	if _, err := file.WriteAt(octets, offset); err != nil {
		return 0, err
	}
	return max(have, offset+int64(len(octets))), nil
}

func (s *spool) size(ref store.Ref) int64 {
	info, err := os.Stat(s.path(ref))
	if err != nil {
		return 0
	}
	return info.Size()
}

// keepRecord saves what could not be applied, for who finds out why.
func (s *spool) keepRecord(account mailstore.GUID, raw []byte, now time.Time) (string, error) {
	name := fmt.Sprintf("%s-%s%s", account, now.UTC().Format("20060102T150405"), recordExtension)
	place := filepath.Join(s.dir, name)
	return place, os.WriteFile(place, raw, 0o600)
}

// forgetSent is for a new link.
func (s *spool) forgetSent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent, s.last = make(map[store.Hash]bool), nil
}

func (s *spool) noteSent(h store.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent[h] || s.last[h] {
		return true
	}
	if len(s.sent) >= maxSent {
		s.sent, s.last = make(map[store.Hash]bool), s.sent
	}
	s.sent[h] = true
	return false
}

// Open implements Bodies.
func (n *Node) Open(ctx context.Context, ref store.Ref) (store.Body, error) {
	return n.deps.Blobs.Open(ctx, ref)
}

// Stage implements Bodies.
func (n *Node) Stage(ctx context.Context, r io.Reader) (store.Staged, error) {
	return n.deps.Mail.Stage(ctx, r)
}

// Part implements Bodies.
func (n *Node) Part(ref store.Ref, offset int64, octets []byte) (int64, error) {
	return n.spool.keep(ref, offset, octets)
}

// Parts implements Bodies.
func (n *Node) Parts(ref store.Ref) int64 { return n.spool.size(ref) }

// Join implements Bodies.
func (n *Node) Join(ctx context.Context, ref store.Ref) (store.Staged, error) {
	path := n.spool.path(ref)
	file, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrParts // another account had them
		}
		return nil, err
	}
	defer file.Close()
	staged, err := n.Stage(ctx, file)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		staged.Discard()
		return nil, err
	}
	if staged.Ref() != ref {
		staged.Discard()
		return nil, ErrParts
	}
	return staged, nil
}

// Sent implements Bodies.
func (n *Node) Sent(h store.Hash) bool { return n.spool.noteSent(h) }

package transfer

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// State remembers, for one source and one account, which messages were stored,
// so that another import brings the rest only. One file for each folder, which
// is only ever appended to: lines of key, UID and the flags that the source had.
type State struct{ dir string }

// NewState keeps its files in a folder of dir, which it makes when needed.
func NewState(dir, account, source string) *State {
	return &State{dir: filepath.Join(dir, url.PathEscape(account)+"-"+digest(source))}
}

func digest(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:10])
}

const stateHead = "postern-import 1 "

// done is what is remembered of a message.
type done struct {
	uid   uint32
	flags string // joined by spaces
}

// folderState is the state of one folder.
type folderState struct {
	file *os.File
	bw   *bufio.Writer
	done map[string]done
}

// open reads the state of folder, which goes to the mailbox with id. Of another
// mailbox nothing is remembered.
func (s *State) open(folder, id string) (*folderState, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("state of the import: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(s.dir, digest(folder)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state of the import: %w", err)
	}
	f := &folderState{file: file, done: make(map[string]done)}
	if err := f.read(stateHead + id + "\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("state of the import: %w", err), file.Close())
	}
	f.bw = bufio.NewWriter(file)
	return f, nil
}

// read takes in whole lines; what a crash left of the last one is cut off.
func (f *folderState) read(head string) error {
	br := bufio.NewReader(f.file)
	line, err := br.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if line != head {
		if err := f.file.Truncate(0); err != nil {
			return err
		}
		_, err := f.file.WriteAt([]byte(head), 0)
		if err == nil {
			_, err = f.file.Seek(0, io.SeekEnd)
		}
		return err
	}
	size := int64(len(line))
	for {
		line, err := br.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if !f.take(strings.TrimSuffix(line, "\n")) {
			break
		}
		size += int64(len(line))
	}
	if err := f.file.Truncate(size); err != nil {
		return err
	}
	_, err = f.file.Seek(size, io.SeekStart)
	return err
}

func (f *folderState) take(line string) bool {
	parts := strings.SplitN(line, "\t", 3)
	if len(parts) != 3 {
		return false
	}
	key, err := url.QueryUnescape(parts[0])
	uid, numberErr := strconv.ParseUint(parts[1], 10, 32)
	if err != nil || numberErr != nil {
		return false
	}
	f.done[key] = done{uint32(uid), parts[2]}
	return true
}

// note remembers a message; sync makes it durable.
func (f *folderState) note(key string, d done) {
	f.done[key] = d
	fmt.Fprintf(f.bw, "%s\t%d\t%s\n", url.QueryEscape(key), d.uid, d.flags) // bufio keeps the error for Flush
}

func (f *folderState) sync() error {
	if f.bw.Buffered() == 0 {
		return nil
	}
	if err := f.bw.Flush(); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *folderState) close() error { return errors.Join(f.sync(), f.file.Close()) }

// Forget removes everything remembered.
func (s *State) Forget() error {
	err := os.RemoveAll(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

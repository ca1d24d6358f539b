package maildir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern-mail/postern/transfer"
)

// Writer writes a Maildir++ that Dovecot reads: texts octet by octet, flags and
// keywords, INTERNALDATE as the files' time, UIDs and subscriptions.
type Writer struct {
	root       string
	subscribed []string
	folder     *folder // begun last
}

var _ transfer.Sink = (*Writer)(nil)

// Create makes a Maildir at dir, which must not exist.
func Create(dir string) (*Writer, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return &Writer{root: dir}, nil
}

// Subscribe notes a subscription.
func (w *Writer) Subscribe(name string) { w.subscribed = append(w.subscribed, name) }

// Close writes the subscriptions and makes everything durable.
func (w *Writer) Close() error {
	if err := w.endFolder(); err != nil {
		return err
	}
	if w.lacksInbox() {
		if _, err := newFolder(w.root, transfer.Folder{}); err != nil {
			return err
		}
	}
	var b strings.Builder
	slices.Sort(w.subscribed)
	for _, name := range w.subscribed {
		if name == "INBOX" {
			b.WriteString("INBOX\n")
		} else {
			b.WriteString(strings.TrimPrefix(dirName(name), ".") + "\n")
		}
	}
	if err := writeSynced(filepath.Join(w.root, "subscriptions"), b.String()); err != nil {
		return err
	}
	return syncDir(w.root)
}

// lacksInbox reports whether INBOX is still to be made: without it a folder is no
// Maildir.
func (w *Writer) lacksInbox() bool { return !isMaildir(w.root) }

func (w *Writer) endFolder() error {
	if w.folder == nil {
		return nil
	}
	f := w.folder
	w.folder = nil
	return f.close()
}

// folder is one that is being written.
type folder struct {
	dir      string
	folder   transfer.Folder
	keywords []string
	list     strings.Builder // of dovecot-uidlist
}

// Folder begins a mailbox.
func (w *Writer) Folder(f transfer.Folder) error {
	err := w.endFolder()
	if err != nil {
		return err
	}
	dir := w.root
	if f.Name != "INBOX" {
		dir = filepath.Join(w.root, dirName(f.Name))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("mailbox %q: %w", f.Name, err)
		}
		if err := writeSynced(filepath.Join(dir, "maildirfolder"), ""); err != nil {
			return err
		}
	}
	w.folder, err = newFolder(dir, f)
	return err
}

func newFolder(dir string, f transfer.Folder) (*folder, error) {
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return &folder{dir: dir, folder: f}, nil
}

// Add writes one message to the folder begun last. lost tells keywords that
// have no letter any more.
func (w *Writer) Add(m transfer.Message, text io.Reader) (lost []string, err error) {
	return w.folder.add(m, text)
}

func (f *folder) add(m transfer.Message, text io.Reader) (lost []string, err error) {
	flags, lost := f.letters(m.Flags)
	tmp := filepath.Join(f.dir, "tmp", fmt.Sprint(m.UID))
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(file, text)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(tmp))
	}
	if err := os.Chtimes(tmp, m.Date, m.Date); err != nil {
		return nil, err
	}
	base := fmt.Sprintf("%d.M0P%d.postern,S=%d,W=%d", m.Date.Unix(), m.UID, n, n)
	fmt.Fprintf(&f.list, "%d :%s\n", m.UID, base)
	return lost, os.Rename(tmp, filepath.Join(f.dir, "cur", base+":2,"+flags))
}

// letters writes flags, in the order of the alphabet.
func (f *folder) letters(flags []string) (text string, lost []string) {
	var b []byte
next:
	for _, flag := range flags {
		for _, l := range letters {
			if l.flag == flag && l.letter != 'P' { // which Dovecot does not know: $Forwarded is a keyword there
				b = append(b, l.letter)
				continue next
			}
		}
		i := slices.Index(f.keywords, flag)
		if i < 0 && len(f.keywords) < maxLetters {
			i = len(f.keywords)
			f.keywords = append(f.keywords, flag)
		}
		if i < 0 {
			lost = append(lost, flag)
			continue
		}
		b = append(b, byte('a'+i))
	}
	slices.Sort(b)
	return string(b), lost
}

// close writes what Dovecot keeps beside the messages.
func (f *folder) close() error {
	var words strings.Builder
	for i, k := range f.keywords {
		fmt.Fprintf(&words, "%d %s\n", i, k)
	}
	head := fmt.Sprintf("3 V%d N%d\n", f.folder.UIDValidity, f.folder.UIDNext)
	if err := writeSynced(filepath.Join(f.dir, "dovecot-uidlist"), head+f.list.String()); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(f.dir, "dovecot-keywords"), words.String()); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Join(f.dir, "cur")), syncDir(f.dir))
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

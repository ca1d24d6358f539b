package attachments

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/gabriel-vasile/mimetype"
	"github.com/klauspost/compress/zstd"
	"github.com/nwaples/rardecode/v2"

	"github.com/postern-mail/postern/policy/content"
)

// What is too much of an archive, or not to be read.
var (
	errTooMany  = errors.New("too many parts or files")
	errTooDeep  = errors.New("archives nested too deeply")
	errTooLarge = errors.New("too large when unpacked")
	errHidden   = errors.New("a zip archive with files that its directory does not list")
	errNone     = errors.New("an archive by its name, and none by its content")
)

// unreadable is an error of what was sent, not of ours.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// headOctets is how much of a file tells what it is.
const headOctets = 3072

// maxDictionary bounds the memory that an archive may ask for.
const maxDictionary = 32 << 20

// file is something with octets: an attachment, or what is in one.
type file struct {
	name  string // as it was given
	path  string // with the archives it is in
	depth int
	r     io.Reader
}

// keeper keeps what is read, within the bounds of all messages. Implemented by
// *content.Message.
type keeper interface {
	Keep(r io.Reader) (*content.Buffer, error)
}

// search is one message's attachments being looked at.
type search struct {
	ctx    context.Context
	stage  *Stage
	keep   keeper
	files  int
	octets int64 // unpacked so far
	packed int64 // of the attachments that were unpacked
	found  func(finding)
}

// paced is a reader that ends with the time there is, and counts.
type paced struct {
	s *search
	r io.Reader
}

// Read implements io.Reader.
func (p paced) Read(b []byte) (int, error) {
	if err := p.s.ctx.Err(); err != nil {
		return 0, err
	}
	// Ahead of the octets, never with them: who asks for as many as there were
	// does not look at the error.
	if p.s.octets > p.s.stage.maxOctets || p.s.octets > p.s.stage.maxRatio*p.s.packed+(1<<20) {
		return 0, unreadable{errTooLarge}
	}
	n, err := p.r.Read(b)
	p.s.octets += int64(n)
	return n, err
}

// timed is a ReaderAt that ends with the time there is.
type timed struct {
	ctx context.Context
	io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (t timed) ReadAt(p []byte, at int64) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	return t.ReaderAt.ReadAt(p, at)
}

// look looks at one file, and into it where it is an archive. An error is
// unreadable where it comes of what was sent.
func (s *search) look(f file) error {
	if s.files++; s.files > s.stage.maxFiles {
		return unreadable{errTooMany}
	}
	s.name(f)
	head := make([]byte, headOctets)
	n, err := io.ReadFull(f.r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = head[:n]
	kind := detect(head)
	s.kind(f, kind)
	if kind == "application/x-ole-storage" || bytes.HasPrefix(head, []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")) {
		return s.ole(f, io.MultiReader(bytes.NewReader(head), f.r))
	}
	open := s.opener(kind)
	zipped := isZip(kind) || open == nil && bytes.HasPrefix(head, []byte("PK\x03\x04"))
	if zipped {
		open = s.zip
	}
	packed, byName := n > 0 && looksPacked(f.name), n > 0 && !zipped && looksZipped(f.name)
	switch {
	case unopened[kind] != "":
		return unreadable{fmt.Errorf("%s archives are not looked into", unopened[kind])}
	case open == nil && !packed && !byName:
		return nil
	case f.depth >= s.stage.maxDepth && (open != nil || packed):
		return unreadable{errTooDeep}
	case f.depth >= s.stage.maxDepth:
		return nil
	}
	return s.unpack(f, open, byName, io.MultiReader(bytes.NewReader(head), f.r))
}

// unpack looks into an archive, whose opener is nil where it is one by its name
// only, and again where programs take it for a zip archive by its name.
func (s *search) unpack(f file, open opener, zipByName bool, r io.Reader) error {
	kept, err := s.keep.Keep(r)
	if errors.Is(err, content.ErrTooLarge) {
		return unreadable{errTooLarge}
	}
	if err != nil {
		return err
	}
	defer kept.Free()
	if f.depth == 0 {
		s.packed += kept.Size()
	}
	if open != nil {
		if err := s.guard(open, f, kept); err != nil {
			return err
		}
	}
	switch {
	case zipByName:
	case open == nil:
		return unreadable{errNone}
	default:
		return nil
	}
	// Programs find a zip archive by its end, whatever stands ahead of it.
	switch err := s.guard(s.zip, f, kept); {
	case !errors.Is(err, zip.ErrFormat):
		return err
	case open == nil && looksPacked(f.name):
		return unreadable{errNone}
	}
	return nil
}

// looksPacked reports whether a name is one of an archive. What stands ahead of an
// archive does not keep programs from finding it.
func looksPacked(name string) bool {
	switch path.Ext(plain(name)) {
	case ".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".cab", ".tar", ".jar", ".arj", ".lzh", ".lha", ".ace", ".iso":
		return true
	}
	return false
}

// looksZipped reports whether a name is one of what programs open as a zip
// archive.
func looksZipped(name string) bool {
	switch path.Ext(plain(name)) {
	case ".zip", ".jar", ".docx", ".docm", ".dotx", ".dotm", ".xlsx", ".xlsm", ".xlsb", ".xltx", ".xltm", ".xlam", ".pptx", ".pptm", ".potx",
		".potm", ".ppsx", ".ppsm", ".ppam", ".odt", ".ods", ".odp", ".apk", ".xpi":
		return true
	}
	return false
}

// guard runs what reads an archive. Readers of archives are written for those who
// mean well; one that a hostile file breaks must not end the server.
func (s *search) guard(open opener, f file, kept *content.Buffer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = unreadable{fmt.Errorf("the archive breaks its reader: %v", p)}
		}
	}()
	return open(f, kept)
}

// opener looks into an archive.
type opener func(f file, kept *content.Buffer) error

// opener returns what looks into files of a type; nil for none and for zip
// archives.
func (s *search) opener(kind string) opener {
	switch kind {
	case "application/x-tar":
		return s.tar
	case "application/gzip":
		return s.gzip
	case "application/x-bzip2":
		return s.bzip2
	case "application/zstd":
		return s.zstd
	case "application/x-rar-compressed", "application/vnd.rar":
		return s.rar
	}
	return nil
}

// isZip reports whether files of a type are zip archives.
func isZip(kind string) bool {
	switch kind {
	case "application/zip", "application/epub+zip", "application/jar", "application/java-archive", "application/vnd.android.package-archive":
		return true
	}
	return strings.HasPrefix(kind, "application/vnd.openxmlformats") || strings.HasPrefix(kind, "application/vnd.oasis")
}

// unopened are the archives that are known and not looked into.
var unopened = map[string]string{
	"application/x-7z-compressed": "7z", "application/x-xz": "xz", "application/vnd.ms-cab-compressed": "cab", "application/x-installshield": "cab",
	"application/lzip": "lzip", "application/x-arj": "arj", "application/x-lzh-compressed": "lzh", "application/x-ace-compressed": "ace",
	"application/x-compress": "compress", "application/x-archive": "ar", "application/vnd.debian.binary-package": "ar", "application/x-cpio": "cpio",
}

// isArchive reports whether a type is one of archives, and not of documents that
// happen to be some.
func isArchive(kind string) bool {
	switch kind {
	case "application/zip", "application/x-tar", "application/gzip", "application/x-bzip2", "application/zstd", "application/x-rar-compressed", "application/vnd.rar":
		return true
	}
	return unopened[kind] != ""
}

// detect tells what octets are.
func detect(head []byte) string {
	kind, _, _ := strings.Cut(mimetype.Detect(head).String(), ";")
	switch {
	case unopened[kind] != "":
	case bytes.HasPrefix(head, []byte("\x1f\x9d")):
		return "application/x-compress"
	case len(head) > 20 && head[2] == '-' && head[3] == 'l' && (head[4] == 'h' || head[4] == 'z') && head[6] == '-':
		return "application/x-lzh-compressed"
	case len(head) > 20 && string(head[7:14]) == "**ACE**":
		return "application/x-ace-compressed"
	case len(head) > 34 && head[0] == 0x60 && head[1] == 0xea && head[3] <= 2600>>8 && head[4] >= 30 && head[4] <= 48:
		return "application/x-arj"
	}
	return kind
}

// inside is a file in another one.
func (f file) inside(name string, r io.Reader) file {
	return file{name: name, path: f.path + "/" + name, depth: f.depth + 1, r: r}
}

// broken classes what a reader of an archive says.
func broken(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || isStore(err) {
		return err
	}
	return unreadable{err}
}

func (s *search) tar(f file, kept *content.Buffer) error {
	t := tar.NewReader(timedReader(s, kept))
	var left error
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return left
		}
		if err != nil {
			return broken(err)
		}
		inside := f.inside(h.Name, paced{s, t}) // its holes count, which take no room in the archive
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeXGlobalHeader:
			if s.files++; s.files > s.stage.maxFiles {
				return unreadable{errTooMany}
			}
			s.name(inside)
			continue
		}
		if err := broken(s.look(inside)); !passable(err) {
			return err
		} else if err != nil {
			left = err
		}
	}
}

// passable reports whether what stands behind a file is looked at all the same:
// one file that cannot be read does not hide those behind it.
func passable(err error) bool {
	return err == nil || errors.As(err, new(unreadable)) && !errors.Is(err, errTooMany) && !errors.Is(err, errTooLarge)
}

func (s *search) gzip(f file, kept *content.Buffer) error {
	z, err := gzip.NewReader(timedReader(s, kept))
	if err != nil {
		return broken(err)
	}
	if z.Name != "" {
		s.name(f.inside(z.Name, nil))
	}
	return s.single(f, z, ".gz", ".tgz")
}

func (s *search) bzip2(f file, kept *content.Buffer) error {
	return s.single(f, bzip2.NewReader(timedReader(s, kept)), ".bz2", ".tbz2")
}

func (s *search) zstd(f file, kept *content.Buffer) error {
	z, err := zstd.NewReader(timedReader(s, kept), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDictionary), zstd.WithDecoderMaxMemory(maxDictionary))
	if err != nil {
		return broken(err)
	}
	defer z.Close()
	return s.single(f, z, ".zst", ".tzst")
}

func timedReader(s *search, kept *content.Buffer) io.Reader {
	return io.NewSectionReader(timed{s.ctx, kept}, 0, kept.Size())
}

// single looks at the one file that was packed.
func (s *search) single(f file, r io.Reader, suffix, tarSuffix string) error {
	name := plain(f.name)
	if bare, ok := strings.CutSuffix(name, tarSuffix); ok {
		name = bare + ".tar"
	} else if bare, ok := strings.CutSuffix(name, suffix); ok {
		name = bare
	} else {
		name = strings.TrimSuffix(name, path.Ext(name)) // another one says as little of the file
	}
	return broken(s.look(f.inside(name, paced{s, r})))
}

func (s *search) rar(f file, kept *content.Buffer) error {
	r, err := rardecode.NewReader(timedReader(s, kept), rardecode.MaxDictionarySize(maxDictionary), rardecode.SkipCheck)
	var left error
	for err == nil {
		var h *rardecode.FileHeader
		if h, err = r.Next(); err != nil {
			break
		}
		switch {
		case h.IsDir:
		case h.Encrypted || h.HeaderEncrypted:
			s.found(finding{f.inside(h.Name, nil).path, "encrypted"})
			s.name(f.inside(h.Name, nil))
		default:
			if err = broken(s.look(f.inside(h.Name, paced{s, r}))); err != nil && passable(err) {
				left, err = err, nil
			}
			if err == nil {
				// What is left of it is unpacked for the next file where all share
				// one dictionary, and that must count.
				_, err = io.Copy(io.Discard, paced{s, r})
			}
		}
	}
	if errors.Is(err, rardecode.ErrArchiveEncrypted) || errors.Is(err, rardecode.ErrArchivedFileEncrypted) {
		s.found(finding{f.path, "encrypted"})
		return nil
	}
	if errors.Is(err, io.EOF) {
		return left
	}
	return broken(err)
}

// project is the name of the storage that holds the macros of an older Office
// file, as it is written there.
var project = []byte("_\x00V\x00B\x00A\x00_\x00P\x00R\x00O\x00J\x00E\x00C\x00T\x00")

// ole looks through an older Office file for macros, and whether it is encrypted.
func (s *search) ole(f file, r io.Reader) error {
	encrypted := []byte("E\x00n\x00c\x00r\x00y\x00p\x00t\x00e\x00d\x00P\x00a\x00c\x00k\x00a\x00g\x00e\x00")
	buf := make([]byte, 64<<10)
	kept := 0
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf[kept:])
		window := buf[:kept+n]
		if bytes.Contains(window, project) {
			s.found(finding{f.path, "macros"})
			return nil
		}
		if bytes.Contains(window, encrypted) {
			s.found(finding{f.path, "encrypted"})
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kept = copy(buf, window[max(0, len(window)-len(encrypted)):])
	}
}

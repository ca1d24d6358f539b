package attachments

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/postern-mail/postern/policy/content"
)

// zip looks into a zip archive, and into what is one under another name: Office
// files, Java archives. Names stand twice in it, and programs differ in which they
// take: both count.
func (s *search) zip(f file, kept *content.Buffer) error {
	starts, err := s.localFiles(f, kept)
	if err != nil {
		return err
	}
	z, err := zip.NewReader(timed{s.ctx, kept}, kept.Size())
	if err != nil {
		return broken(err)
	}
	var left error
	for _, e := range z.File {
		if err := broken(s.zipped(f, e)); !passable(err) {
			return err
		} else if err != nil {
			left = err
		}
	}
	if left == nil && hidden(starts, z.File) {
		left = unreadable{errHidden}
	}
	return left
}

// zipped looks at one file of a zip archive.
func (s *search) zipped(f file, e *zip.File) error {
	switch {
	case strings.HasSuffix(e.Name, "/") && e.CompressedSize64 == 0: // a folder
		return nil
	case e.Flags&1 != 0:
		s.found(finding{f.inside(e.Name, nil).path, "encrypted"})
		s.name(f.inside(e.Name, nil))
		return nil
	}
	if strings.HasSuffix(strings.ToLower(e.Name), "vbaproject.bin") {
		s.found(finding{f.path, "macros"})
	}
	s.name(f.inside(e.Name, nil))
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // nothing is written
	return s.look(f.inside(e.Name, paced{s, r}))
}

// localFile is where a header ahead of a file stands in a zip archive, and where
// its data begin.
type localFile struct{ at, data int64 }

// localFiles looks at the names ahead of the files of a zip archive, and counts
// its directory before anybody reads that into memory.
func (s *search) localFiles(f file, kept *content.Buffer) (starts []localFile, err error) {
	r := kept.NewReader()
	const step, header = 64 << 10, 30
	buf := make([]byte, step+header)
	listed := 0
	for at := int64(0); at < kept.Size(); at += step {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		n, err := r.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		for i := 0; i < min(n, step); i += 2 {
			next := bytes.Index(buf[i:n], []byte("PK"))
			if next < 0 || i+next >= step {
				break
			}
			i += next
			found := buf[i:n]
			local := bytes.HasPrefix(found, []byte("PK\x03\x04")) && len(found) >= header
			if local || bytes.HasPrefix(found, []byte("PK\x01\x02")) {
				if listed++; listed > 2*s.stage.maxFiles {
					return nil, unreadable{errTooMany}
				}
			}
			if !local {
				continue
			}
			name := make([]byte, int(found[26])|int(found[27])<<8)
			extra := int64(found[28]) | int64(found[29])<<8
			begins := at + int64(i) + header
			length, err := r.ReadAt(name, begins)
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
			s.name(f.inside(string(name[:length]), nil))
			starts = append(starts, localFile{begins - header, begins + int64(len(name)) + extra})
		}
	}
	return starts, nil
}

// hidden reports whether files stand in an archive that its directory does not
// list: programs that unpack from the front find them. Those in a file that is
// itself an archive, stored as it is, are that one's.
func hidden(starts []localFile, listed []*zip.File) bool {
	type extent struct{ from, to int64 }
	known := make([]extent, 0, len(listed))
	for _, e := range listed {
		at, err := e.DataOffset()
		if err != nil {
			return true
		}
		known = append(known, extent{at, at + int64(min(e.CompressedSize64, 1<<62))})
	}
	slices.SortFunc(known, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(known); i++ {
		if known[i-1].to > known[i].from { // one size is a lie
			return true
		}
	}
	end := int64(0) // of the files that begin ahead of a place
	for _, l := range starts {
		for len(known) > 0 && known[0].from <= l.at {
			end, known = max(end, known[0].to), known[1:]
		}
		at, _ := slices.BinarySearchFunc(known, l.data, func(e extent, data int64) int { return cmp.Compare(e.from, data) })
		if l.at >= end && (at == len(known) || known[at].from != l.data) {
			return true
		}
	}
	return false
}

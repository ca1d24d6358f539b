package text

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/postern-mail/postern/backend/mailstore/mime"
	"github.com/postern-mail/postern/backend/mailstore/transfer"
)

// Bounds of what is read of documents of office programs. They count octets and
// not time, so that whoever indexes a message and whoever looks through it come
// equally far. What is beyond is no text.
const (
	// maxDocumentOctets is the largest file that is looked into: it is in memory
	// meanwhile.
	maxDocumentOctets = 16 << 20
	// maxUnpacked is what the documents of one message may unpack to.
	maxUnpacked = 64 << 20
	// A part of a document may unpack to maxRatio times what it is packed, and
	// ratioFree more.
	maxRatio  = 100
	ratioFree = 1 << 20
	// maxMembers is what a zip archive may list.
	maxMembers = 4096
)

// isDocument reports whether a part may be a document of an office program that is
// a zip archive. What it is shows when it is opened: mail programs name many of
// them otherwise.
func isDocument(media string) bool {
	switch media {
	case "application/octet-stream", "application/zip", "application/x-zip-compressed", "application/msword",
		"application/vnd.ms-excel", "application/vnd.ms-powerpoint":
		return true
	}
	return strings.HasPrefix(media, "application/vnd.openxmlformats-officedocument.") ||
		strings.HasPrefix(media, "application/vnd.oasis.opendocument.") ||
		strings.HasPrefix(media, "application/vnd.ms-") && strings.Contains(media, ".macroenabled.")
}

// document reads the text of a part that is a document. One that is damaged has
// the text that can be read.
func (w *walker) document(p *mime.Part) error {
	file, err := w.file(p)
	if err != nil || file == nil {
		return err
	}
	if bytes.Count(file, []byte("PK\x01\x02")) > maxMembers { // of the directory, which is read into memory
		return nil
	}
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil
	}
	for _, f := range z.File {
		if form := formOf(f.Name); form != noForm && f.Flags&1 == 0 && !w.enough {
			w.member(f, form, int64(len(file)))
		}
	}
	return nil
}

// file reads a part that may be a zip archive into memory; nil for one that is
// none, or too large.
func (w *walker) file(p *mime.Part) ([]byte, error) {
	if p.Body.Len() > 2*maxDocumentOctets { // base64 takes 1.4 times the room
		return nil, nil
	}
	body, err := w.open()
	if err != nil {
		return nil, err
	}
	w.transfer = transfer.New(p.Encoding)
	var file []byte
	for at := p.Body; at.Len() > 0; {
		read, err := body.ReadAt(w.raw[:min(at.Len(), stepOctets)], at.Start)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if read == 0 {
			break
		}
		at.Start += int64(read)
		if p.Encoding == mime.Identity {
			file = append(file, w.raw[:read]...)
		} else {
			file = w.transfer.Append(file, w.raw[:read])
		}
		if len(file) >= 4 && string(file[:4]) != "PK\x03\x04" || len(file) > maxDocumentOctets {
			return nil, nil
		}
	}
	if p.Encoding != mime.Identity {
		file = w.transfer.Finish(file)
	}
	return file, nil
}

// member reads the text of one member of a document of so many octets.
func (w *walker) member(f *zip.File, form form, octets int64) {
	packed := octets
	if f.CompressedSize64 < uint64(octets) {
		packed = int64(f.CompressedSize64)
	}
	left := min(w.unpacked, ratioFree+maxRatio*packed)
	r, err := f.Open()
	if err != nil {
		return
	}
	defer r.Close()
	w.begin(AsRead)
	w.markup.reset(form, &w.stripper)
	for first, last := true, false; !last && !w.enough; first = false {
		n, err := io.ReadFull(r, w.raw[:min(left, stepOctets)])
		left -= int64(n)
		w.unpacked -= int64(n)
		last = err != nil || left <= 0
		if first {
			w.charset.reset(charsetOfXML(w.raw[:n]))
		}
		text := w.charset.add(&w.utf8, w.raw[:n], last)
		w.stripped = w.markup.add(w.stripped[:0], text, last)
		w.add(AsRead, w.stripped, last)
	}
}

// charsetOfXML tells the charset by the octets that XML begins with.
func charsetOfXML(begin []byte) string {
	switch {
	case bytes.HasPrefix(begin, []byte{0xff, 0xfe}):
		return "utf-16le"
	case bytes.HasPrefix(begin, []byte{0xfe, 0xff}):
		return "utf-16be"
	}
	return "utf-8"
}

// form is how the text stands in the XML of a document.
type form uint8

const (
	noForm     form = iota // no text
	openXML                // ISO/IEC 29500: in a few elements
	openText               // OpenDocument (ISO/IEC 26300): everywhere
	properties             // title, author and the like: everywhere, each element by itself
)

// formOf tells how a member of a document is read, by its name.
func formOf(name string) form {
	dir, base := path.Split(strings.TrimPrefix(name, "/"))
	if !strings.HasSuffix(base, ".xml") {
		return noForm
	}
	begins := func(names ...string) form {
		for _, n := range names {
			if strings.HasPrefix(base, n) {
				return openXML
			}
		}
		return noForm
	}
	switch dir {
	case "":
		switch base {
		case "content.xml", "styles.xml": // with the headers and footers of pages
			return openText
		case "meta.xml":
			return properties
		}
	case "docProps/":
		if base == "core.xml" {
			return properties
		}
	case "word/":
		return begins("document", "header", "footer", "footnotes", "endnotes", "comments.")
	case "xl/":
		return begins("sharedStrings", "comments")
	case "xl/worksheets/", "xl/threadedComments/", "ppt/slides/", "ppt/notesSlides/", "ppt/comments/":
		return openXML
	}
	return noForm
}

package dkim

import "strings"

// lineOctets is how long the lines of fields are that we write.
const lineOctets = 76

// Folder writes a header field of tags, folded into lines.
type Folder struct {
	// Base64Octets is how much of a signature is on one line; 0 is 72.
	Base64Octets int

	b      strings.Builder
	column int
}

// NewFolder begins a field with its name and colon.
func NewFolder(name string) *Folder {
	f := &Folder{column: len(name)}
	f.b.WriteString(name)
	return f
}

// Add writes a word, on a new line where it does not fit.
func (f *Folder) Add(word string) {
	if f.column+1+len(word) > lineOctets {
		f.b.WriteString("\r\n\t")
		f.column = 8
	} else {
		f.b.WriteByte(' ')
		f.column++
	}
	f.b.WriteString(word)
	f.column += len(word)
}

// Names writes a tag with a list of names of header fields, broken into lines
// only where one is not enough.
func (f *Folder) Names(tag string, names []string) {
	if whole := tag + strings.Join(names, ":") + ";"; len(whole) <= lineOctets-8 {
		f.Add(whole)
		return
	}
	for i, name := range names {
		word := name + ":"
		if i == len(names)-1 {
			word = name + ";"
		}
		if i == 0 {
			f.Add(tag + word)
			continue
		}
		if f.column+len(word) > lineOctets {
			f.b.WriteString("\r\n\t")
			f.column = 8
		}
		f.b.WriteString(word)
		f.column += len(word)
	}
}

// String returns the field so far.
func (f *Folder) String() string { return f.b.String() }

// Base64 writes a tag whose value is base64, on lines of its own.
func (f *Folder) Base64(tag, value, end string) {
	text, width := tag+value, f.Base64Octets
	if width == 0 {
		width = 72
	}
	for len(text) > 0 {
		n := min(len(text), width)
		f.b.WriteString("\r\n\t" + text[:n])
		f.column = 8 + n
		text = text[n:]
	}
	f.b.WriteString(end)
	f.column += len(end)
}

// With returns the field with one more tag of base64 at its end. It leaves the
// Folder as it was.
func (f *Folder) With(tag, value string) string {
	end := Folder{}
	end.Base64(tag, value, "")
	return f.String() + end.String()
}

package index

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/directory"
)

// dictionary numbers texts that many entries share. It only grows: a number
// stays good for readers that left the lock.
type dictionary struct {
	texts  []string
	byText map[string]uint32
}

func newDictionary() dictionary { return dictionary{byText: map[string]uint32{}} }

func (d *dictionary) clone() dictionary {
	return dictionary{slices.Clone(d.texts), maps.Clone(d.byText)}
}

func (d *dictionary) add(text string) uint32 {
	n, ok := d.byText[text]
	if !ok {
		n = uint32(len(d.texts))
		text = strings.Clone(text)
		d.texts = append(d.texts, text)
		d.byText[text] = n
	}
	return n
}

// view is what reading a slot needs, good without the lock: nothing in it is
// ever changed in place.
type view struct {
	names []string
	lists []string
	above []parent
}

func (s *Set) viewLocked() view { return view{s.names.texts, s.lists.texts, s.above} }

// placeLocked splits a name into what stands before the first comma that
// separates, and the number of the rest. A name whose spelling does not split as
// its key does is kept whole.
func (s *Set) placeLocked(dn directory.DN, key string) (above uint32, rdn string) {
	written := string(dn)
	rest := ""
	rdn = written
	for i := 0; i < len(written); i++ {
		if written[i] == '\\' {
			i++
			continue
		}
		if written[i] == ',' {
			rdn, rest = written[:i], written[i+1:]
			break
		}
	}
	up := directory.ParentKey(key)
	if rest == "" || directory.DN(rdn).Key()+","+up != key {
		rest, rdn = "", written
	}
	if rest != "" {
		if n, ok := s.aboves[rest]; ok {
			return n, rdn
		}
		if directory.DN(rest).Key() != up {
			rest, rdn = "", written
		}
	}
	// Names kept whole that have the same key above share a number as well.
	name := rest
	if rest == "" {
		name = "\x00" + up
	}
	n, ok := s.aboves[name]
	if !ok {
		n = uint32(len(s.above))
		name, up = strings.Clone(name), strings.Clone(up)
		p := parent{key: up}
		if rest != "" {
			p.written = name
		}
		s.above = append(s.above, p)
		s.aboves[name] = n
	}
	return n, rdn
}

// packLocked writes an entry as: its own part of the name, then for each
// attribute its number, how many values it has, and each with its length. Object
// classes are one number, that of the list.
func (s *Set) packLocked(rdn string, e directory.Entry) string {
	size := len(rdn) + 3
	e.Each(func(_ string, values []string) {
		size += 4
		for _, v := range values {
			size += len(v) + 2
		}
	})
	text := make([]byte, 0, size)
	text = appendText(text, rdn)
	e.Each(func(attribute string, values []string) {
		if len(values) == 0 {
			return
		}
		text = binary.AppendUvarint(text, uint64(s.names.add(attribute)))
		if attribute == classes {
			text = binary.AppendUvarint(text, uint64(s.lists.add(strings.Join(values, "\n"))))
			return
		}
		text = binary.AppendUvarint(text, uint64(len(values)))
		for _, v := range values {
			text = appendText(text, v)
		}
	})
	return string(text)
}

const classes = "objectclass"

func appendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// unpack returns the entry of a slot, whose values are parts of its text.
func (v view) unpack(one slot) directory.Entry {
	r := reader{text: one.text}
	dn := r.string()
	if up := v.above[one.above].written; up != "" {
		dn += "," + up
	}
	start := r.at
	attributes, values := 0, 0
	for r.at < len(r.text) {
		attributes++
		name, n := r.number(), r.number()
		if v.names[name] == classes {
			values += strings.Count(v.lists[n], "\n") + 1
			continue
		}
		values += n
		for range n {
			r.at += r.number()
		}
	}
	r.at = start
	list, all := make([]directory.Attribute, 0, attributes), make([]string, 0, values)
	for r.at < len(r.text) {
		name, n, first := r.number(), r.number(), len(all)
		if v.names[name] == classes {
			for class := range strings.SplitSeq(v.lists[n], "\n") {
				all = append(all, class)
			}
		} else {
			for range n {
				all = append(all, r.string())
			}
		}
		list = append(list, directory.Attribute{Type: v.names[name], Values: all[first:len(all):len(all)]})
	}
	return directory.EntryOf(directory.DN(dn), list)
}

// key returns the key of a slot's DN.
func (v view) key(one slot) string {
	up := v.above[one.above]
	r := reader{text: one.text}
	rdn := r.string()
	if up.written == "" {
		return directory.DN(rdn).Key() // the whole name
	}
	return directory.DN(rdn).Key() + "," + up.key
}

// inScope reports whether a slot lies where a search looks. It reads the name
// only where the entry may be the base itself.
func (v view) inScope(one slot, base string, scope directory.Scope) bool {
	up := v.above[one.above].key
	isBase := func() bool { return up == directory.ParentKey(base) && v.key(one) == base }
	switch scope {
	case directory.ScopeBase:
		return isBase()
	case directory.ScopeOne:
		return up == base && !isBase()
	default:
		return base == "" || up != "" && directory.KeyUnder(up, base) || isBase()
	}
}

// reader reads a packed text. What it reads was packed here.
type reader struct {
	text string
	at   int
}

func (r *reader) number() int {
	n := 0
	for shift := 0; ; shift += 7 {
		c := r.text[r.at]
		r.at++
		n |= int(c&0x7f) << shift
		if c < 0x80 {
			return n
		}
	}
}

func (r *reader) string() string {
	n := r.number()
	r.at += n
	return r.text[r.at-n : r.at]
}

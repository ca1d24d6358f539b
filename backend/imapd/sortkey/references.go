package sortkey

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
)

// references are the ancestors of a message: those of its References, else the
// first Message-ID of In-Reply-To (RFC 5256 section 3). What stands in angle
// brackets there is often no Message-ID, so that one without "@" is none.
func references(header []byte, inReplyTo string) []uint64 {
	ids := messageIDs(nil, fieldValue(header, "references"), 0)
	if len(ids) == 0 {
		ids = answered(inReplyTo)
	}
	if n := len(ids); n > maxReferences {
		ids = slices.Clone(ids[n-maxReferences:])
	}
	return slices.Clip(ids)
}

func answered(inReplyTo string) []uint64 {
	for s := inReplyTo; ; {
		id, rest, ok := cutID(s)
		if !ok {
			return nil
		}
		if strings.Contains(id, "@") {
			return []uint64{number(id)}
		}
		s = rest
	}
}

// messageIDs appends the numbers of the Message-IDs in s, so many at most, or
// all for 0.
func messageIDs(dst []uint64, s string, most int) []uint64 {
	for {
		id, rest, ok := cutID(s)
		if !ok || most > 0 && len(dst) == most {
			return dst
		}
		dst, s = append(dst, number(id)), rest
	}
}

// cutID finds the next "<...>" that is not empty.
func cutID(s string) (id, rest string, ok bool) {
	for {
		_, after, found := strings.Cut(s, "<")
		if !found {
			return "", "", false
		}
		end := strings.IndexAny(after, "<>")
		switch {
		case end < 0:
			return "", "", false
		case after[end] == '<', end == 0:
			s = after[end:]
		default:
			return after[:end], after[end+1:], true
		}
	}
}

// number is the same for all ways to write one Message-ID: quotes around the
// left side and white space do not count. It is kept with the key, and so the
// same for ever; nobody makes a Message-ID that has another one's number.
func number(id string) uint64 {
	if strings.ContainsAny(id, "\"\\ \t\r\n") {
		id = strings.Map(func(r rune) rune {
			if strings.ContainsRune("\"\\ \t\r\n", r) {
				return -1
			}
			return r
		}, id)
	}
	sum := sha256.Sum256([]byte(id))
	return max(binary.BigEndian.Uint64(sum[:]), 1)
}

// fieldValue returns the value of the first field with that name, which is in
// lower case.
func fieldValue(header []byte, name string) string {
	for len(header) > 0 {
		end := bytes.IndexByte(header, '\n') + 1
		if end == 0 {
			end = len(header)
		}
		if len(header) <= len(name) || header[0]|0x20 != name[0] || !strings.EqualFold(string(header[:len(name)]), name) {
			header = header[end:]
			continue
		}
		for end < len(header) && (header[end] == ' ' || header[end] == '\t') {
			more := bytes.IndexByte(header[end:], '\n') + 1
			if more == 0 {
				more = len(header) - end
			}
			end += more
		}
		value := bytes.TrimLeft(header[len(name):end], " \t")
		if len(value) > 0 && value[0] == ':' {
			return string(value[1:])
		}
		header = header[end:]
	}
	return ""
}

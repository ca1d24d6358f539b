package imaptest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// response is one untagged response.
type response struct {
	kind    string // "FETCH", "EXISTS", "VANISHED", "OK", "LIST" ...
	number  uint64 // of "* 5 EXISTS"
	code    string // of "* OK [...]", without brackets
	text    string // what follows the kind
	earlier bool   // of VANISHED
	uids    []Range
	message Message // of FETCH
	// shows says which fields of message a FETCH had.
	showsFlags bool
}

// Range is a run of UIDs, both ends included.
type Range struct{ First, Last uint32 }

func parseResponse(line string) (r response, err error) {
	rest, ok := strings.CutPrefix(line, "* ")
	if !ok {
		if strings.HasPrefix(line, "+") {
			return response{kind: "+"}, nil
		}
		return r, fmt.Errorf("%.80q: %w", line, errProtocol)
	}
	word, rest, _ := strings.Cut(rest, " ")
	if n, err := strconv.ParseUint(word, 10, 32); err == nil {
		r.number = n
		word, rest, _ = strings.Cut(rest, " ")
	}
	r.kind, r.text = strings.ToUpper(word), rest
	switch r.kind {
	case "OK", "NO", "BAD", "BYE", "PREAUTH":
		r.code = codeOf(rest)
	case "VANISHED":
		rest, r.earlier = strings.CutPrefix(rest, "(EARLIER) ")
		r.uids, err = parseSet(rest)
	case "FETCH":
		err = r.parseFetch(rest)
	}
	return r, err
}

// codeOf returns the response code of "[CODE arguments] text".
func codeOf(text string) string {
	if !strings.HasPrefix(text, "[") {
		return ""
	}
	code, _, _ := strings.Cut(text[1:], "]")
	return code
}

// codeNumber finds "NAME number" in a response code.
func codeNumber(code, name string) (uint64, bool) {
	text, ok := strings.CutPrefix(code, name+" ")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 63)
	return n, err == nil
}

func parseSet(s string) ([]Range, error) {
	var set []Range
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, isRange := strings.Cut(part, ":")
		if !isRange {
			hi = lo
		}
		first, err := strconv.ParseUint(lo, 10, 32)
		last, err2 := strconv.ParseUint(hi, 10, 32)
		if err != nil || err2 != nil || first == 0 || last < first {
			return nil, fmt.Errorf("set %.80q: %w", s, errProtocol)
		}
		set = append(set, Range{uint32(first), uint32(last)})
	}
	return set, nil
}

// formatSet writes UIDs in ascending order as a set.
func formatSet(uids []uint32) string {
	var b strings.Builder
	for i := 0; i < len(uids); {
		run := i + 1
		for run < len(uids) && uids[run] == uids[run-1]+1 {
			run++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprint(&b, uids[i])
		if run > i+1 {
			fmt.Fprintf(&b, ":%d", uids[run-1])
		}
		i = run
	}
	return b.String()
}

// parseFetch reads the items of a FETCH response.
func (r *response) parseFetch(s string) error {
	bad := fmt.Errorf("FETCH %.100q: %w", s, errProtocol)
	items, ok := strings.CutPrefix(s, "(")
	if !ok || !strings.HasSuffix(items, ")") {
		return bad
	}
	items = items[:len(items)-1]
	for items != "" {
		name, rest, ok := cutName(items)
		if !ok {
			return bad
		}
		value, rest, ok := cutValue(rest)
		if !ok {
			return bad
		}
		items = strings.TrimPrefix(rest, " ")
		if err := r.item(name, value); err != nil {
			return bad
		}
	}
	return nil
}

func (r *response) item(name, value string) (err error) {
	var n uint64
	m := &r.message
	switch {
	case name == "UID":
		n, err = strconv.ParseUint(value, 10, 32)
		m.UID = uint32(n)
	case name == "MODSEQ":
		m.ModSeq, err = strconv.ParseUint(value, 10, 63)
	case name == "FLAGS":
		r.showsFlags = true
		m.Flags = strings.Fields(value)
		m.Flags = slices.DeleteFunc(m.Flags, func(f string) bool { return f == `\Recent` })
		slices.Sort(m.Flags)
	case name == "EMAILID":
		m.EmailID = value
	case strings.HasPrefix(name, "BODY[HEADER"):
		m.Content = contentOf(value)
	}
	return err
}

// cutName reads an item's name, which may have blanks in brackets.
func cutName(s string) (name, rest string, ok bool) {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '[':
			depth++
		case ']':
			depth--
		case ' ':
			if depth == 0 {
				return strings.ToUpper(s[:i]), s[i+1:], i > 0
			}
		}
	}
	return "", "", false
}

// cutValue reads an item's value: the inside of a list, a string or an atom.
func cutValue(s string) (value, rest string, ok bool) {
	switch {
	case strings.HasPrefix(s, "("):
		depth := 0
		for i := range len(s) {
			switch s[i] {
			case '(':
				depth++
			case ')':
				if depth--; depth == 0 {
					return s[1:i], s[i+1:], true
				}
			}
		}
		return "", "", false
	case strings.HasPrefix(s, `"`):
		value, rest, ok = strings.Cut(s[1:], `"`)
		return value, rest, ok
	case strings.HasPrefix(s, "{"):
		head, tail, found := strings.Cut(s, "\r\n")
		n, isLiteral := literalSize([]byte(head))
		if !found || !isLiteral || n > len(tail) {
			return "", "", false
		}
		return tail[:n], tail[n:], true
	}
	value, rest, _ = strings.Cut(s, " ")
	return value, rest, value != ""
}

const contentDomain = "@imaptest.invalid>"

// Content is a small message that stands for the name id, which must be an
// atom, for ever; octets is about how large it is.
func Content(id string, octets int) string {
	head := "From: imaptest <imaptest@imaptest.invalid>\r\nSubject: " + id + "\r\nMessage-ID: <" + id + contentDomain + "\r\n\r\n"
	body := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz\r\n", max(1, (octets-len(head))/38))
	return head + body
}

// contentOf finds the name in the header fields of a message made by Content,
// "?" for any other.
func contentOf(header string) string {
	_, id, ok := strings.Cut(header, "<")
	if !ok {
		return "?"
	}
	id, _, _ = strings.Cut(strings.TrimSpace(id), "@")
	return id
}

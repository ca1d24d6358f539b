package table

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
)

// text is a table of fixed keys.
type text map[string][]string

// find implements content.
func (t text) find(key string) ([]string, error) {
	if values, found := t[key]; found {
		return values, nil
	}
	if folded := FoldKey(key); folded != key {
		return t[folded], nil
	}
	return nil, nil
}

// readText reads lines of a key, white space and what it stands for.
func readText(n *notes, r io.Reader, use Use) content {
	t, at := make(text), make(map[string]int)
	n.eachLine(r, func(e entry) {
		key, value, closed := splitEntry(e.text)
		switch {
		case !closed:
			n.mistake(e.line, errNotClosed)
		case strings.HasSuffix(key, ":") && len(key) > 1:
			n.mistake(e.line, fmt.Errorf(`%s: "name: value" is the notation of aliases; take the colon out`, use.show(key)))
		default:
			t.add(n, at, e.line, key, value, use)
		}
	})
	return t
}

// add takes in one entry.
func (t text) add(n *notes, at map[string]int, line int, key, value string, use Use) {
	if value == "" {
		n.mistake(line, fmt.Errorf("%s stands for nothing: write a value after it", use.show(key)))
		return
	}
	if use.Key != nil {
		if err := use.Key(key); err != nil {
			n.mistake(line, err)
			return
		}
	}
	values, err := use.values(value)
	if err != nil {
		n.mistake(line, err)
		return
	}
	folded := FoldKey(key)
	if first := at[folded]; first > 0 {
		n.mistake(line, fmt.Errorf("%s stands at line %d already; keep one of the two", use.show(key), first))
		return
	}
	t[folded], at[folded] = values, line
}

// FoldKey writes a key in the form in which tables hold it: small letters,
// domains outside of ASCII in A-labels, and no quotes around a local-part that
// needs none.
func FoldKey(key string) string {
	if isPlain(key) {
		return key
	}
	if a, err := mail.ParseAddress(key); err == nil {
		return a.Fold().String()
	}
	bare := strings.TrimLeft(key, "@.")
	if mark := key[:len(key)-len(bare)]; bare != "" {
		if d, err := mail.ParseDomain(bare); err == nil {
			return mark + string(d)
		}
	}
	return strings.ToLower(key)
}

// isPlain reports whether FoldKey has nothing to do.
func isPlain(key string) bool {
	for i := 0; i < len(key); i++ {
		if c := key[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' || c == '"' {
			return false
		}
	}
	return true
}

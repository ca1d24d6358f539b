package ldif

import (
	"encoding/base64"
	"io"
	"slices"
	"strings"

	"github.com/postern-mail/postern/directory"
)

// maxLine is where lines are folded (RFC 2849 note 2).
const maxLine = 76

// WriteEntry writes an entry, attributes and values in order, with an empty line
// after it. What Parse makes of it is the entry.
func WriteEntry(w io.Writer, e directory.Entry) error {
	var lines []string
	e.Each(func(attribute string, values []string) {
		for _, v := range values {
			lines = append(lines, attributeLine(attribute, v))
		}
	})
	slices.Sort(lines)
	_, err := io.WriteString(w, attributeLine("dn", string(e.DN))+strings.Join(lines, "")+"\n")
	return err
}

// attributeLine returns an attribute with one value, folded, in base64 where the value
// is not safe as it is (RFC 2849).
func attributeLine(attribute, v string) string {
	text := attribute + ": " + v
	if !isSafe(v) {
		text = attribute + ":: " + base64.StdEncoding.EncodeToString([]byte(v))
	}
	var b strings.Builder
	for limit := maxLine; len(text) > limit; limit = maxLine - 1 {
		b.WriteString(text[:limit] + "\n ")
		text = text[limit:]
	}
	b.WriteString(text + "\n")
	return b.String()
}

func isSafe(v string) bool {
	if v == "" {
		return true
	}
	if strings.IndexByte(" :<", v[0]) >= 0 || v[len(v)-1] == ' ' {
		return false
	}
	return !strings.ContainsFunc(v, func(r rune) bool { return r == 0 || r == '\n' || r == '\r' || r >= 0x7f })
}

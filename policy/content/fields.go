package content

import (
	"bytes"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// Split finds the fields at the beginning of a message, of which section holds
// the whole lines up to its first empty one at least, and how many octets they
// take. A line that neither is a field nor continues one ends the header, as it
// does for Postfix, even where fields follow it.
func Split(section []byte) (fields []mail.Field, octets int) {
	end, count := 0, 0
	for end < len(section) {
		line := section[end:]
		if at := bytes.IndexByte(line, '\n'); at >= 0 {
			line = line[:at+1]
		}
		if line[0] != ' ' && line[0] != '\t' {
			if !isField(line) {
				break
			}
			count++
		} else if count == 0 {
			break
		}
		end += len(line)
	}
	if count == 0 {
		return nil, 0
	}
	// One string for all of them: they are kept, and go, together.
	text := string(section[:end])
	fields = make([]mail.Field, 0, count)
	for from := 0; from < len(text); {
		to := from
		for to < len(text) {
			at := strings.IndexByte(text[to:], '\n')
			if at < 0 {
				to = len(text)
				break
			}
			if to += at + 1; to == len(text) || text[to] != ' ' && text[to] != '\t' {
				break
			}
		}
		fields = append(fields, mail.Field(strings.TrimRight(text[from:to], "\r\n")))
		from = to
	}
	return fields, end
}

// isField reports whether a line begins as a field does: with a name of
// printable ASCII, perhaps white space, and a colon.
func isField[T string | []byte](line T) bool {
	i := 0
	for i < len(line) && line[i] > ' ' && line[i] < 0x7f && line[i] != ':' {
		i++
	}
	named := i > 0
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	return named && i < len(line) && line[i] == ':'
}

// Package maildir reads and writes mailboxes as Maildir: Maildir++ with folders
// such as ".Work.Plans" as Dovecot and Courier write it, and plain trees of
// Maildirs. Of Dovecot's files it knows dovecot-keywords, dovecot-uidlist and
// subscriptions. A message is a file; its flags are in the file's name.
package maildir

import (
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/utf7"
)

// folderName turns the name of a Maildir++ folder (".Work.Plans") into a
// mailbox's. Levels are in modified UTF-7, or in UTF-8 where they are not.
func folderName(dir string) (string, bool) {
	levels := strings.Split(strings.TrimPrefix(dir, "."), ".")
	for i, level := range levels {
		if level == "" || !utf8.ValidString(level) {
			return "", false
		}
		if name, err := utf7.Decode(level); err == nil && utf8.ValidString(name) {
			levels[i] = name
		}
		if levels[i] == "" || strings.Contains(levels[i], "/") {
			return "", false
		}
	}
	name := strings.Join(levels, "/")
	if strings.EqualFold(name, "INBOX") {
		return "", false // the Maildir itself is INBOX
	}
	return name, true
}

// dirName is the reverse. ok is false for a name that Maildir++ cannot write: a
// "." would part levels, so it becomes part of a shift.
func dirName(name string) string {
	var b strings.Builder
	for _, level := range strings.Split(name, "/") {
		b.WriteByte('.')
		b.WriteString(strings.ReplaceAll(utf7.Encode(level), ".", "&AC4-"))
	}
	return b.String()
}

// treeName turns the path of a Maildir below another into a mailbox's name.
func treeName(rel string) (string, bool) {
	levels := strings.Split(rel, "/")
	for i, level := range levels {
		if !utf8.ValidString(level) {
			return "", false
		}
		if name, err := utf7.Decode(level); err == nil && utf8.ValidString(name) && name != "" && !strings.Contains(name, "/") {
			levels[i] = name
		}
	}
	if strings.EqualFold(levels[0], "INBOX") {
		levels[0] = "INBOX"
	}
	return path.Join(levels...), true
}

// file is what the name of a message's file tells.
type file struct {
	base  string // up to ":", the same as long as the message is there
	flags string // letters behind ":2,"
	size  int64  // S= or, with CRLF, W=; 0 where it is not told
	at    time.Time
}

func parseFile(name string) file {
	f := file{}
	var found bool
	if f.base, f.flags, found = strings.Cut(name, ":2,"); !found {
		f.base, f.flags, _ = strings.Cut(name, ";2,") // on file systems without colons
	}
	f.flags, _, _ = strings.Cut(f.flags, ",")
	for _, part := range strings.Split(f.base, ",")[1:] {
		if n, err := strconv.ParseInt(strings.TrimPrefix(part, "W="), 10, 64); err == nil && strings.HasPrefix(part, "W=") && n >= 0 {
			f.size = n
		}
	}
	seconds, _, _ := strings.Cut(f.base, ".")
	if n, err := strconv.ParseInt(seconds, 10, 64); err == nil && n > 0 && n < 1<<36 {
		f.at = time.Unix(n, 0).UTC()
	}
	return f
}

// letters pairs the letters of flags with IMAP's.
var letters = []struct {
	letter byte
	flag   string
}{
	{'D', `\Draft`}, {'F', `\Flagged`}, {'P', "$Forwarded"}, {'R', `\Answered`}, {'S', `\Seen`}, {'T', `\Deleted`},
}

// maxLetters is how many keywords have a letter: a to z.
const maxLetters = 26

// flagsOf reads letters; keywords are those of dovecot-keywords by letter.
func flagsOf(text string, keywords []string) []string {
	var flags []string
	seen := make(map[string]bool)
	add := func(f string) {
		if f != "" && !seen[f] {
			seen[f] = true
			flags = append(flags, f)
		}
	}
	for i := range len(text) {
		c := text[i]
		for _, l := range letters {
			if l.letter == c {
				add(l.flag)
			}
		}
		if c >= 'a' && c <= 'z' && int(c-'a') < len(keywords) {
			add(keywords[c-'a'])
		}
	}
	return flags
}

// parseKeywords reads dovecot-keywords: lines of number and name.
func parseKeywords(text string) []string {
	keywords := make([]string, maxLetters)
	for line := range strings.Lines(text) {
		number, name, found := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		if n, err := strconv.Atoi(number); found && err == nil && n >= 0 && n < maxLetters {
			keywords[n] = name
		}
	}
	return keywords
}

// uidList is what dovecot-uidlist tells.
type uidList struct {
	validity, next uint32
	uids           map[string]uint32 // by base name
}

// parseUIDList reads version 3, and version 1 of old Dovecots. What cannot be
// read is left out; without a UIDVALIDITY nothing is told.
func parseUIDList(text string) uidList {
	list := uidList{uids: make(map[string]uint32)}
	first := true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if first {
			first = false
			list.head(strings.Fields(line))
			continue
		}
		number, rest, found := strings.Cut(line, " ")
		uid, err := strconv.ParseUint(number, 10, 32)
		if !found || err != nil || uid == 0 {
			continue
		}
		name := rest
		if i := strings.LastIndex(" "+rest, " :"); i >= 0 {
			name = (" " + rest)[i+2:]
		}
		list.uids[parseFile(name).base] = uint32(uid)
	}
	if list.validity == 0 {
		return uidList{}
	}
	return list
}

func (l *uidList) head(fields []string) {
	if len(fields) == 0 {
		return
	}
	number := func(s string) uint32 {
		n, _ := strconv.ParseUint(s, 10, 32) // 0 tells nothing
		return uint32(n)
	}
	if fields[0] == "1" && len(fields) == 3 {
		l.validity, l.next = number(fields[1]), number(fields[2])
		return
	}
	for _, f := range fields[1:] {
		switch {
		case strings.HasPrefix(f, "V"):
			l.validity = number(f[1:])
		case strings.HasPrefix(f, "N"):
			l.next = number(f[1:])
		}
	}
}

// parseSubscriptions reads Dovecot's subscriptions, of both versions, and
// Courier's courierimapsubscribed.
func parseSubscriptions(text string) []string {
	var names []string
	lines := strings.Split(text, "\n")
	tabs := false
	if len(lines) > 0 && strings.HasPrefix(lines[0], "V\t2") {
		tabs, lines = true, lines[1:]
	}
	for _, line := range lines {
		line = strings.TrimRight(line, "\r")
		if line == "" {
			continue
		}
		if strings.EqualFold(line, "INBOX") {
			names = append(names, "INBOX")
			continue
		}
		line = strings.TrimPrefix(line, "INBOX.")
		var name string
		var ok bool
		if tabs {
			name, ok = tabbedName(line)
		} else {
			name, ok = folderName(strings.ReplaceAll(line, "/", "."))
		}
		if ok {
			names = append(names, name)
		}
	}
	return names
}

// tabbedName reads a line of version 2: levels with tabs between them, and
// octets that would be in the way escaped with 0x01.
func tabbedName(line string) (string, bool) {
	levels := strings.Split(line, "\t")
	unescape := strings.NewReplacer("\x01"+"1", "\x01", "\x01"+"0", "\x00", "\x01"+"t", "\t", "\x01"+"n", "\n", "\x01"+"r", "\r")
	for i, level := range levels {
		level = unescape.Replace(level)
		if name, err := utf7.Decode(level); err == nil {
			level = name
		}
		if level == "" || !utf8.ValidString(level) || strings.Contains(level, "/") {
			return "", false
		}
		levels[i] = level
	}
	return strings.Join(levels, "/"), true
}

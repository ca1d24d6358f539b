package imapd

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func unquoteOctet(s string) (value rune, multibyte bool, tail string, err error) {
	return strconv.UnquoteChar(s, 0)
}

// canonicalAnswer brings an answer into one form: what the RFCs leave to the
// server is the same then. The words of people, MAILBOXID, \Recent and RECENT, which went
// with IMAP4rev2, are left out; so are UIDVALIDITY, mod-sequences and tags.
// Flags, rights, pairs of items and answers to LIST, SELECT and STATUS are
// sorted. Attributes that an extended LIST did not ask for are left out.
func canonicalAnswer(command string, raw []string) []string {
	var lines []string
	for _, line := range raw {
		if line = canonicalLine(line); line != "" {
			lines = append(lines, line)
		}
	}
	verb, arguments, _ := strings.Cut(strings.ToUpper(strings.TrimLeft(command, "+=<>")), " ")
	if verb == "LSUB" || verb == "LIST" && (strings.HasPrefix(arguments, "(") || strings.Contains(arguments, "RETURN")) && !strings.Contains(arguments, "CHILDREN") {
		for i := range lines {
			lines[i] = strings.Replace(unasked.ReplaceAllString(lines[i], ""), " )", ")", 1)
		}
	}
	if strings.HasPrefix(command, ">") { // commands under way together are answered in any order
		slices.Sort(lines)
	} else if slices.Contains([]string{"SELECT", "EXAMINE", "LIST", "LSUB", "STATUS", "GETMETADATA", "GETACL", "NAMESPACE", "GETQUOTAROOT", "NOTIFY"}, verb) && len(lines) > 1 {
		slices.Sort(lines[:len(lines)-1])
	}
	return lines
}

// needless attributes say nothing: \NonExistent is always with \Noselect.
var needless = map[string]bool{`\NonExistent`: true, `\Marked`: true, `\UnMarked`: true}

// unasked are the attributes of a LIST that asks for other things.
var unasked = regexp.MustCompile(`\\(?:HasChildren|HasNoChildren|Drafts|Sent|Junk|Trash|Noselect) ?`)

func canonicalLine(line string) string {
	untagged, isUntagged := strings.CutPrefix(line, "* ")
	if strings.HasPrefix(line, "+") {
		return "+"
	}
	first, rest, _ := strings.Cut(untagged, " ")
	if slices.Contains([]string{"OK", "NO", "BAD", "BYE", "PREAUTH"}, first) {
		code := canonicalCode(rest)
		if isUntagged && first == "OK" && code == "" {
			return ""
		}
		return first + code
	}
	words, ok := parseWords(untagged)
	if !ok || len(words) == 0 {
		return untagged
	}
	switch first {
	case "SEARCH", "SORT":
		return ownModSeq.ReplaceAllString(untagged, "(MODSEQ n)")
	case "CAPABILITY":
		return "CAPABILITY" // docs/rfc.md has ours
	case "LIST", "LSUB":
		words[1].list = slices.DeleteFunc(words[1].list, func(w word) bool { return needless[w.text] })
		sortFlagWords(words[1].list)
	case "MYRIGHTS":
		words[len(words)-1].sortLetters()
	case "ACL":
		for i := 3; i < len(words); i += 2 {
			words[i].sortLetters()
		}
	case "LISTRIGHTS":
		sortFlagWords(words[4:])
	case "FLAGS":
		sortFlagWords(words[1].list)
	case "STATUS":
		sortPairs(words[len(words)-1].list)
	case "ESEARCH":
		return canonicalESearch(words)
	}
	if len(words) > 1 && words[1].text == "RECENT" {
		return ""
	}
	if len(words) > 2 && words[1].text == "FETCH" {
		sortPairs(words[2].list)
	}
	return joinWords(words)
}

var (
	ownNumbersInCode = regexp.MustCompile(`^(UIDVALIDITY|HIGHESTMODSEQ|APPENDUID|COPYUID) \d+`)
	ownModSeq        = regexp.MustCompile(`\(MODSEQ \d+\)`)
)

// canonicalCode is the response code at the start of a text, with a space
// before it, or "".
func canonicalCode(text string) string {
	code, _, ok := strings.Cut(strings.TrimPrefix(text, "["), "] ")
	if !ok || !strings.HasPrefix(text, "[") {
		return ""
	}
	name, _, _ := strings.Cut(code, " ")
	switch name {
	case "MAILBOXID": // Dovecot has none
		return ""
	case "CAPABILITY":
		return " [CAPABILITY]"
	case "PERMANENTFLAGS":
		words, _ := parseWords(code)
		sortFlagWords(words[1].list)
		return " [" + joinWords(words) + "]"
	}
	return " [" + ownNumbersInCode.ReplaceAllString(code, "$1 n") + "]"
}

func canonicalESearch(words []word) string {
	rest := words[1:]
	if len(rest) > 0 && rest[0].isList {
		rest = rest[1:]
	}
	uid := len(rest) > 0 && rest[0].text == "UID"
	if uid {
		rest = rest[1:]
	}
	sortPairs(rest)
	if uid {
		return "ESEARCH UID " + joinWords(rest)
	}
	return "ESEARCH " + joinWords(rest)
}

// word is a value of a response: an atom, a string or a list.
type word struct {
	text   string
	quoted bool
	isList bool
	list   []word
}

func (w word) String() string {
	switch {
	case w.isList:
		return "(" + joinWords(w.list) + ")"
	case w.quoted && plainWord.MatchString(w.text) && strings.ToUpper(w.text) != "NIL":
		return w.text // quoted or not, it is the same
	case w.quoted:
		return strconv.QuoteToASCII(w.text)
	}
	return w.text
}

func (w *word) sortLetters() {
	letters := []byte(w.text)
	slices.Sort(letters)
	w.text = string(letters)
}

var plainWord = regexp.MustCompile("^[!#$&'+-Z^-z|}~]+$")

func joinWords(words []word) string {
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = w.String()
	}
	return strings.Join(texts, " ")
}

func sortFlagWords(words []word) {
	slices.SortFunc(words, func(a, b word) int { return strings.Compare(strings.ToLower(a.String()), strings.ToLower(b.String())) })
}

// sortPairs sorts items by their names, and flags inside, and takes out the
// numbers that every server has of its own.
func sortPairs(words []word) {
	var pairs [][2]word
	for i := 0; i+1 < len(words); i += 2 {
		name, value := words[i], words[i+1]
		name.text = strings.ToUpper(name.text)
		switch name.text {
		case "FLAGS":
			value.list = slices.DeleteFunc(value.list, func(w word) bool { return w.text == `\Recent` })
			sortFlagWords(value.list)
		case "MODSEQ", "HIGHESTMODSEQ", "UIDVALIDITY", "SAVEDATE":
			value = word{text: "n"}
		case "RECENT":
			value = word{text: "0"}
		}
		pairs = append(pairs, [2]word{name, value})
	}
	slices.SortFunc(pairs, func(a, b [2]word) int { return strings.Compare(a[0].text, b[0].text) })
	for i, p := range pairs {
		words[2*i], words[2*i+1] = p[0], p[1]
	}
}

// parseWords reads the values of a response.
func parseWords(s string) ([]word, bool) {
	r := &wordReader{s: s}
	words := r.words()
	return words, r.s == "" && !r.bad
}

type wordReader struct {
	s   string
	bad bool
}

func (r *wordReader) words() []word {
	var words []word
	for r.s != "" && r.s[0] != ')' && !r.bad {
		if r.s[0] == ' ' {
			r.s = r.s[1:]
			continue
		}
		words = append(words, r.word())
	}
	return words
}

var literalMarkStart = regexp.MustCompile(`^~?\{(\d+)\}\r\n`)

func (r *wordReader) word() word {
	if m := literalMarkStart.FindStringSubmatch(r.s); m != nil {
		n, err := strconv.Atoi(m[1])
		if r.s = r.s[len(m[0]):]; err == nil && n <= len(r.s) {
			w := word{text: r.s[:n], quoted: true}
			r.s = r.s[n:]
			return w
		}
		r.bad = true
		return word{}
	}
	switch r.s[0] {
	case '(':
		r.s = r.s[1:]
		w := word{isList: true, list: r.words()}
		if !strings.HasPrefix(r.s, ")") {
			r.bad = true
			return w
		}
		r.s = r.s[1:]
		return w
	case '"':
		return r.quoted()
	}
	return r.atom()
}

func (r *wordReader) quoted() word {
	var text []byte
	for i := 1; i < len(r.s); i++ {
		switch r.s[i] {
		case '"':
			r.s = r.s[i+1:]
			return word{text: string(text), quoted: true}
		case '\\':
			i++
		}
		if i < len(r.s) {
			text = append(text, r.s[i])
		}
	}
	r.bad = true
	return word{}
}

// atom reads up to a space or a parenthesis; those in brackets belong to it.
func (r *wordReader) atom() word {
	depth, i := 0, 0
	for ; i < len(r.s); i++ {
		c := r.s[i]
		if c == '[' {
			depth++
		} else if c == ']' && depth > 0 {
			depth--
		}
		if depth == 0 && (c == ' ' || c == ')' || c == '(') {
			break
		}
	}
	w := word{text: r.s[:i]}
	if r.s = r.s[i:]; i == 0 {
		r.bad = true
	}
	return w
}

// dialogueDifference is what only one of the servers told.
type dialogueDifference struct{ where, theirs, ours string }

func compareAnswers(where string, theirs, ours []string) (dialogueDifference, bool) {
	if slices.Equal(theirs, ours) {
		return dialogueDifference{}, false
	}
	d := dialogueDifference{where, onlyIn(theirs, ours), onlyIn(ours, theirs)}
	if d.theirs == d.ours {
		d.theirs, d.ours = "in the order "+strings.Join(theirs, " / "), "in the order "+strings.Join(ours, " / ")
	}
	return d, true
}

// onlyIn lists what a has more often than b.
func onlyIn(a, b []string) string {
	rest := slices.Clone(b)
	var only []string
	for _, line := range a {
		if i := slices.Index(rest, line); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		only = append(only, line)
	}
	if len(only) == 0 {
		return "-"
	}
	return strings.Join(only, " / ")
}

// dialogueTable are the rows of the tables in docs/imap-dialogues.md.
type dialogueTable struct {
	rows   map[string][3]*regexp.Regexp
	unused map[string]bool
}

// readDialogueTable reads rows "| `where` | `Dovecot` | `Postern` | why |"; …
// stands for anything.
func readDialogueTable(t *testing.T) *dialogueTable {
	t.Helper()
	text, err := os.ReadFile("../../docs/imap-dialogues.md")
	if err != nil {
		t.Fatal(err)
	}
	table := &dialogueTable{rows: map[string][3]*regexp.Regexp{}, unused: map[string]bool{}}
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 4 || !strings.HasPrefix(cells[0], "| `") {
			continue
		}
		var row [3]*regexp.Regexp
		for i := range row {
			quoted := regexp.QuoteMeta(strings.Trim(strings.TrimPrefix(cells[i], "| "), "`"))
			row[i] = regexp.MustCompile("^(?:" + strings.ReplaceAll(quoted, "…", ".*") + ")$")
		}
		table.rows[line], table.unused[line] = row, true
	}
	return table
}

func (c *dialogueTable) covers(d dialogueDifference) bool {
	found := false
	for line, row := range c.rows {
		if row[0].MatchString(d.where) && row[1].MatchString(d.theirs) && row[2].MatchString(d.ours) {
			delete(c.unused, line)
			found = true
		}
	}
	return found
}

func TestCanonicalLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, want string }{
		{`* 3 FETCH (UID 4 FLAGS (\Seen \Recent b a))`, `3 FETCH (FLAGS (\Seen a b) UID 4)`},
		{"* 1 FETCH (BODY[HEADER.FIELDS (A B)] {3}\r\na)\" MODSEQ (77))", `1 FETCH (BODY[HEADER.FIELDS (A B)] "a)\"" MODSEQ n)`},
		{`* LIST (\b \A) "/" "INBOX"`, `LIST (\A \b) / INBOX`},
		{`* OK [UIDVALIDITY 12345] fine`, `OK [UIDVALIDITY n]`},
		{`OK [COPYUID 12345 1:2 3:4] Done`, `OK [COPYUID n 1:2 3:4]`},
		{`* OK Still here`, ``},
		{`NO [TRYCREATE] none`, `NO [TRYCREATE]`},
		{`BAD no ) here`, `BAD`},
		{`OK [MAILBOXID (F1)] done`, `OK`},
		{`* ESEARCH (TAG "t1") UID MIN 1 COUNT 3`, `ESEARCH UID COUNT 3 MIN 1`},
		{`* SEARCH 1 2`, `SEARCH 1 2`},
	} {
		if got := canonicalLine(tt.line); got != tt.want {
			t.Errorf("%q is %q, want %q", tt.line, got, tt.want)
		}
	}
	if d, differs := compareAnswers("x", []string{"a", "b", "OK"}, []string{"b", "OK"}); !differs || d.theirs != "a" || d.ours != "-" {
		t.Errorf("difference: %+v", d)
	}
	if fmt.Sprint(onlyIn([]string{"a", "a"}, []string{"a"})) != "a" {
		t.Error("what is told twice counts twice")
	}
}

package imapd

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// plainWords is how operators write a search program at a shell, beside all
// that clients may write: ages in the place of dates, sizes with a unit, the keys
// MAILBOX and MAILBOXID, and where a key is expected a quoted string, which is a program.
type plainWords struct {
	now time.Time
	// names are those of MAILBOX keys without wildcards.
	names []string
}

// joinProgram makes one program of words. One that IMAP would not take as it is
// gets quotes, so that every word is one key, one value, or a whole program.
func joinProgram(words []string) (string, error) {
	var b strings.Builder
	for _, word := range words {
		if !utf8.ValidString(word) || strings.ContainsAny(word, "\r\n\x00") {
			return "", syntax("a word of the search is not one line of UTF-8")
		}
		if b.Len() > 0 && word != ")" && !strings.HasSuffix(b.String(), "(") {
			b.WriteByte(' ')
		}
		if word == "(" || word == ")" || !mustQuote(word) {
			b.WriteString(word)
		} else {
			b.Write(appendQuoted(nil, word))
		}
	}
	return b.String(), nil
}

func mustQuote(word string) bool {
	return word == "" || strings.Trim(word, "0123456789:,*") != "" &&
		strings.ContainsFunc(word, func(r rune) bool { return r < utf8.RuneSelf && !isAstringChar(byte(r)) })
}

// squeeze writes one blank where there are more, and none inside of
// parentheses, but for what is quoted.
func squeeze(program string) string {
	var b strings.Builder
	quoted, blank := false, false
	for i := 0; i < len(program); i++ {
		c := program[i]
		if !quoted && (c == ' ' || c == '\t') {
			blank = true
			continue
		}
		if blank && b.Len() > 0 && c != ')' && !strings.HasSuffix(b.String(), "(") {
			b.WriteByte(' ')
		}
		blank = false
		b.WriteByte(c)
		switch {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(program):
			i++
			b.WriteByte(program[i])
		}
	}
	return b.String()
}

// plainKey reads a program in quotes.
func (p *searchParser) plainKey() (k searchKey, err error) {
	if p.peek() == '$' {
		return k, syntax("$ is what a session saved, and there is none")
	}
	if p.depth++; p.depth > maxSearchDepth {
		return k, syntax("search is nested too deeply")
	}
	defer func() { p.depth-- }()
	program, err := p.quoted()
	if err != nil {
		return k, err
	}
	outer := p.parser
	defer func() { p.parser = outer }()
	p.parser = &parser{b: []byte(squeeze(program))}
	if k, err = p.all(); err != nil {
		return k, err
	}
	return k, p.end()
}

// mailboxKey reads MAILBOX with a name or a pattern of LIST.
func (p *searchParser) mailboxKey() (k searchKey, err error) {
	if err = p.sp(); err != nil {
		return k, err
	}
	var name string
	if p.peek() == '"' {
		name, err = p.quoted()
	} else if name = string(p.class(classAstring | classList)); name == "" {
		err = syntax("expected the name of a mailbox")
	}
	if err != nil {
		return k, err
	}
	if name == "" {
		return k, syntax("expected the name of a mailbox")
	}
	if !strings.ContainsAny(name, "*%") {
		p.plain.names = append(p.plain.names, canonicalName(name))
	}
	return searchKey{op: searchMailbox, word: string(newPattern("", name))}, nil
}

// mailboxIDKey reads MAILBOXID with an identifier, as search prints it.
func (p *searchParser) mailboxIDKey() (k searchKey, err error) {
	if err = p.sp(); err != nil {
		return k, err
	}
	text, err := p.astring()
	if err != nil {
		return k, err
	}
	n, err := hex.Decode(k.id[:], []byte(strings.TrimPrefix(text[:min(len(text), 2*len(k.id)+1)], string(mailboxPrefix))))
	if k.op = searchMailbox; err != nil || n != len(k.id) || len(text) > 2*len(k.id)+1 {
		return k, syntax("not an identifier of a mailbox")
	}
	return k, nil
}

// octets reads a size.
func (p *searchParser) octets() (uint64, error) {
	if p.plain == nil {
		return p.number64()
	}
	word, err := p.atom()
	if err != nil {
		return 0, err
	}
	digits := strings.TrimRight(strings.ToUpper(word), "KMGTIB")
	n, err := strconv.ParseUint(digits, 10, 63)
	shift := uint(0)
	switch unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(word)[len(digits):], "B"), "I"); unit {
	case "":
	case "K":
		shift = 10
	case "M":
		shift = 20
	case "G":
		shift = 30
	case "T":
		shift = 40
	default:
		err = strconv.ErrSyntax
	}
	if err != nil || n<<shift>>shift != n {
		return 0, syntax("a size is a number such as 5000, 64K or 10M, not " + word)
	}
	return n << shift, nil
}

// plainAge reads the interval of OLDER and YOUNGER.
func (p *searchParser) plainAge(word string) (k searchKey, err error) {
	text, err := p.astring()
	if err != nil {
		return k, err
	}
	k.op = searchYounger
	if word == "OLDER" {
		k.op = searchOlder
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil && n > 0 {
		k.seconds = int64(n)
		return k, nil
	}
	at, ok := before(p.plain.now, text)
	if k.seconds = p.plain.now.Unix() - at.Unix(); !ok || k.seconds <= 0 {
		return k, syntax("an age is seconds, or such as 12hours, 2weeks or 6months, not " + text)
	}
	return k, nil
}

// plainDate reads the date of a key: a day as IMAP or ISO 8601 writes it, today
// or yesterday (days are those of UTC, as for clients), an instant of RFC 3339,
// or how long ago it is.
func (p *searchParser) plainDate(k searchKey) (searchKey, error) {
	if err := p.sp(); err != nil {
		return k, err
	}
	text, err := p.astring()
	if err != nil {
		return k, err
	}
	now := p.plain.now
	switch strings.ToLower(text) {
	case "today":
		k.day = dayOf(now.Unix())
		return k, nil
	case "yesterday":
		k.day = dayOf(now.Unix()) - 1
		return k, nil
	}
	for _, layout := range []string{dateLayout, time.DateOnly} {
		if day, err := time.Parse(layout, text); err == nil && day.Year() > 0 {
			k.day = dayOf(day.Unix())
			return k, nil
		}
	}
	at, err := time.Parse(time.RFC3339, strings.ToUpper(text))
	if err != nil {
		var ok bool
		if at, ok = before(now, text); !ok {
			return k, syntax("a date is such as 1-Feb-2026, 2026-02-01, yesterday, 2weeks or 2026-02-01T12:00:00Z, not " + text)
		}
	}
	return k.atInstant(now, at), nil
}

// atInstant makes of a key for a day one for an instant, where there is such.
func (k searchKey) atInstant(now, at time.Time) searchKey {
	k.seconds = now.Unix() - at.Unix() + 1 // up to the second before
	switch k.op {
	case searchBefore:
		k.op = searchOlder
	case searchSince:
		k.op = searchYounger
	case searchSavedBefore:
		k.op = searchSavedOlder
	case searchSavedSince:
		k.op = searchSavedYounger
	default: // of sending only the day is known
		k.seconds, k.day = 0, dayOf(at.Unix())
	}
	return k
}

// ageUnits are seconds, and days and months, which have no fixed length.
var ageUnits = map[string]struct{ seconds, days, months int }{
	"s": {seconds: 1}, "sec": {seconds: 1}, "second": {seconds: 1},
	"m": {seconds: 60}, "min": {seconds: 60}, "minute": {seconds: 60},
	"h": {seconds: 3600}, "hour": {seconds: 3600},
	"d": {days: 1}, "day": {days: 1}, "w": {days: 7}, "week": {days: 7},
	"mo": {months: 1}, "month": {months: 1}, "y": {months: 12}, "year": {months: 12},
}

// before is the instant so long before now: numbers and units, "ago" behind
// them if one likes.
func before(now time.Time, text string) (time.Time, bool) {
	text = strings.ToLower(strings.ReplaceAll(text, " ", ""))
	text = strings.TrimSuffix(text, "ago")
	at := now.UTC()
	if text == "" {
		return at, false
	}
	for text != "" {
		digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
		letters := digits
		for letters < len(text) && text[letters] >= 'a' && text[letters] <= 'z' {
			letters++
		}
		n, err := strconv.Atoi(text[:digits])
		name := text[digits:letters]
		unit, known := ageUnits[name]
		if !known {
			unit, known = ageUnits[strings.TrimSuffix(name, "s")]
		}
		if err != nil || !known || n > 1_000_000 {
			return at, false
		}
		at = at.AddDate(0, -n*unit.months, -n*unit.days).Add(-time.Duration(n*unit.seconds) * time.Second)
		text = text[letters:]
	}
	return at, at.Year() > 0
}

package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// action is the right-hand side of an access table's line (access(5)).
type action struct {
	verdict mail.Action
	reason  status.Reason
	code    int    // 4NN or 5NN given by the table; 0 takes the reason's
	dsn     [3]int // given by the table; zero takes the reason's
	text    string // "" takes the default
	log     bool   // WARN and INFO
	header  string // PREPEND
	nested  []item // restriction names
}

// compiler turns restriction names of a table into items.
type compiler func(pos Pos, names []string) ([]item, *Mistake)

// actionWords are the actions that have a name. Those of codes and those that
// are restriction names come after them.
var actionWords = map[string]action{
	"OK":              {verdict: mail.Permit},
	"RELAY":           {verdict: mail.Permit},
	"DUNNO":           {},
	"REJECT":          {verdict: mail.Reject, reason: status.AccessDenied, text: "Access denied"},
	"DEFER":           {verdict: mail.Reject, reason: status.PolicyDefer, text: "Service unavailable"},
	"DEFER_IF_PERMIT": {verdict: mail.DeferIfPermit, reason: status.PolicyDefer, text: "Service unavailable"},
	"DEFER_IF_REJECT": {verdict: mail.DeferIfReject, reason: status.PolicyDefer, text: "Service unavailable"},
	"HOLD":            {verdict: mail.Hold, text: "triggers HOLD action"},
	"DISCARD":         {verdict: mail.Discard, text: "triggers DISCARD action"},
	"WARN":            {log: true, text: "triggers WARN action"},
	"INFO":            {log: true, text: "triggers INFO action"},
}

// notHere are actions of Postfix that tables cannot ask for, and what to do
// instead.
var notHere = map[string]string{
	"FILTER":   "route the recipients in the delivery configuration",
	"REDIRECT": "use an alias in the directory",
	"BCC":      "use an alias in the directory",
	"HANGUP":   "use 521",
}

func parseAction(e entry, compile compiler) (*action, *Mistake) {
	word, rest := firstWord(e.value)
	upper := strings.ToUpper(word)
	if a, ok := actionWords[upper]; ok {
		if rest != "" && a.verdict != mail.Permit && upper != "DUNNO" {
			a.setText(rest)
		}
		return &a, nil
	}
	switch {
	case word == "":
		return nil, &Mistake{e.pos, fmt.Sprintf("key %q has no action", e.key), "write an action after it, such as OK or REJECT"}
	case upper == "PREPEND":
		return parsePrepend(e, rest)
	case notHere[upper] != "":
		return nil, &Mistake{e.pos, upper + " is not an action of access tables here", notHere[upper]}
	case isDigits(word):
		return parseCode(e, word, rest)
	}
	items, mistake := compile(e.pos, strings.FieldsFunc(e.value, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }))
	if mistake != nil {
		return nil, mistake
	}
	return &action{nested: items}, nil
}

// parseCode reads "4NN text" and "5NN text", with or without an enhanced
// code. Any other number alone permits, as relay tables made by programs hold.
func parseCode(e entry, word, rest string) (*action, *Mistake) {
	code, err := strconv.Atoi(word)
	if len(word) == 3 && (word[0] == '4' || word[0] == '5') && err == nil {
		a := &action{verdict: mail.Reject, reason: status.PolicyReject, code: code, text: "Access denied"}
		if code < 500 {
			a.reason = status.PolicyDefer
		}
		a.dsn = [3]int{code / 100, 7, 1}
		if rest != "" {
			a.setText(rest)
		}
		return a, nil
	}
	if rest != "" {
		return nil, &Mistake{e.pos, fmt.Sprintf("%s is not a reply code that refuses", word), "use 4NN or 5NN"}
	}
	return &action{verdict: mail.Permit}, nil
}

func parsePrepend(e entry, header string) (*action, *Mistake) {
	name, _, ok := strings.Cut(header, ":")
	valid := ok && name != "" && strings.IndexFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }) < 0
	if !valid {
		return nil, &Mistake{e.pos, fmt.Sprintf("PREPEND needs a header field, not %q", header), `write "PREPEND Name: value"`}
	}
	return &action{header: header, text: "prepends a header"}, nil
}

// setText takes a text that may begin with an enhanced status code.
func (a *action) setText(text string) {
	first, rest := firstWord(text)
	if dsn, ok := parseEnhanced(first); ok && (a.verdict == mail.Reject || a.verdict >= mail.DeferIfPermit && a.verdict <= mail.DeferIfReject) {
		a.dsn = dsn
		text = rest
	}
	if text != "" {
		a.text = text
	}
}

func parseEnhanced(s string) (dsn [3]int, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || (parts[0] != "2" && parts[0] != "4" && parts[0] != "5") {
		return dsn, false
	}
	for i, part := range parts {
		if !isDigits(part) || len(part) > 3 {
			return dsn, false
		}
		dsn[i], _ = strconv.Atoi(part) // three digits
	}
	return dsn, true
}

// firstWord cuts s after its first word.
func firstWord(s string) (word, rest string) {
	end := strings.IndexAny(s, " \t")
	if end < 0 {
		return s, ""
	}
	return s[:end], strings.TrimSpace(s[end:])
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// answer returns what the action makes of a transaction.
func (a *action) answer(about subject, tx *mail.Transaction) mail.Verdict {
	switch a.verdict {
	case mail.Permit:
		return permitted(true)
	case mail.Dunno:
		v := mail.Verdict{}
		if a.log {
			v.Detail = about.what(tx) + ": " + a.text
		}
		if a.header != "" {
			v.Edits = []mail.Edit{{PrependHeader: a.header}}
		}
		return v
	case mail.Hold, mail.Discard:
		return mail.Verdict{Action: a.verdict, Detail: about.what(tx) + ": " + a.text}
	}
	v := about.refuse(tx, a.verdict, a.reason, a.text)
	if a.code != 0 {
		v.Reply.Code = a.code
	}
	if a.dsn != [3]int{} {
		v.Reply.Enhanced = about.correct(a.dsn)
	}
	return v
}

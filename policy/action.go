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
	code    int        // 4NN or 5NN given by the table; 0 takes the reason's
	dsn     [3]int     // given by the table; zero takes the reason's
	text    string     // "" takes the default
	log     bool       // WARN and INFO
	info    bool       // INFO
	edit    *mail.Edit // PREPEND, FILTER, REDIRECT, BCC
	nested  []item     // restriction names
}

// actionWords are the actions that have a name. Those of codes and those that
// are restriction names come after them.
var actionWords = map[string]action{
	"OK":              {verdict: mail.Permit},
	"RELAY":           {verdict: mail.Permit},
	"DUNNO":           {},
	"REJECT":          {verdict: mail.Reject, reason: status.AccessDenied, text: "Access denied"},
	"DEFER":           {verdict: mail.Reject, reason: status.PolicyDefer, text: "Access denied"},
	"DEFER_IF_PERMIT": {verdict: mail.DeferIfPermit, reason: status.PolicyDefer, text: "Service unavailable"},
	"DEFER_IF_REJECT": {verdict: mail.DeferIfReject, reason: status.PolicyDefer, text: "Service unavailable"},
	"HOLD":            {verdict: mail.Hold, text: "triggers HOLD action"},
	"DISCARD":         {verdict: mail.Discard, text: "triggers DISCARD action"},
	"WARN":            {log: true, text: "triggers WARN action"},
	"HANGUP":          {verdict: mail.Reject, reason: status.HungUp},
	"INFO":            {log: true, info: true, text: "triggers INFO action"},
}

const actionPrepend = "PREPEND"

// isAction reports whether an access table means something else by a word than
// a restriction.
func isAction(word string) bool {
	word = strings.ToUpper(word)
	return actionWords[word].verdict != 0 || envelopeActions[word] != nil || word == actionPrepend || word == "DUNNO" ||
		word == "WARN" || word == "INFO" || isDigits(word)
}

// reader reads the actions of a table.
type reader struct {
	builder *builder
	at      scope
}

// action reads an action; pos is where it stands, as far as it is known.
func (r reader) action(pos Pos, text string) (*action, *Mistake) {
	word, rest := firstWord(text)
	upper := strings.ToUpper(word)
	if a, ok := actionWords[upper]; ok {
		if rest != "" && a.verdict != mail.Permit && upper != "DUNNO" {
			a.setText(rest)
		}
		return &a, nil
	}
	switch {
	case word == "":
		return nil, &Mistake{pos, "the key has no action", "write an action after it, such as OK or REJECT"}
	case upper == actionPrepend:
		return parsePrepend(pos, rest)
	case envelopeActions[upper] != nil:
		return parseEnvelopeAction(r.builder, pos, upper, rest)
	case isDigits(word):
		return parseCode(pos, word, rest)
	}
	items, mistake := r.restrictions(pos, strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }))
	if mistake != nil {
		return nil, mistake
	}
	return &action{nested: items}, nil
}

// parseCode reads "4NN text" and "5NN text", with or without an enhanced
// code. Any other number alone permits, as relay tables made by programs hold.
func parseCode(pos Pos, word, rest string) (*action, *Mistake) {
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
		return nil, &Mistake{pos, fmt.Sprintf("%s is not a reply code that refuses", word), "use 4NN or 5NN"}
	}
	return &action{verdict: mail.Permit}, nil
}

func parsePrepend(pos Pos, header string) (*action, *Mistake) {
	name, _, ok := strings.Cut(header, ":")
	valid := ok && name != "" && strings.IndexFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }) < 0
	if !valid {
		return nil, &Mistake{pos, fmt.Sprintf("PREPEND needs a header field, not %q", header), `write "PREPEND Name: value"`}
	}
	return &action{edit: &mail.Edit{PrependHeader: oneLine(header)}}, nil
}

// oneLine keeps what a client said, and a pattern or a service repeats, from
// beginning lines of its own.
func oneLine(header string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c == 0x7f {
			return ' '
		}
		return c
	}, header)
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

// detail tells what the action did, as Postfix's log does.
func (a *action) detail(about subject, tx *mail.Transaction) string {
	return strings.TrimRight(about.what(tx)+": "+subjectClass[about]+" "+a.text, " ")
}

// answer returns what the action makes of a transaction.
func (a *action) answer(about subject, tx *mail.Transaction) mail.Verdict {
	switch a.verdict {
	case mail.Permit:
		return permitted(true)
	case mail.Dunno:
		v := mail.Verdict{Info: a.info}
		if a.text != "" {
			v.Detail = a.detail(about, tx)
		}
		if a.edit != nil {
			v.Edits = []mail.Edit{*a.edit}
		}
		return v
	case mail.Hold, mail.Discard:
		return mail.Verdict{Action: a.verdict, Detail: a.detail(about, tx)}
	}
	if a.reason == status.HungUp {
		return mail.Verdict{Action: a.verdict, Reason: a.reason, Detail: a.detail(about, tx)}
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

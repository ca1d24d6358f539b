package checks

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy/content"
)

// verb is what an action does.
type verb uint8

const (
	dunno verb = iota
	ignore
	strip
	replace
	prepend
	warn
	info
	hold
	discard
	reject
	filter
	redirect
	bcc
	pass
)

var verbs = map[string]verb{
	"DUNNO": dunno, "OK": dunno, "IGNORE": ignore, "STRIP": strip, "REPLACE": replace, "PREPEND": prepend, "WARN": warn, "INFO": info,
	"HOLD": hold, "DISCARD": discard, "REJECT": reject, "FILTER": filter, "REDIRECT": redirect, "BCC": bcc, "PASS": pass,
}

var verbNames = func() map[verb]string {
	names := make(map[verb]string)
	for name, v := range verbs {
		if name != "OK" {
			names[v] = name
		}
	}
	return names
}()

// action is the right-hand side of a table of checks (header_checks(5)).
type action struct {
	verb verb
	// text is the rest: for the log, the client, or the message.
	text string
	// enhanced is the status code REJECT's text began with; zero for none.
	enhanced [3]int
	route    mail.Route
	address  mail.Address
}

// parse reads an action of the stage's table.
func (s *Stage) parse(text string) (action, error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	if at := strings.IndexByte(word, '\t'); at >= 0 {
		word, rest = word[:at], word[at:]+" "+rest
	}
	v, known := verbs[strings.ToUpper(word)]
	if !known {
		return action{}, fmt.Errorf("%q is no action; there are REJECT, DISCARD, HOLD, FILTER, REDIRECT, BCC, IGNORE, STRIP, REPLACE, PREPEND, WARN, INFO, PASS and DUNNO", word)
	}
	a := action{verb: v, text: strings.TrimLeft(rest, " \t")}
	var err error
	switch v {
	case reject:
		err = a.reply()
	case replace, prepend:
		err = a.content(s.body)
	case filter:
		if s.routes == nil {
			return a, errors.New("FILTER: no mail goes out from here")
		}
		a.route, err = s.routes(a.text)
	case redirect, bcc:
		if a.address, err = mail.ParseAddress(a.text); err != nil {
			err = fmt.Errorf("%s needs an address: %w", word, err)
		}
	}
	return a, err
}

// content checks what is to stand in the message.
func (a *action) content(body bool) error {
	name := verbNames[a.verb]
	switch {
	case a.text == "":
		return errors.New(name + " needs a text")
	case body:
		return nil
	}
	if _, err := content.Clean(mail.Field(a.text)); err != nil {
		return fmt.Errorf("%s in a table for headers needs a field, as in %q: %w", name, name+" X-Name: value", err)
	}
	return nil
}

// reply takes off the enhanced status code that REJECT's text may begin with.
func (a *action) reply() error {
	word, rest, _ := strings.Cut(a.text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return nil
	}
	var code [3]int
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || n > 999 || part[0] == '+' {
			return nil
		}
		code[i] = n
	}
	if code[0] != 4 && code[0] != 5 {
		return fmt.Errorf("REJECT %s: the status code of a refusal begins with 4 or 5", word)
	}
	a.enhanced, a.text = code, strings.TrimLeft(rest, " ")
	return nil
}

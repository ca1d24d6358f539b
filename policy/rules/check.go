package rules

import (
	"errors"
	"fmt"
	"strings"
)

// maxText bounds the texts that rules put into replies and messages.
const maxText = 4 << 10

// Check tells what is wrong with a rule.
func (r *Rule) Check() error {
	a := &r.Then
	var ends []string
	for name, given := range map[string]bool{"reject": a.Reject != "", "defer": a.Defer != "", "hold": a.Hold != "", "discard": a.Discard} {
		if given {
			ends = append(ends, name)
		}
	}
	switch {
	case len(ends) > 1:
		return errors.New("reject, defer, hold and discard exclude each other")
	case a.refuses() && (a.Redirect != nil || len(a.CopyTo) > 0 || a.Route != nil || a.RequireTLS || a.onMessage()):
		return errors.New("a message that is refused or thrown away is not changed or sent on")
	case a.Redirect != nil && a.Route != nil:
		return errors.New("redirect and deliver exclude each other")
	case len(ends) == 0 && a.Redirect == nil && len(a.CopyTo) == 0 && a.Route == nil && !a.RequireTLS && !a.onMessage() && a.Log == "" && !a.Stop:
		return errors.New("then says nothing: give it reject, defer, hold, discard, redirect, copy_to, deliver, require_tls, tag, headers, strip, banner, log or stop")
	}
	for name, text := range map[string]string{"reject": a.Reject, "defer": a.Defer, "hold": a.Hold, "tag": a.Tag, "log": a.Log} {
		if strings.ContainsAny(text, "\r\n\x00") || len(text) > maxText {
			return fmt.Errorf("%s is one line of at most %d octets", name, maxText)
		}
	}
	if len(a.Banner) > maxText {
		return fmt.Errorf("banner has more than %d octets", maxText)
	}
	for _, f := range a.Headers {
		name, _, ok := strings.Cut(string(f), ":")
		if !ok || strings.ContainsAny(string(f), "\r\n\x00") || len(f) > maxText {
			return fmt.Errorf("%q is no header field; write \"Name: value\"", string(f))
		}
		if err := checkFieldName(name); err != nil {
			return err
		}
	}
	for _, name := range a.Strip {
		if err := checkFieldName(name); err != nil {
			return err
		}
		if strings.EqualFold(name, "Received") {
			return errors.New("the field Received shows loops and cannot be taken away")
		}
	}
	return nil
}

// checkFieldName holds to RFC 5322 section 2.2.
func checkFieldName(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
		return fmt.Errorf("%q is no name of a header field", name)
	}
	return nil
}

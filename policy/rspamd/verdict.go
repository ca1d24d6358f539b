package rspamd

import (
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// The texts of refusals for which rspamd has none.
const (
	textReject   = "Spam message rejected"
	textGreylist = "Try again later"
	textSoft     = "Try again later"
)

// verdict makes of an answer what it means for the message.
func (s *Stage) verdict(a *answer, message mail.Message) (mail.Verdict, error) {
	v := mail.Verdict{Findings: []mail.Finding{a.finding()}}
	action := a.Action
	if a.Milter.NoAction {
		action = "no action"
	}
	spam := false
	switch action {
	case "reject":
		switch {
		case a.Milter.Reject == "discard":
			v.Action = mail.Discard
		case a.Milter.Reject == "quarantine", s.cfg.HoldRejected:
			v.Action = mail.Hold
			spam = true
		default:
			return refusal(v, status.FilterRejected, a.text(textReject), a), nil
		}
	case "soft reject":
		return refusal(v, status.FilterDeferred, a.text(textSoft), a), nil
	case "greylist":
		if !s.cfg.IgnoreGreylist {
			return refusal(v, status.FilterDeferred, a.text(textGreylist), a), nil
		}
	case "discard":
		v.Action = mail.Discard
	case "quarantine":
		v.Action = mail.Hold
	case "add header", "rewrite subject":
		spam = true
	}
	if v.Action != mail.Dunno {
		v.Detail = a.describe()
	}
	if v.Action == mail.Discard {
		return v, nil
	}
	c := newChanges(message)
	s.mark(c, a, spam)
	if action == "rewrite subject" {
		c.subject(a.Subject)
	}
	err := c.milter(a)
	v.Edits = c.list
	return v, err
}

func refusal(v mail.Verdict, reason status.Reason, text string, a *answer) mail.Verdict {
	reply := reason.Reply()
	reply.Text = text
	v.Action, v.Reason, v.Reply, v.Detail = mail.Reject, reason, &reply, a.describe()
	return v
}

// text is what rspamd wants the client to be told.
func (a *answer) text(otherwise string) string {
	text := a.Messages["smtp_message"]
	if text == "" {
		return otherwise
	}
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	return strings.ToValidUTF8(text[:min(len(text), 400)], "")
}

// describe is the answer in one line, for log and audit.
func (a *answer) describe() string {
	return token(strings.ReplaceAll(a.Action, " ", "_")) + ", score " + number(a.Score) + " of " + number(a.Required) + ": " + a.names()
}

func (a *answer) finding() mail.Finding {
	result := "pass"
	switch a.Action {
	case "no action", "greylist":
	default:
		result = "fail"
	}
	return mail.Finding{
		Method: "x-rspamd", Result: result, Reason: "score " + number(a.Score) + " of " + number(a.Required),
		Props: []mail.Property{
			{Type: "policy", Name: "action", Value: token(strings.ReplaceAll(a.Action, " ", "-"))},
			{Type: "policy", Name: "score", Value: number(a.Score)},
			{Type: "policy", Name: "symbols", Value: strings.Join(a.symbolNames(), ",")},
		},
	}
}

func (a *answer) symbolNames() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.Symbols)) {
		if names = append(names, token(name)); len(names) == 100 {
			break
		}
	}
	return names
}

// markNames are the fields this step writes; those that a sender wrote go.
var markNames = []string{"X-Spam", "X-Spam-Action", "X-Spam-Score", "X-Spam-Symbols", unchecked}

// unchecked marks what went on without having been looked at.
const unchecked = "X-Spam-Unchecked"

// mark puts the X-Spam fields on top.
func (s *Stage) mark(c *changes, a *answer, spam bool) {
	if s.cfg.Headers == HeadersNever {
		return
	}
	for _, name := range markNames {
		c.remove(name, 0)
	}
	if s.cfg.Headers == HeadersAlways {
		c.insert(0, "X-Spam-Symbols", a.names())
		c.insert(0, "X-Spam-Score", number(a.Score)+" / "+number(a.Required))
		c.insert(0, "X-Spam-Action", token(strings.ReplaceAll(a.Action, " ", "-")))
	}
	if spam {
		name := a.Milter.SpamHeader
		if !validName(name) {
			name = "X-Spam"
		}
		c.insert(0, name, "Yes")
	}
}

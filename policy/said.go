package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// said is what the operator has a restriction say in the place of its own
// words: Postfix's *_reject_code parameters, one restriction at a time. The
// zero value changes nothing.
type said struct {
	code int
	text string
}

// replace puts the operator's words into a refusal.
func (s said) replace(about subject, tx *mail.Transaction, v *mail.Verdict) {
	// A code of the operator's is for what a client does. What the DNS does not
	// tell stays transient, and a null MX has a code of its own, as in Postfix.
	if v.Reason == status.NameServiceDown || v.Reason == status.NullMX || v.Reason == status.SenderNullMX {
		s.code = 0
	}
	refuses := v.Action == mail.Reject || v.Action == mail.DeferIfPermit || v.Action == mail.DeferIfReject
	if s == (said{}) || !refuses {
		return
	}
	reply := v.WireReply()
	if s.code != 0 {
		reply.Code = s.code
	}
	if s.text != "" {
		reply.Text = about.what(tx) + ": " + subjectClass[about] + " rejected: " + s.text
	}
	v.Reply = &reply
}

// saying are the attributes of every restriction of ours that refuses.
var saying = []string{"code", "text"}

// attributes lists what a restriction takes.
func (r restriction) attributes(name string) []string {
	if strings.HasPrefix(name, "reject") || strings.HasPrefix(name, "defer") {
		return append(slices.Clone(r.args), saying...)
	}
	return r.args
}

// said reads the attributes code and text.
func (b *builder) said(spec Spec) said {
	return said{code: b.code(spec, "code"), text: strings.Join(spec.Args["text"], " ")}
}

// code reads a reply code that refuses, or 0 where there is none.
func (b *builder) code(spec Spec, attribute string) int {
	values, given := spec.Args[attribute]
	if !given {
		return 0
	}
	text := strings.Join(values, " ")
	code, err := strconv.Atoi(text)
	if err != nil || code < 400 || code > 599 {
		b.mistake(spec.Pos, fmt.Sprintf("%s of %s is %q, not a reply code that refuses", attribute, spec.Name, text), "use 4NN or 5NN")
		return 0
	}
	return code
}

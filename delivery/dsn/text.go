package dsn

import (
	"bytes"
	"strings"
	"time"

	"github.com/postern-mail/postern/mail"
)

// wording returns the subject and the opening of the human part.
func (p *report) wording() (subject, opening string) {
	switch p.Kind {
	case mail.ReportDelayed:
		return "Delayed Mail (still being retried)",
			"Your message has not been delivered yet to the recipients below.\n" +
				"This is a warning only: you do not need to send it again.\n"
	case mail.ReportDelivered:
		return "Successful Mail Delivery Report",
			"Your message was delivered to the recipients below.\n"
	case mail.ReportRelayed:
		return "Successful Mail Delivery Report",
			"Your message was passed on for the recipients below, to a mail\n" +
				"system that may not report on its further way.\n"
	case mail.ReportExpanded:
		return "Successful Mail Delivery Report",
			"Your message reached the lists below and was passed on to their\n" +
				"members. There will be no report on the members.\n"
	default:
		return "Undelivered Mail Returned to Sender",
			"Your message could not be delivered to the recipients below, and\n" +
				"no further attempt will be made.\n"
	}
}

// explain composes the part that people read.
func (p *report) explain() []byte {
	var b bytes.Buffer
	_, opening := p.wording()
	put := func(s string) {
		b.WriteString(strings.ReplaceAll(s, "\n", "\r\n"))
	}
	put("This is the mail system at " + p.hostname + ".\n\n" + opening)
	if p.Kind == mail.ReportDelayed && !p.Until.IsZero() {
		put("Attempts go on until " + p.Until.Format(time.RFC1123Z) + ".\n")
	}
	for _, o := range p.Outcomes {
		put("\n")
		p.explainRecipient(put, o)
	}
	if p.Kind == mail.ReportFailed {
		put("\nIf the reason given does not tell you what to do, please forward\n" +
			"this report to your postmaster.\n")
	}
	switch {
	case p.original.octets == nil:
	case p.original.whole:
		put("\nYour message is attached.\n")
	default:
		put("\nThe header of your message is attached.\n")
	}
	return b.Bytes()
}

func (p *report) explainRecipient(put func(string), o mail.Outcome) {
	put(wrap("  "+p.line(o.Recipient.Path()), "  "))
	rcpt := p.recipient(o.Recipient)
	if !rcpt.Accepted.IsNull() && rcpt.Accepted != o.Recipient {
		put(wrap("    (sent to "+p.line(rcpt.Accepted.Path())+")", "      "))
	}
	if p.Kind == mail.ReportExpanded || o.Reply.Code == 0 {
		return
	}
	who := "    reason: "
	if o.FromPeer {
		who = "    " + p.line(p.peer(o)) + " said: "
	}
	put(wrap(who+p.line(o.Reply.String()), "      "))
}

func (p *report) peer(o mail.Outcome) string {
	if o.RemoteMTA != "" {
		return o.RemoteMTA
	}
	if o.Remote != "" && !strings.HasPrefix(o.Remote, "/") {
		return o.Remote
	}
	return "the next mail system"
}

// maxWord is where even a word is broken.
const maxWord = 500

// wrap breaks s between words so that lines stay below 72 columns where the
// words allow; every further line begins with indent.
func wrap(s, indent string) string {
	var b strings.Builder
	b.WriteString(s[:len(s)-len(strings.TrimLeft(s, " "))])
	column := 0
	for word := range strings.FieldsSeq(s) {
		if column > 0 && column+1+len(word) > 72 {
			b.WriteString("\n" + indent)
			column = 0
		} else if column > 0 {
			b.WriteByte(' ')
		}
		for len(word) > maxWord {
			cut := foldAt(word, maxWord)
			b.WriteString(word[:cut] + "\n" + indent)
			word = word[cut:]
		}
		b.WriteString(word)
		column += 1 + len(word)
	}
	b.WriteByte('\n')
	return b.String()
}

package dsn

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/status"
)

// maxExplained is how many recipients the part for people lists; the
// machine's lists all.
const maxExplained = 100

// dateLayout is understood in every language.
const dateLayout = "2006-01-02 15:04:05 -0700"

// Sample is what people read of a report.
type Sample struct{ From, Subject, Text string }

// Preview returns what Compose would write on r for people, before its
// encoding, in the configured languages.
func (c *Composer) Preview(r mail.Report, now time.Time) Sample {
	p := &report{Composer: c, Report: r, to: r.Envelope.ReversePath, now: now}
	subject, from, text := p.explain()
	return Sample{From: from, Subject: subject, Text: string(text.content)}
}

// explain composes the part that people read, in one language after the other,
// and what stands above it in the first.
func (p *report) explain() (subject, from string, text part) {
	kind := kindOfReport[p.Kind]
	if p.Notice != mail.NoticeNone {
		kind = kindOfNotice[p.Notice]
	}
	text = part{mediaType: "text/plain; charset=utf-8", description: "Notification"}
	var sections, tags []string
	for _, l := range p.languages() {
		t, ok := p.texts.template(l, kind)
		tag := p.texts[l].tag
		if !ok {
			l, tag = fallback, fallback
		}
		if len(tags) == 0 {
			subject, from = plainLine(t.subject.fill(p.value(l))), t.from
		}
		if !slices.Contains(tags, tag) { // what two languages lack is said once
			tags = append(tags, tag)
			sections = append(sections, p.section(t, l))
		}
	}
	if p.Notice == mail.NoticeNone {
		text.language = strings.Join(tags, ", ")
	}
	text.content = []byte(strings.ReplaceAll(strings.Join(sections, "\n"+strings.Repeat("-", 68)+"\n\n"), "\n", "\r\n"))
	return subject, from, text
}

// section fills a template. A line that held nothing but what turned out empty
// goes, and so does an empty one after it.
func (p *report) section(t template, language string) string {
	var lines []string
	value := p.value(language)
	for _, line := range t.lines {
		s := strings.TrimRight(line.fill(value), " \n")
		empty := len(lines) == 0 || lines[len(lines)-1] == ""
		if s == "" && (len(line) > 0 || empty) {
			continue
		}
		lines = append(lines, s)
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// value returns what placeholders stand for in a language.
func (p *report) value(language string) func(string) string {
	return func(placeholder string) string {
		switch placeholder {
		case "hostname":
			return p.cfg.Hostname
		case "queue_id":
			return plainLine(string(p.QueueID))
		case "sender":
			return plainLine(p.Envelope.ReversePath.Path())
		case "arrived":
			return p.Arrived.Format(dateLayout)
		case "until":
			return p.Until.Format(dateLayout)
		case "recipients":
			return p.explainRecipients(language)
		case "returned":
			return p.returned(language)
		case "detail":
			return wrap(plain(p.Detail), "")
		case "left_out":
			if p.LeftOut > 0 {
				return fmt.Sprintf("%d more notices of this class (%s) were left out since the one before.", p.LeftOut, p.Notice)
			}
		}
		return ""
	}
}

// returned says what is attached.
func (p *report) returned(language string) string {
	switch {
	case p.original.octets == nil:
		return ""
	case p.original.whole:
		return p.texts.word(language, "returned-message").fill(nil)
	default:
		return p.texts.word(language, "returned-header").fill(nil)
	}
}

func (p *report) explainRecipients(language string) string {
	var b strings.Builder
	told := make(map[string]bool)
	for i, o := range p.Outcomes {
		if i == maxExplained {
			count := func(string) string { return strconv.Itoa(len(p.Outcomes) - i) }
			b.WriteString("\n" + wrap("  "+p.texts.word(language, "more").fill(count), "  "))
			break
		}
		s := p.explainRecipient(language, o)
		if told[s] {
			continue
		}
		told[s] = true
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(s)
	}
	return b.String()
}

func (p *report) explainRecipient(language string, o mail.Outcome) string {
	rcpt := p.recipient(o.Recipient)
	word := func(name string, value string) string {
		return p.texts.word(language, name).fill(func(string) string { return value })
	}
	s := wrap("  "+plainLine(p.final(rcpt).Path()), "  ")
	if !rcpt.Accepted.IsNull() && rcpt.Accepted != o.Recipient && !p.conceals(rcpt) {
		s += wrap("    "+word("sent-to", plainLine(rcpt.Accepted.Path())), "      ")
	}
	if o.Reply.Code == 0 {
		return s
	}
	if p.Kind == mail.ReportFailed || p.Kind == mail.ReportDelayed {
		if advice := p.texts.advice(language, p.adviceCode(o.Reply)); advice != "" {
			s += wrap("    "+advice, "    ")
		}
	}
	who := word("reason", "")
	if o.FromPeer {
		who = word("said", p.peer(language, rcpt, o))
	}
	return s + wrap("    "+who+" "+plainLine(p.reply(rcpt, o.Reply).String()), "      ")
}

// adviceCode is the status code that tells what to do. That the attempts ended
// is what a reader has to know first of a failure that was a transient one.
func (p *report) adviceCode(r status.Reply) string {
	code := p.status(r)
	if p.Kind == mail.ReportFailed && strings.HasPrefix(code, "4") && code != "4.2.2" {
		return status.DeliveryExpired.Reply().EnhancedString()
	}
	return code
}

func (p *report) peer(language string, r mail.Recipient, o mail.Outcome) string {
	switch {
	case p.conceals(r):
	case o.RemoteMTA != "":
		return plainLine(o.RemoteMTA)
	case o.Remote != "" && !strings.HasPrefix(o.Remote, "/"):
		return plainLine(o.Remote)
	}
	return p.texts.word(language, "next-system").fill(nil)
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
		width := utf8.RuneCountInString(word)
		if column > 0 && column+1+width > 72 {
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
		column += 1 + width
	}
	b.WriteByte('\n')
	return b.String()
}
